"""The skew check: features recomputed from the change logs must equal those that a prediction was made with.

Training and serving run the same code, so a difference means that something else changed: a fact was rewritten, a
snapshot was wrong, a request was read differently, a function depends on more than its rows.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl
from pydantic import Field

from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError, listed
from ml_platform.features.feature_set import FeatureSet, ServedFeatures
from ml_platform.features.view import AS_OF, PREDICT_AT, ViewError

WATERMARKS = "watermarks"
"""The column of logged predictions that says, as JSON, up to when each view's facts were known to the store."""

EXAMPLES_SHOWN = 5
_ROW = "_row"
_NOT_SHOWN = ("logged", "recomputed", WATERMARKS)


class SkewSettings(Settings):
    """Which logged predictions are recomputed."""

    rows: int = Field(default=200, ge=1, description="Predictions recomputed, drawn from the latest.")
    latest: int = Field(default=5_000, ge=1, description="How many of the predictions logged last are drawn from.")
    seed: int = Field(default=0, description="Seed of the draw.")


class SkewFoundError(PlatformError):
    """Raised by :meth:`SkewReport.raise_if_failed` when a logged feature cannot be recomputed."""


@dataclass(frozen=True)
class Mismatch:
    """A feature that differs: in how many of the predictions, and up to five of them with both values."""

    feature: str
    view: str
    rows: int
    examples: list[dict[str, object]]


@dataclass(frozen=True)
class SkewReport:
    """How many predictions and features were compared, and which differ."""

    rows: int
    features: int
    mismatches: list[Mismatch]

    @property
    def passed(self) -> bool:
        return not self.mismatches

    def records(self) -> list[dict[str, str]]:
        """Return one line per example of a differing feature, as text: for printing and for metadata."""
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
                fix="Was a change log rewritten since, or does a request reach the service in another form?",
            )


def features_to_log(rows: pl.DataFrame, served: ServedFeatures) -> pl.DataFrame:
    """Return what to keep of a served request: ``rows``, its features, ``as_of`` and ``watermarks`` (JSON)."""
    marks = json.dumps({name: mark.isoformat() for name, mark in sorted(served.watermarks.items())})
    return rows.hstack(served.frame).with_columns(served.as_of.alias(AS_OF), pl.lit(marks).alias(WATERMARKS))


def sample_predictions(predictions: pl.LazyFrame, settings: SkewSettings) -> pl.DataFrame:
    """Return a seeded sample of those of ``predictions`` that were logged last (``logged_at``).

    Ties fall as the table has them. Predictions without watermarks cannot be recomputed and are left out.
    """
    latest = predictions.filter(pl.col(WATERMARKS).is_not_null(), pl.col(WATERMARKS) != "{}")
    rows = latest.sort("logged_at", descending=True, maintain_order=True).head(settings.latest).collect()
    return rows.sample(settings.rows, seed=settings.seed) if rows.height > settings.rows else rows


def merge_reports(reports: Sequence[SkewReport]) -> SkewReport:
    """Return what several versions' reports say together; a feature that differs in two is named twice."""
    return SkewReport(
        rows=sum(report.rows for report in reports),
        features=max((report.features for report in reports), default=0),
        mismatches=[mismatch for report in reports for mismatch in report.mismatches],
    )


def compare_features(
    feature_set: FeatureSet, predictions: pl.DataFrame, logs: Mapping[str, pl.LazyFrame]
) -> SkewReport:
    """Recompute the features of logged ``predictions`` from ``logs`` and compare: equal as float32, null equals null.

    ``predictions``: the request fields, ``predict_at``, ``as_of``, ``watermarks`` and the features, as
    :func:`features_to_log` returns them; any other columns are carried into the examples shown.
    Raises :class:`ViewError` when a column is missing or there is no prediction: a check on nothing would pass.
    """
    needed = [*feature_set.fields, PREDICT_AT, AS_OF, WATERMARKS, *feature_set.feature_names]
    absent = [name for name in needed if name not in predictions.columns]
    if absent or not predictions.height:
        raise ViewError(
            "Skew check",
            expected="logged predictions with their features, as_of and watermarks",
            found=f"no {listed(absent)}" if absent else "no prediction",
            fix="Log what skew.features_to_log returns.",
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
    """Return numbers as float32 with NaN as null: the precision that models see."""
    if column.dtype.is_numeric() or column.dtype == pl.Boolean:
        return column.cast(pl.Float32).fill_nan(None)
    return column
