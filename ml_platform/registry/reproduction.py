"""Comparison of a rebuilt version with its manifest: training set, metrics, threshold and predictions.

The caller passes the function that rebuilds the version, because the registry does not know how to train a model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml_platform.data.canonical import value_digest
from ml_platform.errors import PlatformError
from ml_platform.registry.manifest import CodeInfo, HardwareInfo, Manifest


class ReproductionError(PlatformError):
    """Raised when a manifest contains no results to compare with, or other code cannot rebuild the version."""


@dataclass(frozen=True)
class RebuildResult:
    """Results of a rebuild; ``stored_training_set`` is the hash of the training set that is stored in the lake.

    ``device`` is the device of the rebuild's fit, named as in a manifest.
    """

    training_set: str
    stored_training_set: str
    metrics: Mapping[str, float]
    predictions: npt.NDArray[np.float64]
    threshold: float | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Comparison:
    """One compared item: its recorded value, its rebuilt value, and whether they are equal."""

    item: str
    recorded: str
    rebuilt: str
    equal: bool


@dataclass(frozen=True)
class Reproduction:
    """The comparisons, and the environment differences that may explain an inequality."""

    comparisons: list[Comparison]
    environment_differences: list[str]

    @property
    def equal(self) -> bool:
        """Return whether all items are equal."""
        return all(one.equal for one in self.comparisons)

    def lines(self) -> list[str]:
        """Return the report as text: one line per comparison, one per environment difference, and the conclusion."""
        lines = [
            f"equal      {one.item}: {one.recorded}"
            if one.equal
            else f"not equal  {one.item}: {one.recorded}, rebuilt {one.rebuilt}"
            for one in self.comparisons
        ]
        lines += [f"note       {note}" for note in self.environment_differences]
        return [
            *lines,
            "equal: the rebuild gives the recorded results." if self.equal else "not equal: see the lines above.",
        ]


def reproduce(
    manifest: Manifest,
    rebuild: Callable[[Manifest], RebuildResult],
    *,
    code: CodeInfo,
    lock: str | None,
    hardware: HardwareInfo,
    libraries: Mapping[str, str],
    relative_tolerance: float = 0.0,
) -> Reproduction:
    """Rebuild from ``manifest`` and compare training-set hash, metrics, threshold and predictions.

    ``code``, ``lock``, ``hardware`` and ``libraries`` are the current ones; a difference from the pinned ones is
    reported and not an error. Metrics and threshold are equal within ``relative_tolerance``, hashes only exactly.
    Raises :class:`ReproductionError` when the manifest contains no metrics or predictions, and when the rebuild fails
    with code that differs from the pinned code.
    """
    if not manifest.metrics or manifest.predictions is None:
        raise ReproductionError(
            f"Manifest of '{manifest.model}' {manifest.partition}",
            expected="metrics and the digest of the predictions, recorded at training",
            found=f"{len(manifest.metrics)} metrics, predictions {manifest.predictions or 'absent'}",
            fix="Choose a version that was registered with its results.",
        )
    rebuilt = _run_rebuild(manifest, rebuild, code)
    predictions = predictions_digest(rebuilt.predictions)
    return Reproduction(
        comparisons=[
            _compare_digests("training set", manifest.training_set, rebuilt.training_set),
            _compare_digests("training set as stored", manifest.training_set, rebuilt.stored_training_set),
            *_compare_metrics(manifest.metrics, rebuilt.metrics, relative_tolerance),
            *_compare_threshold(manifest, rebuilt, relative_tolerance),
            _compare_digests("predictions", manifest.predictions, predictions),
        ],
        environment_differences=_environment_differences(
            manifest, code, lock, hardware.model_copy(update={"device": rebuilt.device}), libraries
        ),
    )


def predictions_digest(predictions: npt.ArrayLike) -> str:
    """Return the digest of predictions in their order, as float64."""
    values = np.ascontiguousarray(np.asarray(predictions, dtype="<f8"))
    return value_digest([list(values.shape), values.tobytes().hex()])


def _run_rebuild(manifest: Manifest, rebuild: Callable[[Manifest], RebuildResult], code: CodeInfo) -> RebuildResult:
    try:
        return rebuild(manifest)
    except Exception as error:
        if manifest.code.sha256 == code.sha256:
            raise
        raise ReproductionError(
            f"Rebuild of '{manifest.model}' {manifest.partition}",
            expected=f"code that reads the inputs like the code of {_commit_text(manifest.code)}",
            found=f"{type(error).__name__}: {error} at {_commit_text(code)}",
            fix="Check out that commit and run the reproduction there.",
        ) from error


def _compare_digests(item: str, recorded: str, rebuilt: str) -> Comparison:
    return Comparison(item, recorded[:12], rebuilt[:12], recorded == rebuilt)


def _compare_metrics(recorded: Mapping[str, float], rebuilt: Mapping[str, float], tolerance: float) -> list[Comparison]:
    comparisons = []
    for name, value in recorded.items():
        rebuilt_value = rebuilt.get(name)
        equal = rebuilt_value is not None and abs(rebuilt_value - value) <= tolerance * abs(value)
        comparisons.append(
            Comparison(name, repr(value), "absent" if rebuilt_value is None else repr(rebuilt_value), equal)
        )
    return comparisons


def _compare_threshold(manifest: Manifest, rebuilt: RebuildResult, tolerance: float) -> list[Comparison]:
    # Manifests from before 0.2.0 and manifests of regressions contain no threshold.
    if manifest.threshold is None:
        return []
    recorded = {"threshold": float(manifest.threshold["value"])}
    return _compare_metrics(recorded, {} if rebuilt.threshold is None else {"threshold": rebuilt.threshold}, tolerance)


def _environment_differences(
    manifest: Manifest, code: CodeInfo, lock: str | None, hardware: HardwareInfo, libraries: Mapping[str, str]
) -> list[str]:
    notes = []
    if manifest.code.sha256 != code.sha256:
        notes.append(f"The code differs: trained at {_commit_text(manifest.code)}, now at {_commit_text(code)}.")
    if manifest.code.dirty:
        notes.append("The version was trained with uncommitted changes, which are in no commit.")
    if manifest.lock != lock:
        notes.append("The locked dependencies differ.")
    for name, pinned in manifest.libraries.items():
        if libraries.get(name) != pinned:
            notes.append(f"{name} differs: trained with {pinned}, now {libraries.get(name, 'absent')}.")
    if manifest.hardware.device != hardware.device:
        notes.append(f"The device differs: fitted on {manifest.hardware.device}, now on {hardware.device}.")
    recorded, current = ((each.machine, each.cpu_count) for each in (manifest.hardware, hardware))
    if recorded != current:
        # Floating-point sums depend on the number of threads.
        notes.append(
            f"The machine differs: trained on {recorded[0]} ({recorded[1]} cores), "
            f"now on {current[0]} ({current[1]} cores)."
        )
    return notes


def _commit_text(code: CodeInfo) -> str:
    return f"{code.commit[:12] if code.commit else 'no commit'}{' with changes' if code.dirty else ''}"
