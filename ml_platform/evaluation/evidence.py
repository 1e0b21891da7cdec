"""The evidence that gates evaluate: predictions of all models on the same rows, and system checks.

Every gate is a function of one evidence, and a verdict names the evidence by one digest.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ml_platform.data.canonical import value_digest
from ml_platform.data.extensions import source_digests
from ml_platform.data.stored_names import BASELINES, with_current_names
from ml_platform.errors import did_you_mean, listed
from ml_platform.evaluation.bootstrap import ROW_UNIT, Bootstrap, BootstrapSettings, bootstrap
from ml_platform.tasks.binary import BinaryTask
from ml_platform.tasks.catalog import as_task
from ml_platform.tasks.metrics import Bounds, EvaluationError
from ml_platform.tasks.own_metric import OwnMetrics
from ml_platform.tasks.task import Context, Task

CANDIDATE = "candidate"
CHAMPION = "champion"
BASE_RATE = "base_rate"
PREDICTION, LOWER, UPPER = "prediction__", "lower__", "upper__"
"""Column prefixes in a stored table, before the model's name: its prediction, and the ends of its interval."""

CONTEXT = "context__"
"""Column prefix in a stored table, before the name of a number that the task needs of each row."""

NOT_APPROVED = ("latency_p99_ms", "importance", "threshold")
"""System checks that the digest of the evidence leaves out."""

OUTPUT = "__output__"
"""Separates the name of the model from that of the output, for a task with several outputs."""


@dataclass(frozen=True)
class SystemChecks:
    """Measurements besides predictions. None means "not measured", and no gate passes on it.

    ``importance`` is the share of each feature in the importance of the candidate, and ``threshold`` its lowest score
    that is answered as true; both follow from the candidate.
    """

    leaks: list[str] | None = None
    contract_violations: list[str] | None = None
    latency_p99_ms: float | None = None
    size_bytes: int | None = None
    importance: Mapping[str, float] | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class UnscoredChampion:
    """Why a champion has no predictions, and whether the candidate is ``judged_alone``, as declared."""

    reason: str
    judged_alone: bool


