"""The task with several classes: a probability for each, and the most probable class as answer."""

import json
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
from pydantic import Field

from ml_platform.data.roc_auc import auc
from ml_platform.errors import listed
from ml_platform.tasks import resampled_auc
from ml_platform.tasks.binary import resampled_ece
from ml_platform.tasks.metrics import Array, Bounds, EvaluationError, ece
from ml_platform.tasks.resampling import Codes, resampled_mean, resampled_sum
from ml_platform.tasks.task import (
    Context,
    LabelError,
    MetricOptions,
    Task,
    named_outputs,
    output_arrays,
    outputs_schema,
)

MINIMUM_CLASSES = 2
MINIMUM_CLASS_ROWS = 2
"""Training rows that a class needs: from one row nothing can be learned about other rows."""


class MulticlassTask(Task):
    """Predict the probability of each class. A label is a class, and its code is the position in ``classes``."""

    type: Literal["multiclass"] = Field(default="multiclass", description="Labels that are classes: text or integers.")
    classes: list[str] | list[int] = Field(
        default_factory=list, description="The classes in order; empty: those of the training rows, sorted."
    )

    metrics: ClassVar[tuple[str, ...]] = (
        "log_loss",
        "accuracy",
        "balanced_accuracy",
        "macro_f1",
        "top_2_accuracy",
        "auc",
        "brier",
        "ece",
    )
    primary_metric: ClassVar[str] = "log_loss"
    baseline_metric: ClassVar[str] = "log_loss"
    slice_metric: ClassVar[str] = "log_loss"
    loss: ClassVar[str] = "multinomial"
    label_type: ClassVar[str] = "String or Int64"
    has_probabilities: ClassVar[bool] = True
    score_text: ClassVar[str] = "Probability of the most probable class."
    answer_text: ClassVar[str] = "Not applicable: the endpoint returns the most probable class and all probabilities."

    @property
    def output_names(self) -> list[str]:
        return [str(each) for each in self.classes]

    def with_outputs(self, names: Sequence[str]) -> Self:
        return self if self.output_names == list(names) else self.model_copy(update={"classes": list(names)})

    def fitted_to(self, label: pl.Series, subject: str) -> Self:
        if not (label.dtype == pl.String or label.dtype.is_integer() or label.dtype in (pl.Categorical, pl.Enum)):
            raise LabelError(
                subject,
                expected="classes as text or integers",
                found=f"{label.dtype} values",
                fix="Return the class of each example, or declare task: regression.",
            )
        text = label if label.dtype.is_integer() else label.cast(pl.String)
        counts = text.drop_nulls().value_counts().sort(text.name)
        found: list[Any] = counts[text.name].to_list()
        unknown = [each for each in found if self.classes and each not in self.classes]
        absent = [each for each in self.classes if each not in found]
        if unknown or absent:
            raise LabelError(
                subject,
                expected=f"rows of exactly the declared classes: {_named(self.classes)}",
                found=f"none of {_named(absent)}" if absent else f"also {_named(unknown)}",
                fix="Correct 'classes' of the task in the model's defs.yaml, or the label rule.",
            )
        rare = counts.filter(pl.col("count") < MINIMUM_CLASS_ROWS)[text.name].to_list()
        if rare or len(found) < MINIMUM_CLASSES:
            raise LabelError(
                subject,
                expected=f"at least {MINIMUM_CLASSES} classes with {MINIMUM_CLASS_ROWS} rows each",
                found=f"one row of {_named(rare)}" if rare else f"only {_named(found)}",
                fix="Join rare classes in the examples function, or train on more partitions.",
            )
        return self.model_copy(update={"classes": self.classes or found})

    def encode(self, label: pl.Series, subject: str) -> Array:
        text = label if label.dtype.is_integer() else label.cast(pl.String)
        codes = {str(each): code for code, each in enumerate(self.classes)}
        values = [None if each is None else codes.get(str(each)) for each in text.to_list()]
        unseen = sorted({str(each) for each, code in zip(text.to_list(), values, strict=True) if code is None})
        if unseen:
            raise LabelError(
                subject,
                expected=f"classes of the training rows: {_named(self.classes)}",
                found=f"{values.count(None)} of {len(values)} rows of other classes: {_named(unseen)}",
                fix="Train on partitions that have these classes, or join rare classes in the examples function.",
            )
        return np.array(values, dtype=np.float64)

    def require_evaluable(self, label: Array, subject: str) -> None:
        present = set(np.unique(label).astype(int))
        vanished = [each for code, each in enumerate(self.classes) if code not in present]
        if vanished:
            raise LabelError(
                subject,
                expected=f"rows of every class for the evaluation: {_named(self.classes)}",
                found=f"none of {_named(vanished)} among {len(label)} rows",
                fix="Evaluate a longer period, or join rare classes in the examples function.",
            )

    def aligned(self, prediction: Array, task: Task) -> Array:
        columns = {name: column for column, name in enumerate(task.output_names)}
        none = np.zeros(len(prediction))
        return np.column_stack(
            [prediction[:, columns[name]] if name in columns else none for name in self.output_names]
        )

    def baseline(self, label: Array, rows: int) -> Array:
        shares = np.bincount(label.astype(np.int64), minlength=len(self.classes)) / len(label)
        return np.tile(shares, (rows, 1))

    def score(
        self,
        label: Any,
        prediction: Any,
        bounds: Bounds | None = None,
        options: MetricOptions | None = None,
        context: Context | None = None,
    ) -> dict[str, float]:
        return self._metrics(*self._arrays(label, prediction), self._codes)

    def _metrics(self, truth: Array, shares: Array, codes: range) -> dict[str, float]:
        """Return the metrics; those over all classes are means over the classes ``codes``."""
        recalls = self.recalls(truth, shares)
        one_against_rest = [((truth == code).astype(np.float64), shares[:, code]) for code in codes]
        return {
            "log_loss": float(self.losses(truth, shares).mean()),
            "accuracy": float((shares.argmax(axis=1) == truth).mean()),
            "balanced_accuracy": float(np.mean(list(recalls.values()))),
            "macro_f1": float(np.mean([_f1(truth == code, shares.argmax(axis=1) == code) for code in codes])),
            "top_2_accuracy": float(_in_top(truth, shares, 2).mean()),
            "auc": float(np.mean([auc(*each) for each in one_against_rest])),
            "brier": float(_squared_errors(truth, shares).mean()),
            "ece": float(np.mean([ece(*each) for each in one_against_rest])),
        }

    def resampled(
        self,
        label: Any,
        prediction: Any,
        codes: Codes,
        counts: Array,
        metrics: Sequence[str],
        *,
        bounds: Bounds | None = None,
        options: MetricOptions | None = None,
        context: Context | None = None,
    ) -> dict[str, Array]:
        truth, shares = self._arrays(label, prediction)
        answer = shares.argmax(axis=1)
        rows = {
            "log_loss": self.losses(truth, shares),
            "accuracy": (answer == truth).astype(np.float64),
            "top_2_accuracy": _in_top(truth, shares, 2),
            "brier": _squared_errors(truth, shares),
        }
        values: dict[str, Array] = {}
        for metric in metrics:
            if metric in rows:
                values[metric] = resampled_mean(rows[metric], codes, counts)
                continue
            by_class = [
                _resampled_one_against_rest(metric, truth == code, answer == code, shares[:, code], codes, counts)
                for code in self._codes
            ]
            values[metric] = np.asarray(np.mean(by_class, axis=0))
        return values

    def losses(self, label: Array, outputs: Array, context: Context | None = None) -> Array:
        epsilon = np.finfo(np.float64).eps
        known = np.nan_to_num(label).astype(np.int64)
        losses = -np.log(np.clip(outputs[np.arange(len(label)), known], epsilon, 1.0))
        return np.where(np.isnan(label), np.nan, losses)

    def is_comparable(self, label: Array) -> bool:
        return len(np.unique(label)) == len(self.classes)

    def rarest_class_rows(self, label: Array) -> int | None:
        return int(np.bincount(label.astype(np.int64), minlength=len(self.classes)).min())

    def summary(self, label: Array) -> dict[str, float]:
        return {f"share_{each}": float((label == code).mean()) for code, each in enumerate(self.classes)}

    def recalls(self, label: Array, prediction: Array) -> dict[str, float]:
        """Return by class the share of its rows for which it is the most probable class."""
        answer = prediction.argmax(axis=1)
        return {
            name: float((answer[label == code] == code).mean())
            for code, name in enumerate(self.output_names)
            if (label == code).any()
        }

    def confusion(self, label: Array, prediction: Array) -> Array:
        """Return the number of rows by class and answer, shape (classes, classes)."""
        size = len(self.classes)
        cells = label.astype(np.int64) * size + prediction.argmax(axis=1)
        return np.bincount(cells, minlength=size * size).reshape(size, size).astype(np.float64)

    def probabilities(self, label: Array, prediction: Array) -> dict[str, tuple[Array, Array]]:
        return {
            name: ((label == code).astype(np.float64), prediction[:, code])
            for code, name in enumerate(self.output_names)
        }

    def tables(self, label: Array, prediction: Array) -> dict[str, list[dict[str, Any]]]:
        recalls, confusion = self.recalls(label, prediction), self.confusion(label, prediction)
        answered = confusion.sum(axis=0)
        return {
            "Classes": [
                {
                    "class": name,
                    "rows": int(confusion[code].sum()),
                    "recall": recalls.get(name),
                    "precision": float(confusion[code, code] / answered[code]) if answered[code] else None,
                }
                for code, name in enumerate(self.output_names)
            ],
            "Confusion: rows by class and answer": [
                {"class": name} | dict(zip(self.output_names, map(int, confusion[code]), strict=True))
                for code, name in enumerate(self.output_names)
            ],
        }

    @property
    def details(self) -> dict[str, Any]:
        return {"probabilities": outputs_schema(self, "Probability of each class; they add up to 1.")}

    @property
    def answer_schema(self) -> dict[str, Any]:
        return {"enum": list(self.classes), "description": "The most probable class."}

    def answer_details(
        self, prediction: Array, half_width: float | Array | None, context: Context | None = None
    ) -> list[dict[str, Any]] | None:
        return [{"probabilities": probabilities} for probabilities in named_outputs(self, prediction)]

    def scores(self, prediction: Array) -> Array:
        return np.asarray(prediction.max(axis=1))

    def labels(self, prediction: Array, threshold: float | None) -> list[Any]:
        return [self.classes[code] for code in prediction.argmax(axis=1).tolist()]

    @property
    def outcome_type(self) -> pl.DataType:
        return pl.String()

    def realised_metrics(self, outcomes: pl.DataFrame) -> dict[str, float]:
        """Return the metrics over the classes that occurred.

        A class that the version does not know has probability 0, so it counts as wrong. Classes that did not occur in
        the period have no recall, so the metrics over all classes leave them out.
        """
        answered = [json.loads(text)["probabilities"] for text in outcomes["details"]]
        present = sorted(set(outcomes["outcome"].to_list()))
        names = [*present, *sorted({name for each in answered for name in each} - set(present))]
        codes = {name: code for code, name in enumerate(names)}
        label = np.array([codes[each] for each in outcomes["outcome"]], dtype=np.float64)
        shares = np.array([[each.get(name, 0.0) for name in names] for each in answered], dtype=np.float64)
        task = self.model_copy(update={"classes": names})
        return task._metrics(label, shares, range(len(present))) | task.summary(label)

    def realised_rows(self, outcomes: pl.DataFrame) -> tuple[Array, Array]:
        """Return the code of the class of each row, and the probability of each class of the version.

        The classes have the order in which the version answers them. Rows of a class that it does not know are left
        out: they have no code.
        """
        task, shares = self.logged_predictions(outcomes)
        codes = {name: code for code, name in enumerate(task.output_names)}
        known = [at for at, name in enumerate(outcomes["outcome"]) if name in codes]
        label = np.array([codes[outcomes["outcome"][at]] for at in known], dtype=np.float64)
        return label, shares[known]

    def logged_predictions(self, rows: pl.DataFrame) -> tuple[Self, Array]:
        answered = [json.loads(text)["probabilities"] for text in rows["details"]]
        names = list(answered[0])
        shares = np.array([[each[name] for name in names] for each in answered], dtype=np.float64)
        return self.with_outputs(names), shares

    @property
    def _codes(self) -> range:
        return range(len(self.classes))

    def _arrays(self, label: Any, prediction: Any) -> tuple[Array, Array]:
        truth, shares = output_arrays(self, label, prediction, "probability of each class")
        vanished = [name for code, name in enumerate(self.output_names) if not (truth == code).any()]
        if vanished:
            raise EvaluationError(
                "Label",
                expected="rows of every class",
                found=f"none of {_named(vanished)} among {len(truth)} rows",
                fix="Evaluate a longer period: a metric over all classes has no value without them.",
            )
        return truth, shares


