"""The task that orders the rows of a group, for example the results of a search, by graded relevance."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field

from ml_platform.tasks.metrics import Array, Bounds, EvaluationError, regression_arrays
from ml_platform.tasks.resampling import Codes, resampled_mean
from ml_platform.tasks.task import Context, LabelError, MetricOptions, Task, constant, number_label

GROUP, FEATURE = "group", "feature"
"""Names in the context of the rows: the number of the group, and the feature of the baseline."""

BY_FEATURE = "by_feature"
"""Name of the baseline that orders rows by a declared feature."""

MAXIMUM_RELEVANCE = 30
"""Largest label for which LightGBM has a gain."""


class RankingTask(Task):
    """Order the rows of each group. A label is a relevance: a whole number, 0 for a row that is not relevant."""

    type: Literal["ranking"] = Field(default="ranking", description="Labels that are grades of relevance from 0.")
    group: str = Field(description="Request field whose value identifies the group of a row, for example a search.")
    k: int = Field(default=10, ge=1, description="Number of first rows of a group that NDCG counts.")
    baseline_feature: str | None = Field(
        default=None,
        description="Feature, as view__feature, by which the baseline by_feature orders, for example a popularity.",
    )

    metrics: ClassVar[tuple[str, ...]] = ("ndcg", "mean_average_precision")
    primary_metric: ClassVar[str] = "ndcg"
    baseline_metric: ClassVar[str] = "ndcg"
    slice_metric: ClassVar[str] = "ndcg"
    loss: ClassVar[str] = "lambdarank"
    label_type: ClassVar[str] = "Int64"
    score_text: ClassVar[str] = "Score that orders the rows of one group; it has no unit."
    answer_text: ClassVar[str] = "Not applicable: the endpoint returns the rank of each row in its group."

    @property
    def context_fields(self) -> dict[str, str]:
        return {"group": self.group}

    @property
    def context_features(self) -> dict[str, str]:
        return {"baseline_feature": self.baseline_feature} if self.baseline_feature else {}

    @property
    def baseline_names(self) -> list[str]:
        return [BY_FEATURE] if self.baseline_feature else []

    @property
    def loss_text(self) -> str:
        return "listwise loss"

    @property
    def ranked_rows(self) -> int | None:
        return self.k

    def encode(self, label: pl.Series, subject: str) -> Array:
        values = number_label(
            label, subject, fix="Return a relevance for each example, 0 for one that is not relevant."
        )
        invalid = values[(values != np.round(values)) | (values < 0) | (values > MAXIMUM_RELEVANCE)]
        if invalid.size:
            raise LabelError(
                subject,
                expected=f"whole numbers from 0 to {MAXIMUM_RELEVANCE}",
                found=f"{invalid.size} of {len(values)} others, for example {invalid[0]:g}",
                fix="Grade the relevance in the examples function.",
            )
        return values

    def require_evaluable(self, label: Array, subject: str) -> None:
        if not (label > 0).any():
            raise LabelError(
                subject,
                expected="rows with a relevance above 0 for the evaluation",
                found=f"none among {len(label)} rows",
                fix="Correct the label rule in the examples function, or evaluate a longer period.",
            )

    def context(self, rows: pl.DataFrame) -> dict[str, Array]:
        """Return the number of the group of each row, in order of appearance, and the feature of the baseline."""
        found = self.answer_context(rows)
        if self.baseline_feature is not None:
            found[FEATURE] = rows[self.baseline_feature].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        return found

    def answer_context(self, fields: Mapping[str, Sequence[Any]] | pl.DataFrame) -> dict[str, Array]:
        numbers: dict[Any, int] = {}
        codes = [numbers.setdefault(value, len(numbers)) for value in fields[self.group]]
        return {GROUP: np.array(codes, dtype=np.float64)}

    def baseline(self, label: Array, rows: int) -> Array:
        return constant([float(label.mean())], rows)

    def baselines(self, label: Array, context: Context, rows: Context) -> dict[str, Array]:
        """Return the order by the declared feature; rows without a value come last."""
        if FEATURE not in rows:
            return {}
        values = rows[FEATURE]
        known = values[np.isfinite(values)]
        return {BY_FEATURE: np.where(np.isfinite(values), values, known.min() - 1 if known.size else 0.0)}

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
        """Return the means over the groups of each resample; a group is drawn whole, with the block of its first row.

        ``ndcg`` has the gain 2^relevance - 1 (Burges and others 2005, Learning to rank using gradient descent) on the
        first ``k`` rows. ``mean_average_precision`` counts a relevance above 0. Groups without such a row have neither.
        Rows of equal score are ordered at random with a fixed seed, so a constant score ranks like chance.
        """
        truth, scores = regression_arrays(label, prediction)
        groups, first, group = np.unique(_groups(truth, context), return_index=True, return_inverse=True)
        rank, best = _ranks(scores, group), _ranks(truth, group)
        relevant = np.bincount(group, weights=truth > 0)
        has_value = relevant > 0
        if not has_value.any():
            raise EvaluationError(
                "Label",
                expected="a group with a relevance above 0",
                found=f"none among {len(groups)} groups",
                fix="Evaluate a longer period.",
            )
        with np.errstate(invalid="ignore", divide="ignore"):
            by_group = {
                "ndcg": self._gain(truth, rank, group) / self._gain(truth, best, group),
                "mean_average_precision": _precision(truth, rank, group) / relevant,
            }
            blocks = codes[first[has_value]]
            return {metric: resampled_mean(by_group[metric][has_value], blocks, counts) for metric in metrics}

    def losses(self, label: Array, outputs: Array, context: Context | None = None) -> Array:
        """Return the part of each row in the listwise loss of its group (Cao and others 2007, Learning to rank)."""
        group = np.unique(_groups(label, context), return_inverse=True)[1]
        scores = outputs[:, 0]
        largest = np.full(group.max() + 1, -np.inf)
        np.maximum.at(largest, group, scores)
        odds = np.exp(scores - largest[group])
        log_share = scores - largest[group] - np.log(np.bincount(group, weights=odds))[group]
        relevance = np.bincount(group, weights=label)[group]
        return np.asarray(-np.divide(label, relevance, out=np.zeros_like(label), where=relevance > 0) * log_share)

    def is_comparable(self, label: Array) -> bool:
        return bool((label > 0).any())

    def summary(self, label: Array) -> dict[str, float]:
        return {"base_rate": float((label > 0).mean())}

    @property
    def details(self) -> dict[str, Any]:
        return {
            "rank": {"type": "integer", "description": "Rank of the row in its group, from 1 for the highest score."},
            "group": {"type": "integer", "description": "Number of the group in the request, by appearance from 1."},
        }

    def answer_details(
        self, prediction: Array, half_width: float | Array | None, context: Context | None = None
    ) -> list[dict[str, Any]] | None:
        group = _groups(prediction, context).astype(np.int64)
        # Rows of equal score keep the order of the request.
        order = np.lexsort((np.arange(len(prediction)), -prediction, group))
        ranks = _positions(group, order)
        return [{"rank": int(rank), "group": int(of) + 1} for rank, of in zip(ranks, group, strict=True)]

    def realised_metrics(self, outcomes: pl.DataFrame) -> dict[str, float]:
        """Return the metrics over the groups of logged requests: rows of one request with one number of a group."""
        numbers = [json.loads(text)["group"] for text in outcomes["details"]]
        pairs: dict[Any, int] = {}
        groups = [
            pairs.setdefault(each, len(pairs)) for each in zip(outcomes["request_id"].to_list(), numbers, strict=True)
        ]
        label = outcomes["outcome"].to_numpy()
        context = {GROUP: np.array(groups, dtype=np.float64)}
        if not self.is_comparable(label):
            return self.summary(label)
        return self.score(label, outcomes["score"].to_numpy(), context=context) | self.summary(label)

    def _gain(self, truth: Array, rank: Array, group: Codes) -> Array:
        """Return the discounted gain of the first ``k`` rows of each group."""
        gains = np.where(rank <= self.k, (np.exp2(truth) - 1) / np.log2(rank + 1), 0.0)
        return np.bincount(group, weights=gains).astype(np.float64)


def _groups(rows: Array, context: Context | None) -> Array:
    """Return the group of each row; without a context, all rows are one group."""
    return (context or {}).get(GROUP, np.zeros(len(rows)))


def _ranks(values: Array, group: Codes) -> Array:
    """Return the rank of each row in its group, from 1 for the largest value; ties are ordered at random."""
    noise = np.random.default_rng(0).random(len(values))
    return _positions(group, np.lexsort((noise, -values, group)))


def _positions(group: Codes, order: Any) -> Array:
    """Return the position of each row in its group, from 1, where ``order`` sorts the rows by group first."""
    ordered = group[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    sizes = np.diff(np.append(starts, len(ordered)))
    positions = np.empty(len(ordered), dtype=np.float64)
    positions[order] = np.arange(len(ordered)) - np.repeat(starts, sizes) + 1
    return positions


def _precision(truth: Array, rank: Array, group: Codes) -> Array:
    """Return for each group the sum of the precision at the rank of each relevant row."""
    order = np.lexsort((rank, group))
    relevant, ordered = (truth[order] > 0).astype(np.float64), group[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    found = np.cumsum(relevant)
    before = np.append(0.0, found)[starts]
    within = found - np.repeat(before, np.diff(np.append(starts, len(ordered))))
    return np.bincount(ordered, weights=relevant * within / rank[order]).astype(np.float64)
