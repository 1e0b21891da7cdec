"""All tasks by name: as `defs.yaml` declares them, and as stored models and tables name them."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import polars as pl
from pydantic import BeforeValidator, Field, TypeAdapter

from ml_platform.tasks.binary import BinaryTask
from ml_platform.tasks.multiclass import MulticlassTask
from ml_platform.tasks.own_metric import OwnMetrics, own_scores
from ml_platform.tasks.quantile import QuantileTask
from ml_platform.tasks.ranking import RankingTask
from ml_platform.tasks.regression import RegressionTask
from ml_platform.tasks.task import Task

FORMER_NAMES = {"classification": "binary"}
"""Names of tasks before 0.4.0, in declarations, manifests, stored models and bentos."""

TaskName = Literal["binary", "multiclass", "regression", "quantile", "ranking"]


def _with_type(given: Any) -> Any:
    if isinstance(given, Task):
        return given
    named = {"type": given} if isinstance(given, str) else given
    if isinstance(named, Mapping) and named.get("type") in FORMER_NAMES:
        return {**named, "type": FORMER_NAMES[named["type"]]}
    return named


_AnyTask = Annotated[
    BinaryTask | MulticlassTask | RegressionTask | QuantileTask | RankingTask, Field(discriminator="type")
]

DeclaredTask = Annotated[_AnyTask, BeforeValidator(_with_type, json_schema_input_type=TaskName | _AnyTask)]
"""A task in a declaration: its name, or an object with its settings and the name as ``type``."""

_ADAPTER: TypeAdapter[Task] = TypeAdapter(DeclaredTask)


def as_task(given: Task | str | Mapping[str, Any]) -> Task:
    """Return the task of a name, or of the object that ``model_dump`` wrote; a task is returned as it is.

    ``classification``, the name before 0.4.0, is the binary task. Raises ``ValidationError`` for another name.

    >>> as_task("classification").name
    'binary'
    """
    return given if isinstance(given, Task) else _ADAPTER.validate_python(given)


def realised_metrics(task: Task, outcomes: pl.DataFrame, own: OwnMetrics | None = None) -> dict[str, float]:
    """Return the metrics of logged predictions whose outcomes are known, as :meth:`Task.realised_metrics` reads them.

    ``own`` are metrics of a team's own; they get the rows of :meth:`Task.realised_rows`, and have no value without one.
    """
    found = task.realised_metrics(outcomes)
    if not own:
        return found
    label, prediction = task.realised_rows(outcomes)
    return found | own_scores(own, label, prediction) if len(label) else found
