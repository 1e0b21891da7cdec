"""The skew check: recompute features of logged predictions from the change logs and compare them with the log.

Training and serving run the same code, so a difference has another cause: a rewritten fact, a wrong snapshot, a request
that was read differently, or a function that depends on more than its rows.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl
from pydantic import Field

from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError, listed
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.served_features import ServedFeatures
from ml_platform.features.view import AS_OF, PREDICT_AT, ViewError

WATERMARKS = "watermarks"
"""Column of logged predictions: for each view, the instant before which the store knew all facts (JSON)."""

EXAMPLES_SHOWN = 5
_ROW = "_row"
_NOT_SHOWN = ("logged", "recomputed", WATERMARKS)


class SkewSettings(Settings):
    """The sample of logged predictions that the check recomputes."""

    rows: int = Field(default=200, ge=1, description="Number of predictions to recompute, sampled from the latest.")
    latest: int = Field(default=5_000, ge=1, description="Number of latest predictions to sample from.")
    seed: int = Field(default=0, description="Seed of the sample.")


class SkewFoundError(PlatformError):
    """Raised by :meth:`SkewReport.raise_if_failed` when a logged feature differs from its recomputed value."""


@dataclass(frozen=True)
class Mismatch:
    """A feature that differs: the number of predictions in which it does, and up to five of them with both values."""

    feature: str
    view: str
    rows: int
    examples: list[dict[str, object]]


@dataclass(frozen=True)
class SkewReport:
    """Number of compared predictions and features, and the features that differ."""

    rows: int
    features: int
    mismatches: list[Mismatch]

    @property
    def passed(self) -> bool:
        return not self.mismatches

    def records(self) -> list[dict[str, str]]:
        """Return one record per example of a differing feature, all values as text, for printing and for metadata."""
        return [
            {
                "feature": mismatch.feature,
                "view": mismatch.view,
                "rows": str(mismatch.rows),
                **{name: str(example[name]) for name in ("logged", "recomputed")},
                "prediction": ", ".join(
                    f"{name}={value}" for name, value in example.items() if name not in (*_NOT_SHOWN, _ROW)
                ),
            }
            for mismatch in self.mismatches
            for example in mismatch.examples
        ]

    def raise_if_failed(self) -> None:
        """Raise :class:`SkewFoundError` when a feature differs."""
        if self.mismatches:
            raise SkewFoundError(
                "Training-serving skew",
                expected=f"{self.features} features of {self.rows} predictions, as recomputed from the change logs",
                found=f"{len(self.mismatches)} that differ: {listed(mismatch.feature for mismatch in self.mismatches)}",
                fix="Check whether a change log was rewritten, or whether requests reach the service in another form.",
            )


def features_to_log(rows: pl.DataFrame, served: ServedFeatures) -> pl.DataFrame:
    """Return the columns to log for a served request: ``rows``, its features, ``as_of`` and ``watermarks`` (JSON)."""
    marks = json.dumps({name: mark.isoformat() for name, mark in sorted(served.watermarks.items())})
    return rows.hstack(served.frame).with_columns(served.as_of.alias(AS_OF), pl.lit(marks).alias(WATERMARKS))


def sample_predictions(predictions: pl.LazyFrame, settings: SkewSettings) -> pl.DataFrame:
    """Return a seeded sample of the latest ``predictions`` by ``logged_at``, ties in the order of the table.

    Predictions without watermarks cannot be recomputed and are left out.
    """
    latest = predictions.filter(pl.col(WATERMARKS).is_not_null(), pl.col(WATERMARKS) != "{}")
    rows = latest.sort("logged_at", descending=True, maintain_order=True).head(settings.latest).collect()
    return rows.sample(settings.rows, seed=settings.seed) if rows.height > settings.rows else rows


def merge_reports(reports: Sequence[SkewReport]) -> SkewReport:
    """Return one report for the reports of several versions; a feature that differs in two of them occurs twice."""
    return SkewReport(
        rows=sum(report.rows for report in reports),
        features=max((report.features for report in reports), default=0),
        mismatches=[mismatch for report in reports for mismatch in report.mismatches],
    )


def compare_features(
    feature_set: FeatureSet, predictions: pl.DataFrame, logs: Mapping[str, pl.LazyFrame]
) -> SkewReport:
    """Recompute the features of logged ``predictions`` from ``logs`` and compare them as float32; null equals null.

    ``predictions`` have the request fields, ``predict_at``, ``as_of``, ``watermarks`` and the features, as
    :func:`features_to_log` returns them. The examples of the report show all other columns too. Raises
    :class:`ViewError` when a column is missing, or without predictions (a check of nothing would pass).
    """
    needed = [*feature_set.fields, PREDICT_AT, AS_OF, WATERMARKS, *feature_set.feature_names]
    absent = [name for name in needed if name not in predictions.columns]
    if absent or not predictions.height:
        raise ViewError(
            "Skew check",
            expected="logged predictions with their features, as_of and watermarks",
            found=f"no {listed(absent)}" if absent else "no prediction",
            fix="Log the columns that skew.features_to_log returns.",
        )
    rows = predictions.with_row_index(_ROW)
    parts = [
        _recomputed(feature_set, group, logs, json.loads(str(marks[0])))
        for marks, group in rows.group_by([WATERMARKS], maintain_order=True)
    ]
    recomputed_rows = pl.concat(parts).sort(_ROW)
    owner = {name: view.name for view in feature_set.views for name in view.feature_names}
    mismatches = [_mismatch(name, owner[name], rows, recomputed_rows) for name in feature_set.feature_names]
    return SkewReport(
        rows.height, len(feature_set.feature_names), [mismatch for mismatch in mismatches if mismatch is not None]
    )


def _recomputed(
    feature_set: FeatureSet, rows: pl.DataFrame, logs: Mapping[str, pl.LazyFrame], marks: Mapping[str, str]
) -> pl.DataFrame:
    requests = rows.select(_ROW, *feature_set.fields, PREDICT_AT, AS_OF).lazy()
    known_before = {name: datetime.fromisoformat(mark) for name, mark in marks.items()}
    return (
        feature_set.as_of(requests, logs, known_before=known_before).select(_ROW, *feature_set.feature_names).collect()
    )


def _mismatch(feature: str, view: str, rows: pl.DataFrame, recomputed_rows: pl.DataFrame) -> Mismatch | None:
    served, recomputed = _comparable(rows[feature]), _comparable(recomputed_rows[feature])
    if served.dtype != recomputed.dtype:
        served, recomputed = served.cast(pl.String), recomputed.cast(pl.String)
    differs = served.ne_missing(recomputed)
    if not differs.any():
        return None
    shown = rows.drop(name for name in rows.columns if "__" in name).with_columns(
        logged=rows[feature], recomputed=recomputed_rows[feature]
    )
    return Mismatch(feature, view, int(differs.sum()), shown.filter(differs).head(EXAMPLES_SHOWN).to_dicts())


def _comparable(column: pl.Series) -> pl.Series:
    """Return numbers as float32, the precision that models get, with NaN as null."""
    if column.dtype.is_numeric() or column.dtype == pl.Boolean:
        return column.cast(pl.Float32).fill_nan(None)
    return column
