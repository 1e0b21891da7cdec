"""Metrics by slice: the slices where a model is weakest, and those where a candidate is worse than the champion.

Evaluation and model card show the worst slices of every model, whether or not it declares a slice gate.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from ml_platform.data.settings import Settings
from ml_platform.errors import did_you_mean, listed
from ml_platform.evaluation.bootstrap import Difference, bootstrap
from ml_platform.tasks.catalog import as_task
from ml_platform.tasks.metrics import (
    HIGHER_IS_BETTER,
    Array,
    EvaluationError,
)
from ml_platform.tasks.task import Context, Task, rows_of

if TYPE_CHECKING:
    from ml_platform.evaluation.evidence import Evidence


class SliceSettings(Settings):
    """Slices that are compared, and the criterion that they must meet."""

    columns: list[str] = Field(min_length=1, description="Columns whose values define the slices.")
    metric: str = Field(default="log_loss", description="Metric compared in each slice.")
    margin: float = Field(default=0.01, ge=0, description="How much worse a slice may be, in units of the metric.")
    minimum_support: int = Field(
        default=200,
        ge=1,
        description="Rows that a slice must have to be compared alone; smaller slices are pooled in one test.",
    )
    error_rate: float = Field(default=0.05, gt=0, lt=1, description="Chance of any false alarm over all slices.")
    criterion: Literal["not_proven_worse", "proven_not_worse"] = Field(
        default="not_proven_worse",
        description="Fail on slices that are proven worse, or on all slices that are not proven safe.",
    )


@dataclass(frozen=True)
class SliceScore:
    """A metric of one model in one slice."""

    column: str
    value: str
    rows: int
    score: float


@dataclass(frozen=True)
class SliceComparison:
    """A slice in which candidate and champion were compared; both flags are adjusted for the number of slices."""

    column: str
    value: str
    rows: int
    difference: Difference
    proven_worse: bool
    proven_not_worse: bool


def worst_slices(
    label: npt.ArrayLike,
    prediction: npt.ArrayLike,
    slices: pl.DataFrame,
    *,
    metric: str = "log_loss",
    minimum_support: int = 200,
    limit: int = 10,
    task: Task | str = "binary",
    context: Context | None = None,
) -> list[SliceScore]:
    """Return the ``limit`` slices with the worst ``metric``, worst first, by fairlearn's ``MetricFrame``.

    Rows with a null form their own slice (``'null'``). The result leaves out slices with fewer than
    ``minimum_support`` rows, and slices in which the metric has no value because they have one class only.
    """
    from fairlearn.metrics import MetricFrame

    truth, predicted = np.asarray(label, np.float64), np.asarray(prediction, np.float64)
    # MetricFrame takes one number per row, so the functions find the rows of a prediction by their position.
    positions = np.arange(len(truth))
    functions = {"rows": _rows, metric: _metric_or_nan(metric, as_task(task), predicted, context or {})}
    scores: list[SliceScore] = []
    for column in slices.columns:
        features = slices[column].cast(pl.String).fill_null("null").to_numpy()
        frame = MetricFrame(metrics=functions, y_true=truth, y_pred=positions, sensitive_features=features)
        for value, row in frame.by_group.iterrows():
            if row["rows"] >= minimum_support and np.isfinite(row[metric]):
                scores.append(SliceScore(column, str(value), int(row["rows"]), float(row[metric])))
    return sorted(scores, key=lambda each: each.score, reverse=metric not in HIGHER_IS_BETTER)[:limit]


def compare_slices(
    evidence: "Evidence", settings: SliceSettings, opponent: str = "champion", small_slices_p_value: float | None = None
) -> tuple[list[SliceComparison], bool]:
    """Return the comparison of candidate and ``opponent`` in every slice with enough rows, by a paired bootstrap.

    ``proven_worse`` means worse by more than the margin, and ``proven_not_worse`` means not worse by more than the
    margin. Each has a family-wise error of ``error_rate`` by Holm's method (1979, A simple sequentially rejective
    multiple test procedure). The second value says whether the pooled small slices, whose p-value is given, are
    proven worse as one more test of this family. The result leaves out slices with one class or one block.
    """
    compared = list(_slice_differences(evidence, settings, opponent))
    p_values = [1.0 - each.one_sided_p_value(-settings.margin) for _, _, each in compared]
    worse = holm([*p_values, *([] if small_slices_p_value is None else [small_slices_p_value])])
    safe = holm([each.one_sided_p_value(-settings.margin) for _, _, each in compared])
    comparisons = [
        SliceComparison(column, value, each.rows, each, worse[i] < settings.error_rate, safe[i] < settings.error_rate)
        for i, (column, value, each) in enumerate(compared)
    ]
    return comparisons, small_slices_p_value is not None and worse[-1] < settings.error_rate


def slice_rows(evidence: "Evidence", settings: SliceSettings) -> Iterator[tuple[str, str, npt.NDArray[np.int64]]]:
    """Yield column, value and row numbers of each slice; rows with a null form their own slice (``'null'``).

    Raises :class:`EvaluationError` for a column that the evaluated rows lack.
    """
    for column in settings.columns:
        table = slice_table(evidence, column, f"Slice column '{column}'", "columns")
        slice_values = table[column].cast(pl.String).fill_null("null").to_numpy()
        for value in np.unique(slice_values):
            yield column, str(value), np.flatnonzero(slice_values == value)


def slice_table(evidence: "Evidence", column: str, subject: str, setting: str) -> pl.DataFrame:
    """Return the columns that define slices of the evaluated rows.

    Raises :class:`EvaluationError` about ``subject``, named by ``setting`` of a gate, if ``column`` is none of them.
    """
    table = pl.DataFrame() if evidence.slices is None else evidence.slices
    if column not in table.columns:
        raise EvaluationError(
            subject,
            expected=f"one of {listed(table.columns)}",
            found="no such column among the evaluated rows",
            fix=f"Correct '{setting}' of the gate in the model's defs.yaml.{did_you_mean(column, table.columns)}",
        )
    return table


def is_comparable(evidence: "Evidence", settings: SliceSettings, rows: npt.NDArray[np.int64]) -> bool:
    """Return whether the slice of ``rows`` has enough rows, blocks and cases for a comparison of its own."""
    if len(rows) < settings.minimum_support or len(np.unique(evidence.block[rows])) < 2:
        return False
    rarest = evidence.task.rarest_class_rows(evidence.label[rows])
    return rarest is None or rarest >= evidence.settings.minimum_cases


def holm(p_values: list[float]) -> list[float]:
    """Return the p-values adjusted for their number by step-down Bonferroni (Holm 1979), in the given order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    # As `multipletests` of statsmodels, which collects the garbage of the whole process at each call.
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factors), 1)
    found: list[float] = adjusted.tolist()
    return found


