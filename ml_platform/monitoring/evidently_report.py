"""The drift page that people look at: Evidently's HTML over a sample, with the same distances as the rule in `drift`.

Apart from `drift` because a page is for eyes: what it samples, draws or leaves out decides nothing. Evidently's own
choice of tests is replaced, so that page and rule speak of the same number, and so is its verdict where the rule gave
one: a page that calls drift what the rule let pass would be believed.
"""

import os
from collections.abc import Callable, Collection, Sequence
from functools import cache
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

_NEVER = 2.0
"""A limit that no distance reaches."""


class ReportInputError(PlatformError):
    """Raised when there is nothing to draw: a column missing, or no column with values on both sides."""


class ReportSettings(Settings):
    """What the page draws."""

    sample_rows: int = Field(default=3_000, ge=2, description="Rows drawn from either side; bounds time and size.")
    seed: int = Field(default=0, description="Seed of the sampling.")
    maximum_features: int = Field(
        default=30, ge=1, description="Features drawn, those with the largest distance; each costs a tenth of a second."
    )
    minimum_ks: float = Field(default=0.1, ge=0, le=1, description="Numbers: distance from which drift is shown.")
    minimum_total_variation: float = Field(
        default=0.1, ge=0, le=1, description="Categories: distance from which drift is shown."
    )
    minimum_category_share: float = Field(
        default=0.01, ge=0, lt=1, description="Categories rarer than this in the reference are drawn as one."
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
) -> dict[str, float]:
    """Write the HTML page that compares ``current`` with ``reference`` to ``path`` and return the distances it shows.

    The page is one file without references to the network, written atomically. ``score`` stands first, with a plot of
    its own; then one line per column, of the features those ``settings.maximum_features`` that moved most, those
    ``drifted`` before others. Columns without a value on one side cannot be drawn and are left out (their null rate is
    `drift`'s to judge). ``drifted`` names the columns to be shown as such; without it distances above the settings'
    minima are. Each column is sampled by itself, so that one with few values, such as a score of the newest months
    alone, is drawn from as many rows as the others. The result maps each drawn column to its distance, over the
    sample.
    Raises :class:`ReportInputError` when a column is missing or none can be drawn.
    """
    columns = [*([score] if score else []), *features]
    drawn = _drawable(reference, current, columns)
    folded = [_folded(column, reference, settings) for column in drawn]
    before, now = (_sampled(side.select(folded), score, settings) for side in (reference, current))
    moved_most = sorted(
        (name for name in drawn if name != score),
        key=lambda name: (name not in (drifted or ()), -_distance(before[name], now[name])),
    )
    shown = [name for name in drawn if name == score or name in moved_most[: settings.maximum_features]]
    limits = None if drifted is None else {name: 0.0 if name in drifted else _NEVER for name in shown}
    snapshot = _snapshot(before[shown], now[shown], score if score in shown else None, limits, settings)
    write_text(path, snapshot.get_html_str(as_iframe=False))
    distances = [
        (metric["config"]["column"], metric["value"])
        for metric in snapshot.dict()["metrics"]
        if metric["config"]["type"].endswith(":ValueDrift")
    ]
    return {column: float(distance) for column, distance in distances}


def _drawable(reference: pl.DataFrame, current: pl.DataFrame, columns: list[str]) -> list[str]:
    for name, side in (("reference", reference), ("current", current)):
        missing = [column for column in columns if column not in side.columns]
        if missing:
            raise ReportInputError(
                f"Drift page, {name} table",
                expected=f"{len(columns)} columns",
                found=f"{len(missing)} missing: {listed(missing)}",
                mend=f"Pass a table that has them.{did_you_mean(missing[0], side.columns)}",
            )
    drawn = [column for column in columns if all(_has_values(side[column]) for side in (reference, current))]
    if not drawn:
        raise ReportInputError(
            "Drift page",
            expected="a column with values on both sides",
            found=f"{reference.height} reference and {current.height} current rows, values in no common column",
            mend="Look at the null rates of the drift check first.",
        )
    return drawn


