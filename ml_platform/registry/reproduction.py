"""Whether a version can be made again: rebuilt from its manifest, are training set, metrics and predictions equal?

Apart from the rebuilding, which the caller passes in: the registry knows what was pinned, not how a model is trained.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml_platform.data.canonical import value_digest
from ml_platform.errors import PlatformError
from ml_platform.registry.manifest import CodeInfo, HardwareInfo, Manifest


class ReproductionError(PlatformError):
    """Raised when a manifest does not say what the rebuilt model should be compared with."""


@dataclass(frozen=True)
class RebuildResult:
    """What a rebuild from the pinned inputs gave; ``stored_training_set`` is the hash of the one that was kept.

    ``device`` is where the model was fitted this time, named as in a manifest.
    """

    training_set: str
    stored_training_set: str
    metrics: Mapping[str, float]
    predictions: npt.NDArray[np.float64]
    threshold: float | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Comparison:
    """One thing compared: as recorded, as rebuilt, and whether they are equal."""

    item: str
    recorded: str
    rebuilt: str
    equal: bool


@dataclass(frozen=True)
class Reproduction:
    """The comparisons, and what differs in the surroundings and may explain an inequality."""

    comparisons: list[Comparison]
    environment_differences: list[str]

    @property
    def equal(self) -> bool:
        """Return whether everything is equal."""
        return all(one.equal for one in self.comparisons)

    def lines(self) -> list[str]:
        """Return what was found in words: one line per comparison, one per difference around, and the conclusion."""
        lines = [
            f"equal      {one.item}: {one.recorded}"
            if one.equal
            else f"not equal  {one.item}: {one.recorded}, rebuilt {one.rebuilt}"
            for one in self.comparisons
        ]
        lines += [f"note       {note}" for note in self.environment_differences]
        return [*lines, "equal: everything came out as it was." if self.equal else "not equal: see above."]


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
    """Rebuild from ``manifest`` and return what is equal: training-set hash, each metric, the predictions.

    ``code``, ``lock``, ``hardware`` and ``libraries`` are those of now: where they differ from the pinned ones it is
    said, not refused. Metrics are equal within ``relative_tolerance``, hashes only exactly. Raises
    :class:`ReproductionError` when the manifest holds no metrics or predictions, and when other code than that of then
    cannot rebuild it at all.
    """
    if not manifest.metrics or manifest.predictions is None:
        raise ReproductionError(
            f"Manifest of '{manifest.model}' {manifest.partition}",
            expected="metrics and the digest of the predictions, as recorded at training",
            found=f"{len(manifest.metrics)} metrics, predictions {manifest.predictions or 'absent'}",
            fix="Only versions registered with their results can be compared.",
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
            expected=f"code that reads what the code of {_commit_text(manifest.code)} read",
            found=f"{type(error).__name__}: {error} at {_commit_text(code)}",
            fix="Check out that commit and run it there.",
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
    # Manifests from before 0.2.0 and those of regressions hold no threshold.
    if manifest.threshold is None:
        return []
    recorded = {"threshold": float(manifest.threshold["value"])}
    return _compare_metrics(recorded, {} if rebuilt.threshold is None else {"threshold": rebuilt.threshold}, tolerance)


def _environment_differences(
    manifest: Manifest, code: CodeInfo, lock: str | None, hardware: HardwareInfo, libraries: Mapping[str, str]
) -> list[str]:
    notes = []
    if manifest.code.sha256 != code.sha256:
        notes.append(f"The code differs: made at {_commit_text(manifest.code)}, now at {_commit_text(code)}.")
    if manifest.code.dirty:
        notes.append("It was made with uncommitted changes, which no commit holds.")
    if manifest.lock != lock:
        notes.append("The locked dependencies differ.")
    for name, pinned in manifest.libraries.items():
        if libraries.get(name) != pinned:
            notes.append(f"{name} differs: made with {pinned}, now {libraries.get(name, 'absent')}.")
    if manifest.hardware.device != hardware.device:
        notes.append(f"The device differs: fitted on {manifest.hardware.device}, now on {hardware.device}.")
    recorded, current = ((each.machine, each.cpu_count) for each in (manifest.hardware, hardware))
    if recorded != current:
        # Sums over threads depend on their number.
        notes.append(
            f"The machine differs: made on {recorded[0]} with {recorded[1]} cores, now {current[0]} with {current[1]}."
        )
    return notes


def _commit_text(code: CodeInfo) -> str:
    return f"{code.commit[:12] if code.commit else 'no commit'}{' with changes' if code.dirty else ''}"
