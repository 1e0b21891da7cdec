"""Labels that land later than their examples, in a dataset of their own, joined as of the time until which it landed.

The training set and the outcomes of predictions use the same join, so both see a label at the same time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl
from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, field_validator

from ml_platform.data.cadences import SPAN, span_length
from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError, listed
from ml_platform.features.view import INSTANT, PREDICT_AT

LABEL = "label"
LABEL_KNOWN_AT = "label_known_at"

_PLACE = "_place"
_UPPER = "_upper"
_MICROSECOND = timedelta(microseconds=1)


class LabelsError(PlatformError):
    """Raised when rows of labels cannot be joined: columns, types, or two values of one key at one time."""


class LabelSettings(Settings):
    """A dataset of labels that may land later than the examples, and how long an example waits for its label."""

    dataset: str = Field(description="Dataset of the labels, partitioned by the time at which they become known.")
    join: list[str] | dict[str, str] = Field(
        min_length=1,
        description="Columns that identify an example: request fields or example_id; a mapping names the columns of "
        "the dataset where they differ, like {example_id: loan}.",
    )
    label: str = Field(description="Column of the dataset with the label; null withdraws an earlier row.")
    known_at: str = Field(description="Column of the dataset with the time at which the row became known.")
    horizon: str = Field(
        pattern=SPAN, description="Time after the prediction within which rows count (12h, 30d, 4w; a day has 24 h)."
    )
    absent: StrictBool | StrictInt | StrictFloat | StrictStr | None = Field(
        default=None,
        description="Label of an example without a row when its horizon is over; none: it stays unlabelled.",
    )

    @field_validator("join")
    @classmethod
    def _validate_join(cls, join: list[str] | dict[str, str]) -> list[str] | dict[str, str]:
        columns = list(join.values() if isinstance(join, dict) else join)
        repeated = sorted({name for name in columns if columns.count(name) > 1})
        if repeated:
            raise ValueError(f"{listed(repeated)} occurs more than once")
        return join

    @property
    def keys(self) -> dict[str, str]:
        """The columns of the examples that identify one, each with the column of the labels that it equals."""
        return self.join if isinstance(self.join, dict) else {name: name for name in self.join}

    @property
    def columns(self) -> list[str]:
        """The columns of the dataset that the join reads."""
        return [*self.keys.values(), self.label, self.known_at]

    @property
    def wait(self) -> timedelta:
        """The horizon as a length of time."""
        return span_length(self.horizon)


@dataclass(frozen=True)
class LandedLabels:
    """The label rows for predictions from ``start`` to before ``end``, complete ``until`` that instant (the cut)."""

    settings: LabelSettings
    rows: pl.LazyFrame
    until: datetime
    start: datetime
    end: datetime


def with_labels(subject: str, examples: pl.DataFrame, landed: LandedLabels) -> pl.DataFrame:
    """Return ``examples`` (``predict_at`` and the join columns) with ``label`` and ``label_known_at``, in their order.

    A label row counts when it became known after the prediction, before its horizon is over, and before the cut. The
    last of these rows gives the label; a null label in it withdraws the earlier ones. A key may have several examples:
    each gets the rows of its own horizon.

    Without ``absent``, the label is known from its row on. With ``absent``, every example is labelled when its horizon
    is over, by its last row or by ``absent``, and before that it is unlabelled. So labels that come early are not used
    before the silence of others is known: otherwise the latest labelled examples would all have the rare outcome.

    Raises :class:`LabelsError` when a column is missing or has a type that cannot be compared, when rows of one key
    have different labels at one time, and when a prediction lies outside of the time for which rows were read.
    """
    settings, keys = landed.settings, landed.settings.keys
    rows = _typed_rows(subject, examples, landed)
    _require_one_label(subject, rows, list(keys))
    outside = examples.filter(~pl.col(PREDICT_AT).is_between(landed.start, landed.end, closed="left")).height
    if outside:
        raise LabelsError(
            subject,
            expected=f"predictions from {landed.start.isoformat()} to before {landed.end.isoformat()}",
            found=f"{outside} of {examples.height} rows outside of this time",
            fix="Return the examples of the partition only, or correct the partitions of the model.",
        )
    until = pl.lit(landed.until, INSTANT)
    due = pl.col(PREDICT_AT) + settings.wait
    waiting = examples.with_row_index(_PLACE).with_columns(pl.min_horizontal(due, until).alias(_UPPER)).sort(_UPPER)
    joined = waiting.join_asof(
        rows.drop_nulls(list(keys)).sort(LABEL_KNOWN_AT),
        left_on=_UPPER,
        right_on=LABEL_KNOWN_AT,
        by=list(keys),
        strategy="backward",
        allow_exact_matches=False,
        coalesce=False,
        check_sortedness=False,
    )
    counts = (pl.col(LABEL_KNOWN_AT) > pl.col(PREDICT_AT)) & pl.col(LABEL).is_not_null()
    label, known_at = pl.when(counts).then(LABEL), pl.when(counts).then(LABEL_KNOWN_AT)
    if settings.absent is not None:
        absent = _absent_value(subject, settings, rows.schema[LABEL])
        is_due = due <= until
        label = pl.when(is_due).then(pl.when(counts).then(LABEL).otherwise(absent))
        known_at = pl.when(is_due).then(due)
    return (
        joined.with_columns(label.alias(LABEL), known_at.cast(INSTANT).alias(LABEL_KNOWN_AT))
        .sort(_PLACE)
        .drop(_PLACE, _UPPER)
    )


def rows_without_example(examples: pl.DataFrame, landed: LandedLabels) -> int:
    """Return the number of label rows whose key is that of none of the ``examples`` within the horizon of the row.

    ``examples`` are all that were predicted in the horizon before the rows.
    """
    keys = list(landed.settings.keys)
    rows = _typed_rows("Labels", examples, landed).with_row_index(_PLACE).sort(LABEL_KNOWN_AT)
    predicted = examples.select(*keys, PREDICT_AT).drop_nulls(keys).sort(PREDICT_AT)
    found = rows.join_asof(
        predicted,
        left_on=LABEL_KNOWN_AT,
        right_on=PREDICT_AT,
        by=keys,
        strategy="backward",
        tolerance=landed.settings.wait - _MICROSECOND,
        allow_exact_matches=False,
        coalesce=False,
        check_sortedness=False,
    )
    return found.filter(pl.col(PREDICT_AT).is_null() | pl.any_horizontal(pl.col(keys).is_null())).height


def _typed_rows(subject: str, examples: pl.DataFrame, landed: LandedLabels) -> pl.DataFrame:
    """Return the label rows with the keys of the examples in their types, ``label`` and ``label_known_at``."""
    settings = landed.settings
    schema = landed.rows.collect_schema()
    _require_columns(f"{subject}, labels in 'datasets/{settings.dataset}'", list(schema), settings.columns)
    _require_columns(subject, examples.columns, [*settings.keys, PREDICT_AT])
    if schema[settings.known_at] != INSTANT:
        raise LabelsError(
            f"Dataset '{settings.dataset}', column '{settings.known_at}'",
            expected="times in UTC",
            found=str(schema[settings.known_at]),
            fix="Convert them in the loader: .dt.convert_time_zone('UTC').",
        )
    wrong = {
        theirs: (schema[theirs], examples.schema[own])
        for own, theirs in settings.keys.items()
        if not _comparable(schema[theirs], examples.schema[own])
    }
    if wrong:
        raise LabelsError(
            f"Dataset '{settings.dataset}'",
            expected="join columns in the types of the examples: "
            + ", ".join(f"'{name}' {own}" for name, (_, own) in wrong.items()),
            found=", ".join(f"'{name}' {theirs}" for name, (theirs, _) in wrong.items()),
            fix="Give both the same type, in the contract of the dataset or in the examples function.",
        )
    return landed.rows.select(
        *(pl.col(theirs).cast(examples.schema[own]).alias(own) for own, theirs in settings.keys.items()),
        pl.col(settings.label).alias(LABEL),
        pl.col(settings.known_at).alias(LABEL_KNOWN_AT),
    ).collect()


def _comparable(theirs: pl.DataType, own: pl.DataType) -> bool:
    texts = (pl.String, pl.Categorical, pl.Enum)
    return theirs == own or (theirs.is_integer() and own.is_integer()) or (theirs in texts and own in texts)


def _require_columns(subject: str, present: Sequence[str], needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in present]
    if missing:
        raise LabelsError(
            subject,
            expected=f"the columns {listed(missing)}",
            found=f"only {listed(present, 20)}",
            fix="Correct 'labels' in the model's defs.yaml.",
        )


def _require_one_label(subject: str, rows: pl.DataFrame, keys: Sequence[str]) -> None:
    """Raise :class:`LabelsError` when rows of one key became known at one time with different labels."""
    overlapping = rows.group_by([*keys, LABEL_KNOWN_AT]).agg(pl.col(LABEL).n_unique()).filter(pl.col(LABEL) > 1)
    if overlapping.height:
        count, first = overlapping.select(keys).n_unique(), overlapping.select(pl.col(LABEL_KNOWN_AT).min()).item()
        raise LabelsError(
            f"{subject}, overlapping label rows",
            expected="one label per key and time at which it became known",
            found=f"{count} keys with different labels at one time (first: {first})",
            fix="Give a correction a later time, or remove the duplicates from the landed files.",
        )


def _absent_value(subject: str, settings: LabelSettings, dtype: pl.DataType) -> pl.Expr:
    try:
        value = pl.Series([settings.absent]).cast(dtype)
        is_exact = dtype == value.dtype and value[0] == settings.absent
    except pl.exceptions.InvalidOperationError:
        is_exact = False
    if not is_exact:
        raise LabelsError(
            subject,
            expected=f"a value of 'labels.absent' in the type of '{settings.label}', {dtype}",
            found=repr(settings.absent),
            fix="Write a value of this type in the model's defs.yaml.",
        )
    return pl.lit(settings.absent, dtype)
