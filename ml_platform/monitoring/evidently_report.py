"""The drift page for people: Evidently's HTML over a sample, with the distances of the drift check.

The page shows results and decides nothing. Evidently's choice of tests is replaced, so that the page and the drift
check show the same distance. If the drift check has decided, its decision also replaces Evidently's: a page that
contradicts the check would mislead its readers.
"""

import json
import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from pydantic import Field

from ml_platform.data.atomic import write_text
from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError, did_you_mean, listed
from ml_platform.monitoring.distances import kolmogorov_smirnov, total_variation

if TYPE_CHECKING:
    import pandas as pd

_KS = "kolmogorov_smirnov_distance"
_TOTAL_VARIATION = "total_variation_distance"
_OTHER = "(other)"

_EVIDENTLY_DECISION = re.compile(r'\{"value": "Dataset Drift", "label": "Dataset Drift is [^"]*"\}')
"""The counter on the page that shows Evidently's decision, by the share of drifted columns."""

_UNREACHABLE_LIMIT = 2.0
"""A limit above the largest possible distance, 1."""


class ReportInputError(PlatformError):
    """Raised when the page cannot be drawn: a column is missing, or no column has values on both sides."""


@dataclass(frozen=True)
class PageHeading:
    """The heading of the page: its title, and the decision of the drift check with its reason."""

    title: str
    decision: str
    reason: str


class ReportSettings(Settings):
    """Settings of the drift page."""

    sample_rows: int = Field(
        default=3_000, ge=2, description="Rows sampled from each side; limits the time and the size of the page."
    )
    seed: int = Field(default=0, description="Seed of the sampling.")
    maximum_features: int = Field(
        default=30, ge=1, description="Number of features drawn, largest distance first; each takes about 0.1 s."
    )
    minimum_ks: float = Field(default=0.1, ge=0, le=1, description="Numbers: distance above which drift is shown.")
    minimum_total_variation: float = Field(
        default=0.1, ge=0, le=1, description="Categories: distance above which drift is shown."
    )
    minimum_category_share: float = Field(
        default=0.01, ge=0, lt=1, description="Categories with a smaller share of the reference are drawn as one group."
    )


def write_evidently_report(
    reference: pl.DataFrame,
    current: pl.DataFrame,
    path: Path,
    *,
    features: Sequence[str],
    settings: ReportSettings,
    score: str | None = None,
    drifted: Collection[str] | None = None,
    heading: PageHeading | None = None,
) -> dict[str, float]:
    """Write the HTML page that compares ``current`` with ``reference`` to ``path``; return the distance of each column.

    The page is one file without references to the network, written atomically. It shows ``score`` first, with a plot
    of its own, then one line per column. It draws ``settings.maximum_features`` features: those in ``drifted`` before
    the others, then by distance. It omits columns without a value on one side; the drift check reports their null rate.

    ``drifted`` names the columns that the page shows as drifted. If it is None, the page shows the columns as drifted
    whose distance exceeds the minima of the settings. The score is sampled from its non-null values, because
    often only few rows of the reference have a score. The returned distances are those of the samples.
    ``heading`` stands above the page, and its decision in place of Evidently's own.
    Raises :class:`ReportInputError` when a column is missing or no column can be drawn.
    """
    columns = [*([score] if score else []), *features]
    drawable = _drawable(reference, current, columns)
    expressions = [_group_rare_categories(column, reference, settings) for column in drawable]
    reference_sample, current_sample = (
        _sampled(side.select(expressions), score, settings) for side in (reference, current)
    )
    by_distance = sorted(
        (name for name in drawable if name != score),
        key=lambda name: (name not in (drifted or ()), -_distance(reference_sample[name], current_sample[name])),
    )
    shown = [name for name in drawable if name == score or name in by_distance[: settings.maximum_features]]
    limits = None if drifted is None else {name: 0.0 if name in drifted else _UNREACHABLE_LIMIT for name in shown}
    snapshot = _run_report(
        reference_sample[shown], current_sample[shown], score if score in shown else None, limits, settings
    )
    html = snapshot.get_html_str(as_iframe=False)
    write_text(path, html if heading is None else _with_heading(html, heading))
    distances = [
        (metric["config"]["column"], metric["value"])
        for metric in snapshot.dict()["metrics"]
        if metric["config"]["type"].endswith(":ValueDrift")
    ]
    return {column: float(distance) for column, distance in distances}


def _with_heading(html: str, heading: PageHeading) -> str:
    """Return ``html`` with ``heading`` above it; its decision replaces the one of Evidently, which has other rules."""
    title, decision, reason = escape(heading.title), escape(heading.decision), escape(heading.reason)
    above = (
        f'<header style="font: 16px/1.5 system-ui, sans-serif; padding: 1.2rem 1.5rem 0">'
        f'<h1 style="margin: 0; font-size: 1.5rem">{title}</h1>'
        f"<p>Decision of the drift check: <b>{decision}</b>. {reason}</p></header>"
    )
    shown = json.dumps({"value": heading.decision.capitalize(), "label": "Decision of the drift check"})
    html = _EVIDENTLY_DECISION.sub(lambda _: shown, html)
    html = html.replace("<head>", f"<head><title>{title}</title>", 1)
    return html.replace("<body>", f"<body>{above}", 1)


