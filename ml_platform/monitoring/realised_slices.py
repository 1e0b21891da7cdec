"""Realised metrics in the slices of a period: the values of declared request fields, such as one airport."""

from collections.abc import Callable, Mapping

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from ml_platform.monitoring.outcomes import OUTCOME

SLICE_PREFIX = "slice."
MOST_SLICES = 20
"""Slices of one field that are measured, those with the most labels; a field may have any number of values."""


class SliceMetrics(BaseModel):
    """The realised metrics of one version in one slice of a period."""

    model_config = ConfigDict(frozen=True)

    field: str
    value: str = Field(description="Value of the field as text; 'null' for requests without one.")
    labelled: int
    base_rate: float | None = Field(description="Mean outcome; null for outcomes that are classes.")
    metrics: dict[str, float]


def slice_column(field: str) -> str:
    """Return the column of a request field that defines slices; it never hides another column."""
    return f"{SLICE_PREFIX}{field}"


def slice_metrics(
    labelled: pl.DataFrame, compute_metrics: Callable[[pl.DataFrame], Mapping[str, float]], minimum_labels: int
) -> list[SliceMetrics]:
    """Return the metrics of each slice of ``labelled`` with ``minimum_labels`` rows and more than one outcome.

    ``labelled`` has ``outcome``, and one column by :func:`slice_column` for each field. The slices of a field come in
    the order of their values, at most :data:`MOST_SLICES` of them.
    """
    found = []
    for column in (name for name in labelled.columns if name.startswith(SLICE_PREFIX)):
        values = labelled[column].cast(pl.String).fill_null("null")
        counts = values.value_counts().sort("count", column, descending=[True, False])
        kept = counts.filter(pl.col("count") >= minimum_labels)[column].head(MOST_SLICES)
        for value in sorted(kept):
            rows = labelled.filter(values == value)
            if rows[OUTCOME].n_unique() > 1:
                outcome = rows[OUTCOME]
                found.append(
                    SliceMetrics(
                        field=column.removeprefix(SLICE_PREFIX),
                        value=value,
                        labelled=rows.height,
                        base_rate=float(outcome.to_numpy().mean()) if outcome.dtype.is_numeric() else None,
                        metrics=dict(compute_metrics(rows)),
                    )
                )
    return found