def _has_values(column: pl.Series) -> bool:
    values = column.drop_nulls()
    return bool(values.is_finite().any()) if column.dtype.is_float() else len(values) > 0


def _folded(name: str, reference: pl.DataFrame, settings: ReportSettings) -> pl.Expr:
    """Draw rare categories as one: of a thousand tail numbers no two samples have the same."""
    if reference[name].dtype.is_numeric():
        return pl.col(name)
    values = reference[name].cast(pl.String).drop_nulls()
    shares = values.value_counts(normalize=True, name="share")
    common = shares.filter(pl.col("share") >= settings.minimum_category_share)[name].to_list()
    value = pl.col(name).cast(pl.String)
    return pl.when(value.is_in(common) | value.is_null()).then(value).otherwise(pl.lit(_OTHER)).alias(name)


def _sampled(frame: pl.DataFrame, score: str | None, settings: ReportSettings) -> "pd.DataFrame":
    rows = min(settings.sample_rows, frame.height)
    drawn = frame.sample(rows, seed=settings.seed)
    if score is not None:
        scores = frame[score].drop_nulls()
        scores = scores.sample(min(rows, len(scores)), seed=settings.seed)
        drawn = drawn.with_columns(scores.extend_constant(None, rows - len(scores)).alias(score))
    return drawn.to_pandas()


def _distance(reference: "pd.Series", current: "pd.Series") -> float:
    distance = _ks if reference.dtype.kind in "iuf" else _variation
    return distance(reference.dropna(), current.dropna())


def _ks(reference: "pd.Series", current: "pd.Series") -> float:
    return kolmogorov_smirnov(reference.to_numpy(), current.to_numpy()).effect


def _variation(reference: "pd.Series", current: "pd.Series") -> float:
    categories = sorted({*reference.unique(), *current.unique()})
    counts = [side.value_counts().reindex(categories, fill_value=0).to_numpy() for side in (reference, current)]
    return total_variation(*counts).effect


def _snapshot(
    reference: "pd.DataFrame",
    current: "pd.DataFrame",
    score: str | None,
    limits: dict[str, float] | None,
    settings: ReportSettings,
) -> Any:
    # Read by Evidently when it is imported; a page must never depend on a network, nor tell anyone of its making.
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
        # One drifted column is worth the headline; Evidently's own would ask for half of them.
        drift_share=1 / len(reference.columns),
        num_method=_KS,
        num_threshold=settings.minimum_ks,
        cat_method=_TOTAL_VARIATION,
        cat_threshold=settings.minimum_total_variation,
        per_column_threshold=limits,
    )
    # No counts of rows or of missing values: on the page they would be those of the sample.
    report = Report([*first, table])
    return report.run(
        Dataset.from_pandas(current, data_definition=definition),
        Dataset.from_pandas(reference, data_definition=definition),
    )


@cache
def _register_distances() -> None:
    """Make the rule's distances known to Evidently by name, once per process (its registry is a global)."""
    from evidently.legacy.calculations.stattests import register_stattest
    from evidently.legacy.calculations.stattests.registry import StatTest
    from evidently.legacy.core import ColumnType

    def judged(distance: Callable[["pd.Series", "pd.Series"], float]) -> Callable[..., tuple[float, bool]]:
        def judge(
            reference: "pd.Series", current: "pd.Series", _kind: ColumnType, threshold: float
        ) -> tuple[float, bool]:
            measured = distance(reference, current)
            return measured, measured > threshold

        return judge

    register_stattest(StatTest(_KS, "Kolmogorov-Smirnov distance", [ColumnType.Numerical], 0.1), judged(_ks))
    register_stattest(StatTest(_TOTAL_VARIATION, "total variation", [ColumnType.Categorical], 0.1), judged(_variation))
