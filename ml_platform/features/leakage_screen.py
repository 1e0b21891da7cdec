"""The leakage screen: find results that are too good, and features that are known too late, in a training set.

Three measurements are cheap enough for every candidate. The first is the AUC of each feature alone. The second is the
gap of a small model between a random split and a split by time: a random split rewards knowledge of the test days. The
third counts values that became known after their prediction; such values block the candidate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from pydantic import Field

from ml_platform.data.roc_auc import auc
from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError, listed
from ml_platform.features.encoder import Encoder
from ml_platform.features.view import PREDICT_AT, ViewError

TRAINED_SHARE = 0.7
"""Share of the rows that the small model trains on; it is measured on the others."""


class LeakageScreenSettings(Settings):
    """Limits above which the screen warns, and the size of its measurements."""

    auc_alone: float = Field(
        default=0.75, gt=0.5, le=1, description="Limit for the AUC of one feature alone, in either direction"
    )
    auc_by_time: float = Field(
        default=0.82, gt=0.5, le=1, description="Limit for the AUC of the small model on the split by time"
    )
    gap: float = Field(
        default=0.05,
        gt=0,
        le=0.5,
        description="Limit for the AUC on the random split minus the AUC on the split by time",
    )
    rows: int = Field(
        default=15_000, ge=1_000, description="Most rows to measure on; more rows are sampled evenly in time"
    )
    reference_partitions: int = Field(
        default=12, ge=2, description="Most partitions of the training set to measure on: the latest ones"
    )
    rounds: int = Field(default=40, ge=1, description="Number of trees of the small model")
    seed: int = Field(default=0, description="Seed of the random split and of the small model")


class KnownTooLateError(PlatformError):
    """Raised by :meth:`LeakageScreenReport.raise_if_failed` when a feature is known after its prediction is made."""


@dataclass(frozen=True)
class LeakageScreenReport:
    """Measurements, warnings as text, and the features that block (feature → number of rows known too late)."""

    auc_alone: dict[str, float]
    auc_random: float
    auc_by_time: float
    rows: int
    warnings: list[str] = field(default_factory=list)
    known_too_late: dict[str, int] = field(default_factory=dict)

    @property
    def gap(self) -> float:
        """AUC on the random split minus the AUC on the split by time."""
        return self.auc_random - self.auc_by_time

    @property
    def passed(self) -> bool:
        return not self.known_too_late

    def raise_if_failed(self) -> None:
        """Raise :class:`KnownTooLateError` when a feature blocks."""
        if self.known_too_late:
            raise KnownTooLateError(
                "Features of the training set",
                expected="values known at the prediction time",
                found=f"later ones in {listed(self.known_too_late)}",
                fix="Read these features through a feature view, as of the prediction time.",
            )


def screen_for_leakage(
    frame: pl.DataFrame,
    feature_names: Sequence[str],
    label: str,
    limits: LeakageScreenSettings | None = None,
    known_at: Mapping[str, str] | None = None,
) -> LeakageScreenReport:
    """Return the report on ``frame`` (features, a label of 0 and 1, predict_at); rows without a label are left out.

    ``known_at`` maps features that do not come from a view to the column with the time at which each value became
    known. The AUC of a feature alone counts ties half and ranks nulls below all values. It ranks categories by their
    label mean in the earlier half of the rows and is measured on the later half. Raises :class:`ViewError` when a
    column is missing or the label does not have two values.
    """
    limits = limits or LeakageScreenSettings()
    needed = [*feature_names, label, PREDICT_AT, *(known_at or {}).values()]
    absent = [name for name in needed if name not in frame.columns]
    rows = frame.head(0) if absent else _sample(frame.filter(pl.col(label).is_not_null()), limits.rows)
    if absent or rows[label].n_unique() != 2:
        raise ViewError(
            "Leakage screen",
            expected=f"features, a label of two values and '{PREDICT_AT}'",
            found=f"no {listed(absent)}" if absent else f"{rows[label].n_unique()} values of '{label}'",
            fix="Pass a training set that has rows with both outcomes.",
        )
    target = rows[label].cast(pl.Int8).to_numpy()
    alone = {name: _auc_alone(rows[name], target) for name in feature_names}
    matrix = Encoder.fit(rows, feature_names).transform(rows)
    by_time = np.arange(len(target)) < int(TRAINED_SHARE * len(target))
    by_chance = np.random.default_rng(limits.seed).permutation(by_time)
    auc_random, auc_by_time = _small_models(matrix, target, [by_chance, by_time], limits)
    report = LeakageScreenReport(
        alone, auc_random, auc_by_time, rows.height, known_too_late=_too_late(frame, known_at or {})
    )
    report.warnings.extend(_warnings(report, limits))
    return report


def _sample(rows: pl.DataFrame, limit: int) -> pl.DataFrame:
    ordered = rows.sort(PREDICT_AT, maintain_order=True)
    if ordered.height <= limit:
        return ordered
    return ordered[np.linspace(0, ordered.height - 1, limit).astype(np.int64)]


def _auc_alone(column: pl.Series, target: np.ndarray) -> float:
    if column.dtype.is_numeric() or column.dtype == pl.Boolean:
        values = column.cast(pl.Float64).fill_nan(None)
        lowest = values.min()
        score = values.fill_null(-1.0 if lowest is None else float(str(lowest)) - 1.0).to_numpy()
        found = auc(target, score)
    else:
        half = len(column) // 2
        earlier = pl.DataFrame({"value": column[:half], "label": target[:half]}).group_by("value").agg(pl.mean("label"))
        ranked = pl.DataFrame({"value": column[half:]}).join(
            earlier, on="value", how="left", nulls_equal=True, maintain_order="left"
        )
        found = auc(target[half:], ranked["label"].fill_null(float(target[:half].mean())).to_numpy())
    return max(found, 1 - found)


def _small_models(
    matrix: np.ndarray, target: np.ndarray, splits: Sequence[np.ndarray], limits: LeakageScreenSettings
) -> list[float]:
    """Return, for each split (a mask of the training rows), the AUC of the small model on the other rows."""
    import lightgbm

    settings = {
        "objective": "binary",
        "num_leaves": 31,
        "learning_rate": 0.1,
        "min_data_in_leaf": 20,
        "max_bin": 63,
        "seed": limits.seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    # Compute the bins once: for few rows and many features they take longer than the trees.
    data = lightgbm.Dataset(matrix, target, params=settings, free_raw_data=False).construct()
    found = []
    for trained in splits:
        model = lightgbm.train(settings, data.subset(np.flatnonzero(trained).tolist()), num_boost_round=limits.rounds)
        found.append(auc(target[~trained], np.asarray(model.predict(matrix[~trained]))))
    return found


def _too_late(frame: pl.DataFrame, known_at: Mapping[str, str]) -> dict[str, int]:
    counts = {
        name: frame.filter(pl.col(name).is_not_null() & (pl.col(at) > pl.col(PREDICT_AT))).height
        for name, at in known_at.items()
    }
    return {name: count for name, count in counts.items() if count}


def _warnings(report: LeakageScreenReport, limits: LeakageScreenSettings) -> list[str]:
    found = [
        f"'{name}' alone has AUC {value:.3f}, above {limits.auc_alone}"
        for name, value in report.auc_alone.items()
        if value > limits.auc_alone
    ]
    if report.auc_by_time > limits.auc_by_time:
        found.append(
            f"AUC {report.auc_by_time:.3f} on the split by time, above {limits.auc_by_time}: too good to be true"
        )
    if report.gap > limits.gap:
        found.append(
            f"AUC {report.auc_random:.3f} on a random split and {report.auc_by_time:.3f} on one by time: "
            f"a gap of {report.gap:.3f}, above {limits.gap}"
        )
    return found
