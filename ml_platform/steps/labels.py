"""The labels of a model from a dataset of their own: the rows for a partition, as of the time until which they landed.

That time is the end of the last partition of the labels before the first one that is missing. It depends on the data
only, not on the clock of the machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile

import polars as pl

from ml_platform.data.lake import PARTITION, Lake
from ml_platform.features.view import PREDICT_AT
from ml_platform.steps.model import BoundModel
from ml_platform.training.labels import LABEL, LandedLabels, rows_without_example


@dataclass(frozen=True)
class LabelCounts:
    """How far the training set of one partition is labelled.

    ``until`` is the time until which the labels landed without a gap, ``due`` the time at which all are due.
    ``without_example`` counts the label rows known within the partition whose key is that of no stored example.
    """

    labelled: int
    unlabelled: int
    until: datetime
    due: datetime
    without_example: int


def labels_table(model: BoundModel) -> str | None:
    """Return the lake table of the labels; None when the examples have labels themselves."""
    labels = model.declared.labels
    return None if labels is None else f"datasets/{labels.dataset}"


def landed_labels(model: BoundModel, key: str, lake: Lake, version: int | None = None) -> LandedLabels | None:
    """Return the label rows that the training set of ``key`` reads; None when the examples have labels themselves.

    ``version`` is that of the table of labels (None: the latest). Raises :class:`~ml_platform.data.lake.LakeError`
    when no partition of the labels has ever landed.
    """
    return read_labels(model, key, key, lake, version)


def read_labels(
    model: BoundModel, first: str, last: str, lake: Lake, version: int | None = None
) -> LandedLabels | None:
    """Return the label rows for the examples of the partitions ``first`` to ``last``, as :func:`landed_labels`."""
    labels, table = model.declared.labels, labels_table(model)
    scheme = None if labels is None else model.dataset_scheme(labels.dataset)
    if labels is None or table is None or scheme is None:
        return None
    start, end = model.predicted_in(first)[0], model.predicted_in(last)[1]
    needed = scheme.covering(start, end + labels.wait)
    stored = lake.digests(table, needed) if version is None else set(lake.partitions(table, version))
    present = list(takewhile(lambda each: each in stored, needed))
    until = scheme.bounds(present[-1])[1] if present else scheme.bounds(needed[0])[0] if needed else start
    return LandedLabels(labels, lake.scan(table, version, present), until, start, end)


def count_labels(model: BoundModel, partitions: Sequence[str], lake: Lake) -> dict[str, LabelCounts]:
    """Return the counts of each of ``partitions`` of the training set, read from the lake; empty without labels."""
    labels, found = model.declared.labels, {}
    for key in partitions if labels is not None else ():
        landed = landed_labels(model, key, lake)
        assert landed is not None
        column = lake.scan(model.table, partitions=[key]).select(LABEL).collect().to_series()
        found[key] = LabelCounts(
            labelled=column.len() - column.null_count(),
            unlabelled=column.null_count(),
            until=landed.until,
            due=landed.end + landed.settings.wait,
            without_example=_without_example(model, key, lake, landed),
        )
    return found


def _without_example(model: BoundModel, key: str, lake: Lake, landed: LandedLabels) -> int:
    """Return the number of label rows that became known in ``key`` and that no stored example can have."""
    start, end = model.partitions.bounds(key)
    known_at = pl.col(landed.settings.known_at)
    own = LandedLabels(landed.settings, landed.rows.filter(known_at >= start, known_at < end), landed.until, start, end)
    before = model.partitions.covering(start - landed.settings.wait, start)
    stored = model.partitions.sort(str(each) for each in lake.digests(model.table, [*before, key]))
    columns = [*landed.settings.keys, PREDICT_AT]
    return rows_without_example(lake.scan(model.table, partitions=stored).select(columns).collect(), own)


def stored_labels(model: BoundModel, partitions: Sequence[str], lake: Lake) -> pl.DataFrame:
    """Return the columns of the training set that its labels are joined by and to, with ``partition``."""
    labels = model.declared.labels
    keys = [] if labels is None else list(labels.keys)
    return (
        lake.scan(model.table, partitions=partitions).select(PARTITION, *keys, PREDICT_AT, LABEL, "label_known_at")
    ).collect()
