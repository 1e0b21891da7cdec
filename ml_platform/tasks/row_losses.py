"""The loss of each logged prediction with a known outcome, for tasks whose evaluation has its mean as a metric."""

import json
from collections.abc import Mapping

import numpy as np
import polars as pl

from ml_platform.tasks.metrics import Array, log_losses, pinball_losses
from ml_platform.tasks.task import Task

LOSS_METRICS: Mapping[str, str] = {
    "binary": "log_loss",
    "multiclass": "log_loss",
    "regression": "mae",
    "quantile": "pinball",
}
"""Metric of an evaluation that is the mean of :func:`row_losses`, by the name of the task. A ranking has none."""


def row_losses(task: Task, outcomes: pl.DataFrame) -> Array:
    """Return the loss of each row, at least 0, shape (rows,).

    ``outcomes`` has ``outcome`` (not null), ``score`` and ``details``, as for :meth:`Task.realised_metrics`. A class
    that the version does not know has probability 0, clipped at machine precision. Raises ``KeyError`` for a task
    without a metric in :data:`LOSS_METRICS`.
    """
    metric = LOSS_METRICS[task.name]
    if task.name == "multiclass":
        shares = [
            json.loads(details)["probabilities"].get(str(outcome), 0.0)
            for details, outcome in outcomes.select("details", "outcome").iter_rows()
        ]
        return np.asarray(-np.log(np.clip(shares, np.finfo(np.float64).eps, 1.0)))
    label, prediction = task.realised_rows(outcomes)
    if metric == "log_loss":
        return log_losses(label, prediction)
    if metric == "mae":
        return np.asarray(np.abs(prediction - label))
    levels = sorted(float(name) for name in json.loads(outcomes["details"][0])["quantiles"])
    return np.asarray(
        np.mean([pinball_losses(label, prediction[:, at], each) for at, each in enumerate(levels)], axis=0)
    )