def _slice_differences(
    evidence: "Evidence", settings: SliceSettings, opponent: str
) -> Iterator[tuple[str, str, Difference]]:
    for column, value, rows in slice_rows(evidence, settings):
        if is_comparable(evidence, settings, rows):
            yield column, value, _difference(evidence, settings.metric, rows, opponent)


def _difference(evidence: "Evidence", metric: str, rows: npt.NDArray[np.int64], opponent: str) -> Difference:
    pair = {name: evidence.predictions[name][rows] for name in ("candidate", opponent)}
    settings = evidence.settings
    resamples = bootstrap(
        evidence.label[rows],
        pair,
        evidence.block[rows],
        settings,
        task=evidence.task,
        metrics=[metric],
        own=evidence.metrics,
        context=rows_of(evidence.context, rows),
    )
    return resamples.difference("candidate", opponent, metric)


def _rows(truth: Array, _: npt.NDArray[np.int64]) -> int:
    return len(truth)


def _metric_or_nan(
    metric: str, task: Task, prediction: Array, context: Context
) -> Callable[[Array, npt.NDArray[np.int64]], float]:
    def value(truth: Array, positions: npt.NDArray[np.int64]) -> float:
        rows = np.asarray(positions)
        if not task.is_comparable(truth):
            return float("nan")
        return task.score(truth, prediction[rows], context=rows_of(context, rows))[metric]

    return value
