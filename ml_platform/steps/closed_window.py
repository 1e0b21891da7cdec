"""Whether the window of a candidate is closed: its time is over, its data landed, and its labels are due.

A model is neither trained nor judged on an open window. Each reason is a sentence for the sensor, the UI and the error.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

import polars as pl

from ml_platform.data.lake import PARTITION, Lake
from ml_platform.errors import PlatformError, listed
from ml_platform.steps.arriving import still_arriving
from ml_platform.steps.labels import labels_table, read_labels, stored_labels
from ml_platform.steps.model import BoundModel
from ml_platform.training.labels import LABEL, LABEL_KNOWN_AT, with_labels
from ml_platform.training.splits import TimeSplit


class OpenWindowError(PlatformError):
    """Raised when a candidate is trained or judged on a partition whose window is not closed."""


def require_closed_window(model: BoundModel, key: str, lake: Lake, now: datetime) -> None:
    """Raise :class:`OpenWindowError`, which names what is missing, unless the window of ``key`` is closed at ``now``.

    Datasets of the examples need no check here: no training set exists until all of its partitions have landed.
    """
    waiting = open_window(model, key, lake, now) or outdated_labels(model, key, lake)
    if waiting:
        raise OpenWindowError(
            f"Model '{model.name}', {key}",
            expected="a closed window: its time is over, its data landed, and its labels are due",
            found=f"an open one: {waiting}",
            fix="Land and materialize the missing partitions, or choose an earlier partition.",
        )


def open_window(model: BoundModel, key: str, lake: Lake, now: datetime) -> str:
    """Return why the window of ``key`` is open; empty when it is closed.

    It is closed when its time is over, its examples arrived until its end, and its labels landed until they are due. A
    model without time has no windows. Only the clocks of datasets that declare their arrival are read, no rows.
    """
    if not model.has_time:
        return ""
    end = model.partitions.bounds(key)[1]
    if now < end:
        return f"{key} ends at {_shown(end)}"
    return still_arriving(model, key, lake) or _missing_labels(model, key, lake)


def window_ends(model: BoundModel, keys: Iterable[str]) -> list[str]:
    """Return those of ``keys`` with which a test part ends, in order of time; all of them without a declared step."""
    ordered, split = model.partitions.sort(keys), model.declared.split
    if not isinstance(split, TimeSplit) or split.step is None:
        return ordered
    first = model.declared.first_candidate or model.partitions.first
    return [key for key in ordered if split.ends_window(key, first, model.partitions)]


def following_window(model: BoundModel, key: str) -> str:
    """Return the partition with which the next test part after that of ``key`` ends."""
    following = model.partitions.shift(key, 1)
    while not window_ends(model, [following]):
        following = model.partitions.shift(following, 1)
    return following


def labels_due(model: BoundModel, key: str) -> datetime:
    """Return the time at which all labels of the partition ``key`` are due; its end without labels of their own."""
    labels = model.declared.labels
    return model.partitions.bounds(key)[1] + (timedelta() if labels is None else labels.wait)


def latest_due(model: BoundModel, keys: "list[str]", lake: Lake) -> str | None:
    """Return the latest of ``keys`` whose labels are due by the last landed partition of labels; None before it.

    All keys are due when the examples have labels themselves.
    """
    ordered = model.partitions.sort(keys)
    until = landed_until(model, lake)
    if model.declared.labels is None:
        return ordered[-1] if ordered else None
    return next((key for key in reversed(ordered) if until is not None and labels_due(model, key) <= until), None)


def landed_until(model: BoundModel, lake: Lake) -> datetime | None:
    """Return the end of the last landed partition of labels; None without any, or without labels of their own."""
    labels, table = model.declared.labels, labels_table(model)
    scheme = None if labels is None else model.dataset_scheme(labels.dataset)
    stored = [key for key in lake.digests(table) if key is not None] if table else []
    return scheme.bounds(scheme.latest(stored))[1] if scheme is not None and stored else None


def outdated_labels(model: BoundModel, key: str, lake: Lake) -> str:
    """Return which training sets of the split of ``key`` were built before labels that have landed; empty for none.

    Call it for a window whose labels landed. Absent training sets are not reported here.
    """
    if model.declared.labels is None:
        return ""
    first = _first_partition(model, key)
    landed = read_labels(model, first, key, lake)
    if landed is None:
        return ""
    within = model.partitions.between(first, key)
    stored = model.partitions.sort(str(each) for each in lake.digests(model.table, within))
    rows = stored_labels(model, stored, lake)
    again = with_labels(f"Training set of '{model.name}'", rows.drop(LABEL, LABEL_KNOWN_AT), landed)
    differs = pl.any_horizontal(rows[name].ne_missing(again[name]).alias(name) for name in (LABEL, LABEL_KNOWN_AT))
    changed = model.partitions.sort(rows.filter(differs)[PARTITION].unique())
    return f"labels landed after the training sets of {listed(changed)} were built" if changed else ""


def _missing_labels(model: BoundModel, key: str, lake: Lake) -> str:
    labels, table = model.declared.labels, labels_table(model)
    scheme = None if labels is None else model.dataset_scheme(labels.dataset)
    if labels is None or table is None or scheme is None:
        return ""
    due = labels_due(model, key)
    needed = scheme.covering(model.predicted_in(_first_partition(model, key))[0], due)
    landed = lake.digests(table, needed)
    missing = [each for each in needed if each not in landed]
    if missing:
        names = f"{len(missing)} of {len(needed)} partitions of {table} have not landed ({listed(missing)})"
        return f"its labels are due at {_shown(due)}, and {names}"
    if not needed or scheme.bounds(needed[-1])[1] < due:
        return f"its labels are due at {_shown(due)}, after the last declared partition of {table}, {scheme.last}"
    return ""


def _first_partition(model: BoundModel, key: str) -> str:
    """Return the first partition of the training set that the candidate of ``key`` reads."""
    scheme = model.partitions
    first = model.declared.split.first_partition(key, scheme)
    return scheme.first if first is None else scheme.latest([scheme.first, first])


def _shown(instant: datetime) -> str:
    return instant.isoformat(timespec="minutes")
