"""The protocol of baselines of a team's own, which a model declares under `evaluation.baselines`."""

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import polars as pl

from ml_platform.data.extensions import Extension
from ml_platform.tasks.metrics import Array
from ml_platform.tasks.task import Task
from ml_platform.training.splits import LABEL, Split


class Baseline(Extension):
    """A simple prediction that a candidate must beat, for example the average of each group or the present rule."""

    kind: ClassVar[str] = "baseline"

    @abstractmethod
    def predict(self, known: pl.DataFrame, test: pl.DataFrame, task: Task) -> Array:
        """Return the predictions of the rows of ``test``, shape (rows,), or (rows, outputs) with several outputs.

        ``known`` has the training and validation rows in order of time, with request fields, features and the column
        ``label``. ``test`` has the same columns without labels.
        """


def baseline_prediction(baseline: Baseline, split: Split, task: Task) -> Array:
    """Return the prediction of ``baseline`` for the test rows of ``split``.

    Raises :class:`~ml_platform.data.extensions.ExtensionError` for another shape, and for values that are not finite.
    """
    hidden = [name for name in split.test.columns if name == LABEL or name.startswith("label_")]
    found = np.asarray(baseline.predict(split.known, split.test.drop(hidden), task), dtype=np.float64)
    rows = split.test.height
    expected = (rows, task.outputs) if task.output_names else (rows,)
    if found.shape != expected:
        raise baseline.error(expected=f"predictions of shape {expected}", found=f"shape {found.shape}")
    not_finite = int((~np.isfinite(found)).sum())
    if not_finite:
        raise baseline.error(expected="finite predictions", found=f"{not_finite} of {found.size} that are not")
    return found
