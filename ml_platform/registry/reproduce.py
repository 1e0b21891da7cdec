"""Whether a version can be made again: rebuilt from its manifest, are training set, metrics and predictions equal?

Apart from the rebuilding, which the caller passes in: the registry knows what was pinned, not how a model is trained.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml_platform.data.canonical import value_digest
from ml_platform.errors import PlatformError
from ml_platform.registry.manifest import CodeFacts, HardwareFacts, Manifest


class ReproductionError(PlatformError):
    """Raised when a manifest does not say what the rebuilt model should be compared with."""


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild from the pinned inputs gave; ``stored_training_set`` is the hash of the one that was kept.

    ``device`` is where the model was fitted this time, named as in a manifest.
    """

    training_set: str
    stored_training_set: str
    metrics: Mapping[str, float]
    predictions: npt.NDArray[np.float64]
    device: str = "cpu"


@dataclass(frozen=True)
class Comparison:
    """One thing compared: as recorded, as rebuilt, and whether they are equal."""

    what: str
    recorded: str
    rebuilt: str
    equal: bool


@dataclass(frozen=True)
class Reproduction:
    """The comparisons, and what differs in the surroundings and may explain an inequality."""

    comparisons: list[Comparison]
    surroundings: list[str]

    @property
    def equal(self) -> bool:
        """Return whether everything is equal."""
        return all(one.equal for one in self.comparisons)

    def lines(self) -> list[str]:
        """Return what was found in words: one line per comparison, one per difference around, and the conclusion."""
        told = [
            f"equal      {one.what}: {one.recorded}"
            if one.equal
            else f"not equal  {one.what}: {one.recorded}, rebuilt {one.rebuilt}"
            for one in self.comparisons
        ]
        told += [f"note       {note}" for note in self.surroundings]
        return [*told, "equal: everything came out as it was." if self.equal else "not equal: see above."]


def reproduce(
    manifest: Manifest,
    rebuild: Callable[[Manifest], Rebuilt],
    *,
    code: CodeFacts,
    lock: str | None,
    hardware: HardwareFacts,
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
            mend="Only versions registered with their results can be compared.",
        )
    rebuilt = _rebuilt(manifest, rebuild, code)
    predictions = predictions_digest(rebuilt.predictions)
    return Reproduction(
        comparisons=[
            _same("training set", manifest.training_set, rebuilt.training_set),
            _same("training set as stored", manifest.training_set, rebuilt.stored_training_set),
            *_metrics(manifest.metrics, rebuilt.metrics, relative_tolerance),
            _same("predictions", manifest.predictions, predictions),
        ],
        surroundings=_surroundings(
            manifest, code, lock, hardware.model_copy(update={"device": rebuilt.device}), libraries
        ),
    )


def predictions_digest(predictions: npt.ArrayLike) -> str:
    """Return the digest of predictions in their order, as float64."""
    values = np.ascontiguousarray(np.asarray(predictions, dtype="<f8"))
    return value_digest([list(values.shape), values.tobytes().hex()])


def _rebuilt(manifest: Manifest, rebuild: Callable[[Manifest], Rebuilt], code: CodeFacts) -> Rebuilt:
    try:
        return rebuild(manifest)
    except Exception as error:
        if manifest.code.sha256 == code.sha256:
            raise
        raise ReproductionError(
            f"Rebuild of '{manifest.model}' {manifest.partition}",
            expected=f"code that reads what the code of {_at(manifest.code)} read",
            found=f"{type(error).__name__}: {error} at {_at(code)}",
            mend="Check out that commit and run it there.",
        ) from error


def _same(what: str, recorded: str, rebuilt: str) -> Comparison:
    return Comparison(what, recorded[:12], rebuilt[:12], recorded == rebuilt)


def _metrics(recorded: Mapping[str, float], rebuilt: Mapping[str, float], tolerance: float) -> list[Comparison]:
    found = []
    for name, value in recorded.items():
        again = rebuilt.get(name)
        equal = again is not None and abs(again - value) <= tolerance * abs(value)
        found.append(Comparison(name, repr(value), "absent" if again is None else repr(again), equal))
    return found


def _surroundings(
    manifest: Manifest, code: CodeFacts, lock: str | None, hardware: HardwareFacts, libraries: Mapping[str, str]
) -> list[str]:
    notes = []
    if manifest.code.sha256 != code.sha256:
        notes.append(f"The code differs: made at {_at(manifest.code)}, now at {_at(code)}.")
    if manifest.code.dirty:
        notes.append("It was made with uncommitted changes, which no commit holds.")
    if manifest.lock != lock:
        notes.append("The locked dependencies differ.")
    for name, then in manifest.libraries.items():
        if libraries.get(name) != then:
            notes.append(f"{name} differs: made with {then}, now {libraries.get(name, 'absent')}.")
    if manifest.hardware.device != hardware.device:
        notes.append(f"The device differs: fitted on {manifest.hardware.device}, now on {hardware.device}.")
    made, now = ((each.machine, each.cpu_count) for each in (manifest.hardware, hardware))
    if made != now:
        # Sums over threads depend on their number.
        notes.append(f"The machine differs: made on {made[0]} with {made[1]} cores, now {now[0]} with {now[1]}.")
    return notes


def _at(code: CodeFacts) -> str:
    return f"{code.commit[:12] if code.commit else 'no commit'}{' with changes' if code.dirty else ''}"
