"""The skew check: recompute features of logged predictions from the change logs and compare them with the log.

Training and serving run the same code, so a difference has another cause: a rewritten fact, a wrong snapshot, a request
that was read differently, or a function that depends on more than its rows.
"""

import itertools
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl
from pydantic import Field

from ml_platform.data.pii import shown_rows
from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError, listed
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.served_features import ServedFeatures
from ml_platform.features.view import AS_OF, PREDICT_AT, ViewError

WATERMARKS = "watermarks"
"""Column of logged predictions: for each view, the instant before which the store knew all facts (JSON)."""

EXAMPLES_SHOWN = 5

MAX_PARTS = 31
"""Parts (days) of the latest predictions in which the sample is looked for."""

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


def sample_predictions(predictions: Iterable[pl.LazyFrame], settings: SkewSettings) -> pl.DataFrame:
    """Return a seeded sample of the latest predictions by ``logged_at``, ties in the order of the table.

    ``predictions`` gives the predictions in parts, the latest part first. Parts are read until ``settings.latest``
    predictions are found, but at most :data:`MAX_PARTS`. Predictions without watermarks cannot be recomputed and are
    left out.
    """
    found: list[pl.DataFrame] = []
    missing = settings.latest
    for part in itertools.islice(predictions, MAX_PARTS):
        usable = part.filter(pl.col(WATERMARKS).is_not_null(), pl.col(WATERMARKS) != "{}")
        # Find the time first: all columns of a whole part may not fit into the memory.
        (since,) = usable.select(pl.col("logged_at").top_k(missing).min()).collect()["logged_at"]
        if since is None:
            continue
        latest = usable.filter(pl.col("logged_at") >= since).collect()
        found.append(latest.sort("logged_at", descending=True, maintain_order=True).head(missing))
        missing -= found[-1].height
        if not missing:
            break
    if not found:
        return pl.DataFrame()
    rows = pl.concat(found)
    return rows.sample(settings.rows, seed=settings.seed) if rows.height > settings.rows else rows


def merge_reports(reports: Sequence[SkewReport]) -> SkewReport:
    """Return one report for the reports of several versions; a feature that differs in two of them occurs twice."""
    return SkewReport(
        rows=sum(report.rows for report in reports),
        features=max((report.features for report in reports), default=0),
        mismatches=[mismatch for report in reports for mismatch in report.mismatches],
    )


def compare_features(
    feature_set: FeatureSet,
    predictions: pl.DataFrame,
    logs: Mapping[str, pl.LazyFrame],
    pii_columns: Collection[str] = (),
    logged_as: Callable[[pl.DataFrame], pl.DataFrame] = lambda recomputed: recomputed,
) -> SkewReport:
    """Recompute the features of logged ``predictions`` from ``logs`` and compare them as float32; null equals null.

    ``predictions`` have the request fields, ``predict_at``, ``as_of``, ``watermarks`` and the features, as
    :func:`features_to_log` returns them. The examples of the report show all other columns too, with the values of
    ``pii_columns`` masked. ``logged_as`` returns recomputed features in the form in which the log has them. Raises
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
    facts = feature_set.facts_of(rows, logs)
    parts = [
        _recomputed(feature_set, group, facts, json.loads(str(marks[0])))
        for marks, group in rows.group_by([WATERMARKS], maintain_order=True)
    ]
    mismatches = differing_features(feature_set, rows, logged_as(pl.concat(parts).sort(_ROW)), pii_columns)
    return SkewReport(rows.height, len(feature_set.feature_names), mismatches)


def recompute_features(
    feature_set: FeatureSet,
    rows: pl.DataFrame,
    as_of: pl.Series,
    logs: Mapping[str, pl.LazyFrame],
    watermarks: Mapping[str, datetime],
) -> pl.DataFrame:
    """Return the features of ``rows`` (request fields, predict_at) at ``as_of`` from ``logs``, in the given order.

    ``watermarks`` has, for each view, the instant at which its facts end; see :class:`.ServedFeatures` for both.
    """
    requests = rows.select(*feature_set.fields, PREDICT_AT).with_columns(as_of.alias(AS_OF)).with_row_index(_ROW)
    read = feature_set.as_of(requests.lazy(), logs, known_before=watermarks)
    return read.select(_ROW, *feature_set.feature_names).collect().sort(_ROW).drop(_ROW)


def differing_features(
    feature_set: FeatureSet, rows: pl.DataFrame, recomputed_rows: pl.DataFrame, pii_columns: Collection[str] = ()
) -> list[Mismatch]:
    """Return the features of ``rows`` that differ from ``recomputed_rows`` (row by row), compared as float32.

    Null equals null. The examples show the other columns of ``rows``, and both values as logged and recomputed, with
    the values of ``pii_columns`` masked.
    """
    owner = {name: view.name for view in feature_set.views for name in view.feature_names}
    found = [_mismatch(name, owner[name], rows, recomputed_rows, pii_columns) for name in feature_set.feature_names]
    return [mismatch for mismatch in found if mismatch is not None]


def _recomputed(
    feature_set: FeatureSet, rows: pl.DataFrame, logs: Mapping[str, pl.LazyFrame], marks: Mapping[str, str]
) -> pl.DataFrame:
    requests = rows.select(_ROW, *feature_set.fields, PREDICT_AT, AS_OF).lazy()
    known_before = {name: datetime.fromisoformat(mark) for name, mark in marks.items()}
    return (
        feature_set.as_of(requests, logs, known_before=known_before).select(_ROW, *feature_set.feature_names).collect()
    )


def _mismatch(
    feature: str, view: str, rows: pl.DataFrame, recomputed_rows: pl.DataFrame, pii_columns: Collection[str]
) -> Mismatch | None:
    served, recomputed = _comparable(rows[feature]), _comparable(recomputed_rows[feature])
    if served.dtype != recomputed.dtype:
        served, recomputed = served.cast(pl.String), recomputed.cast(pl.String)
    differs = served.ne_missing(recomputed)
    if not differs.any():
        return None
    shown = rows.drop(name for name in rows.columns if "__" in name).with_columns(
        logged=rows[feature], recomputed=recomputed_rows[feature]
    )
    hidden = {*pii_columns, *(("logged", "recomputed") if feature in pii_columns else ())}
    examples = shown_rows(shown.filter(differs).head(EXAMPLES_SHOWN), hidden)
    return Mismatch(feature, view, int(differs.sum()), examples)


def _comparable(column: pl.Series) -> pl.Series:
    """Return numbers as float32, the precision that models get, with NaN as null."""
    if column.dtype.is_numeric() or column.dtype == pl.Boolean:
        return column.cast(pl.Float32).fill_nan(None)
    return column