@dataclass(frozen=True)
class Evidence:
    """Labelled rows that no model here was fitted, tuned or calibrated on, with the predictions of all models.

    ``predictions`` maps ``candidate``, ``champion`` (absent for the first version) and the names of baselines to arrays
    of the same length as ``label``. ``block`` is the bootstrap unit of each row. ``slices`` is a table of the same
    height whose columns define slices. ``bounds`` maps models to the interval ends that a regression predicts.
    ``context`` has the numbers of each row that the metrics of the task need.

    ``candidate_is_newer`` is true when the candidate saw newer data than the champion. ``champion_fitted_on_rows`` is
    true when the champion was fitted on some of these rows, the one exception to the first sentence: it belongs to a
    later partition, or rows of a table have changed their parts since. ``metrics`` are those of a team's own, by name.

    ``unscored_champion`` is set when there is a champion whose own features cannot be had for these rows: it has no
    predictions. ``feature_notes`` say where versions have features from that these rows have by other code.
    """

    label: npt.NDArray[np.float64]
    predictions: Mapping[str, npt.NDArray[np.float64]]
    block: npt.NDArray[Any]
    slices: pl.DataFrame | None = None
    candidate_is_newer: bool = False
    champion_fitted_on_rows: bool = False
    system_checks: SystemChecks = field(default_factory=SystemChecks)
    task: Task = field(default_factory=BinaryTask)
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    context: Context = field(default_factory=dict)
    settings: BootstrapSettings = field(default_factory=BootstrapSettings)
    metrics: OwnMetrics = field(default_factory=dict)
    unscored_champion: UnscoredChampion | None = None
    feature_notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", as_task(self.task))
        columns = {**self.predictions, **self.context, "block": self.block}
        lengths = {name: len(values) for name, values in columns.items()}
        if self.slices is not None:
            lengths["slices"] = self.slices.height
        wrong_lengths = {name: length for name, length in lengths.items() if length != len(self.label)}
        if wrong_lengths:
            raise EvaluationError(
                "Evidence",
                expected=f"{len(self.label)} rows everywhere, one per label",
                found=", ".join(f"{length} in '{name}'" for name, length in wrong_lengths.items()),
                fix="Score candidate, champion and baselines on the same rows.",
            )
        if CANDIDATE not in self.predictions:
            raise EvaluationError(
                "Evidence",
                expected=f"predictions of '{CANDIDATE}'",
                found=f"only {sorted(self.predictions)}",
                fix="Predict the evaluation rows with the candidate first.",
            )
        object.__setattr__(self, "_resampled", {})

    @property
    def baselines(self) -> list[str]:
        """Return the names of all models other than candidate and champion."""
        return [name for name in self.predictions if name not in (CANDIDATE, CHAMPION)]

    def resampled(self, metric: str) -> Bootstrap:
        """Return the bootstrap of ``metric`` for all models. It is cached, so every gate reads the same draws."""
        cache: dict[str, Bootstrap] = object.__getattribute__(self, "_resampled")
        if metric not in cache:
            cache[metric] = bootstrap(
                self.label,
                self.predictions,
                self.block,
                self.settings,
                task=self.task,
                metrics=[metric],
                bounds=self.bounds,
                own=self.metrics,
                context=self.context,
            )
        return cache[metric]

    @classmethod
    def from_table(
        cls, table: pl.DataFrame, *, task: Task | str, settings: BootstrapSettings, metrics: OwnMetrics | None = None
    ) -> "Evidence":
        """Return the evidence of a table from :meth:`to_table`, without system checks. Reports read it."""
        lower, upper = (_columns_by_model(table, prefix) for prefix in (LOWER, UPPER))
        predictions, outputs = _predictions_by_model(table)
        slices = table.select(pl.exclude("label", "block", f"^({PREDICTION}|{LOWER}|{UPPER}|{CONTEXT}).*$"))
        return cls(
            label=table["label"].to_numpy(),
            predictions=predictions,
            block=table["block"].to_numpy(),
            slices=slices if slices.width else None,
            bounds={name: (ends, upper[name]) for name, ends in lower.items()},
            context={
                name.removeprefix(CONTEXT): table[name].to_numpy() for name in table.columns if name.startswith(CONTEXT)
            },
            task=as_task(task).with_outputs(outputs),
            settings=settings,
            metrics=metrics or {},
        )

    def to_table(self) -> pl.DataFrame:
        """Return the table to store: per evaluated row the label, block number, predictions, bounds and slices."""
        columns = self._prediction_columns()
        columns |= {f"{LOWER}{name}": lower for name, (lower, _) in self.bounds.items()}
        columns |= {f"{UPPER}{name}": upper for name, (_, upper) in self.bounds.items()}
        columns |= {f"{CONTEXT}{name}": values for name, values in self.context.items()}
        blocks = np.unique(self.block, return_inverse=True)[1]
        table = pl.DataFrame({"label": self.label, "block": blocks, **columns})
        return table if self.slices is None else table.hstack(self.slices)

    def _prediction_columns(self) -> dict[str, npt.NDArray[np.float64]]:
        outputs = self.task.output_names
        if not outputs:
            return {f"{PREDICTION}{name}": values for name, values in self.predictions.items()}
        return {
            f"{PREDICTION}{name}{OUTPUT}{output}": values[:, column]
            for name, values in self.predictions.items()
            for column, output in enumerate(outputs)
        }

    def digest(self) -> str:
        """Return the digest of labels, predictions, blocks, slices, system checks and settings; approvals belong to it.

        The digest leaves out the latency, because no two measurements are equal and people need not approve the same
        predictions again. The latency gate evaluates each new measurement. Importance and threshold follow from the
        candidate.
        """
        blocks = np.unique(self.block, return_inverse=True)[1]
        # A task without a context keeps the digests of earlier releases.
        own: dict[str, Any] = {"metrics": source_digests(self.metrics)} if self.metrics else {}
        if self.unscored_champion is not None:
            own["unscored_champion"] = vars(self.unscored_champion)
        if self.context:
            own["context"] = {name: _array_digest(values) for name, values in self.context.items()}
        return value_digest(
            {
                **own,
                "label": _array_digest(self.label),
                "predictions": {name: _array_digest(values) for name, values in self.predictions.items()},
                "bounds": {name: [_array_digest(end) for end in ends] for name, ends in self.bounds.items()},
                "block": _array_digest(blocks),
                "slices": None if self.slices is None else _table_digest(self.slices),
                "newer": self.candidate_is_newer,
                "seen_by_champion": self.champion_fitted_on_rows,
                "facts": {name: fact for name, fact in vars(self.system_checks).items() if name not in NOT_APPROVED},
                "task": self.task.name,
                "settings": self.settings.model_dump(),
            }
        )