def _named(classes: Sequence[Any]) -> str:
    return listed([str(each) for each in classes])


def _in_top(truth: Array, shares: Array, count: int) -> Array:
    """Return 1.0 for each row whose class is among the ``count`` most probable; of ties the earlier class counts."""
    top = np.argsort(-shares, axis=1, kind="stable")[:, :count]
    return np.asarray((top == truth[:, np.newaxis]).any(axis=1), dtype=np.float64)


def _squared_errors(truth: Array, shares: Array) -> Array:
    """Return the Brier score of each row, summed over the classes: 0 to 2 (Brier 1950)."""
    hit = shares[np.arange(len(truth)), truth.astype(np.int64)]
    return np.asarray(np.square(shares).sum(axis=1) - 2 * hit + 1)


def _f1(truth: Any, answered: Any) -> float:
    found = float((truth & answered).sum())
    return 2 * found / float(truth.sum() + answered.sum())


def _resampled_one_against_rest(
    metric: str, truth: Any, answered: Any, shares: Array, codes: Codes, counts: Array
) -> Array:
    label = truth.astype(np.float64)
    if metric == "auc":
        return resampled_auc.resampled_ranking_metrics(label, shares, codes, counts, precision=False)["auc"]
    if metric == "ece":
        return resampled_ece(label, shares, codes, counts)
    found = resampled_sum((truth & answered).astype(np.float64), codes, counts)
    rows = resampled_sum(label, codes, counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        if metric == "balanced_accuracy":
            return np.asarray(found / rows)
        return np.asarray(2 * found / (rows + resampled_sum(answered.astype(np.float64), codes, counts)))