def _drawable(reference: pl.DataFrame, current: pl.DataFrame, columns: list[str]) -> list[str]:
    for name, side in (("reference", reference), ("current", current)):
        missing = [column for column in columns if column not in side.columns]
        if missing:
            raise ReportInputError(
                f"Drift page, {name} table",
                expected=f"{len(columns)} columns",
                found=f"{len(missing)} missing: {listed(missing)}",
                fix=f"Pass a table with these columns.{did_you_mean(missing[0], side.columns)}",
            )
    drawable = [column for column in columns if all(_has_values(side[column]) for side in (reference, current))]
    if not drawable:
        raise ReportInputError(
            "Drift page",
            expected="a column with values on both sides",
            found=f"{reference.height} reference and {current.height} current rows, values in no common column",
            fix="Inspect the null rates in the drift report.",
        )
    return drawable


def _has_values(column: pl.Series) -> bool:
    values = column.drop_nulls()
    return bool(values.is_finite().any()) if column.dtype.is_float() else len(values) > 0


def _group_rare_categories(name: str, reference: pl.DataFrame, settings: ReportSettings) -> pl.Expr:
    """Replace rare categories by one group: two samples of a thousand identifiers have few in common."""
    if reference[name].dtype.is_numeric():
        return pl.col(name)
    values = reference[name].cast(pl.String).drop_nulls()
    shares = values.value_counts(normalize=True, name="share")
    common = shares.filter(pl.col("share") >= settings.minimum_category_share)[name].to_list()
    value = pl.col(name).cast(pl.String)
    return pl.when(value.is_in(common) | value.is_null()).then(value).otherwise(pl.lit(_OTHER)).alias(name)


def _sampled(frame: pl.DataFrame, score: str | None, settings: ReportSettings) -> "pd.DataFrame":
    rows = min(settings.sample_rows, frame.height)
    sample = frame.sample(rows, seed=settings.seed)
    if score is not None:
        scores = frame[score].drop_nulls()
        scores = scores.sample(min(rows, len(scores)), seed=settings.seed)
        sample = sample.with_columns(scores.extend_constant(None, rows - len(scores)).alias(score))
    return sample.to_pandas()


def _distance(reference: "pd.Series", current: "pd.Series") -> float:
    distance = _ks if reference.dtype.kind in "iuf" else _variation
    return distance(reference.dropna(), current.dropna())


def _ks(reference: "pd.Series", current: "pd.Series") -> float:
    return kolmogorov_smirnov(reference.to_numpy(), current.to_numpy()).effect


def _variation(reference: "pd.Series", current: "pd.Series") -> float:
    categories = sorted({*reference.unique(), *current.unique()})
    counts = [side.value_counts().reindex(categories, fill_value=0).to_numpy() for side in (reference, current)]
    return total_variation(*counts).effect


def _run_report(
    reference: "pd.DataFrame",
    current: "pd.DataFrame",
    score: str | None,
    limits: dict[str, float] | None,
    settings: ReportSettings,
) -> Any:
    # Evidently reads this variable when it is imported: without it, it reports its use over the network.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift
    from evidently.presets import DataDriftPreset

    _register_distances()
    numbers = list(reference.select_dtypes("number").columns)
    definition = DataDefinition(
        numerical_columns=numbers, categorical_columns=[name for name in reference.columns if name not in numbers]
    )
    score_limit = settings.minimum_ks if limits is None or score is None else limits[score]
    first = [ValueDrift(column=score, method=_KS, threshold=score_limit)] if score else []
    table = DataDriftPreset(
        columns=list(reference.columns),
        # One drifted column is enough for the headline. Evidently's default is half of the columns.
        drift_share=1 / len(reference.columns),
        num_method=_KS,
        num_threshold=settings.minimum_ks,
        cat_method=_TOTAL_VARIATION,
        cat_threshold=settings.minimum_total_variation,
        per_column_threshold=limits,
    )
    # The page shows no counts of rows or missing values, because they would be those of the sample.
    report = Report([*first, table])
    return report.run(
        Dataset.from_pandas(current, data_definition=definition),
        Dataset.from_pandas(reference, data_definition=definition),
    )


@cache
def _register_distances() -> None:
    """Register the distances of the drift check with Evidently, once per process because its registry is global."""
    from evidently.legacy.calculations.stattests import register_stattest
    from evidently.legacy.calculations.stattests.registry import StatTest
    from evidently.legacy.core import ColumnType

    def with_threshold(distance: Callable[["pd.Series", "pd.Series"], float]) -> Callable[..., tuple[float, bool]]:
        def measure(
            reference: "pd.Series", current: "pd.Series", _kind: ColumnType, threshold: float
        ) -> tuple[float, bool]:
            value = distance(reference, current)
            return value, value > threshold

        return measure

    register_stattest(StatTest(_KS, "Kolmogorov-Smirnov distance", [ColumnType.Numerical], 0.1), with_threshold(_ks))
    register_stattest(
        StatTest(_TOTAL_VARIATION, "total variation", [ColumnType.Categorical], 0.1), with_threshold(_variation)
    )