def bootstrap_blocks(rows: pl.DataFrame, unit: str, *, time: str, time_zone: str) -> npt.NDArray[Any]:
    """Return the block of each row: its hour, day or week of ``time``, its value of a column, or its number ('row').

    ``time`` holds UTC instants; days begin at midnight in ``time_zone``. Raises :class:`EvaluationError` for an unknown
    unit and for nulls.
    """
    if unit == ROW_UNIT:
        return np.arange(rows.height)
    periods = {"hour": "1h", "day": "1d", "week": "1w"}
    if unit not in periods and unit not in rows.columns:
        raise EvaluationError(
            f"Bootstrap unit '{unit}'",
            expected=f"'hour', 'day', 'week', 'row', or a column of the evaluated rows ({listed(rows.columns)})",
            found="neither",
            fix=f"Correct evaluation.bootstrap.unit.{did_you_mean(unit, [*periods, ROW_UNIT, *rows.columns])}",
        )
    if unit in rows.columns:
        unit_of_row = rows[unit]
    else:
        unit_of_row = rows[time].dt.convert_time_zone(time_zone).dt.truncate(periods[unit]).dt.timestamp("us")
    if unit_of_row.null_count():
        raise EvaluationError(
            f"Bootstrap unit '{unit}'",
            expected="a value in every row",
            found=f"{unit_of_row.null_count()} nulls among {rows.height} rows",
            fix="Choose a unit that has a value in every row.",
        )
    return unit_of_row.to_numpy()


def _predictions_by_model(table: pl.DataFrame) -> tuple[dict[str, npt.NDArray[np.float64]], list[str]]:
    """Return the predictions by model, and the names of the outputs; none for a task with one output."""
    columns = _columns_by_model(table, PREDICTION)
    outputs = list(dict.fromkeys(name.partition(OUTPUT)[2] for name in columns if OUTPUT in name))
    if not outputs:
        return columns, []
    models = dict.fromkeys(name.partition(OUTPUT)[0] for name in columns)
    return {
        name: np.column_stack([columns[f"{name}{OUTPUT}{output}"] for output in outputs]) for name in models
    }, outputs


def _columns_by_model(table: pl.DataFrame, prefix: str) -> dict[str, npt.NDArray[np.float64]]:
    found = [name for name in table.columns if name.startswith(prefix)]
    return with_current_names({name.removeprefix(prefix): table[name].to_numpy() for name in found}, BASELINES)


def _array_digest(values: npt.ArrayLike) -> str:
    return hashlib.sha256(np.ascontiguousarray(np.asarray(values, dtype=np.float64)).tobytes()).hexdigest()


def _table_digest(table: pl.DataFrame) -> str:
    # CSV text does not depend on the memory layout of strings in Polars.
    return hashlib.sha256(table.write_csv().encode()).hexdigest()
