"""Split of examples by time: training rows, then validation rows, then the test rows of the candidate's partition.

Fitting, tuning, early stopping and calibration never see the test rows, and no row is used before its label is known.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field, model_validator

from ml_platform.data.cadences import SPAN, months_before, span_before, span_length
from ml_platform.data.partitions import PartitionScheme
from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError, did_you_mean, listed
from ml_platform.features.view import PREDICT_AT

LABEL = "label"
LABEL_KNOWN_AT = "label_known_at"

MARGIN_PARTITIONS = 1
"""Number of partitions by which that of an example and that of its prediction time may differ."""


class SplitError(PlatformError):
    """Raised when a part of the split has too few rows, or labels of one class only."""


class TimeSplit(Settings):
    """Lengths of the parts. The test part ends with the candidate's own partition, and is that partition by default.

    A length is a number of hours, days or weeks, like ``28d``. The lengths in months stay for models of months.
    """

    is_by_time: ClassVar[bool] = True
    split_column: ClassVar[str | None] = None

    by: Literal["time"] = Field(default="time", description="By the prediction times of the examples.")
    evaluation: str | None = Field(
        default=None,
        pattern=SPAN,
        description="Length of the test part, up to the end of the partition (12h, 28d, 4w); none: the partition.",
    )
    validation: str | None = Field(
        default=None, pattern=SPAN, description="Length of the validation part; in place of validation_months."
    )
    train: str | None = Field(
        default=None,
        pattern=rf"{SPAN}|^all$",
        description="Length of the training part, or all; in place of train_months.",
    )
    step: str | None = Field(
        default=None,
        pattern=SPAN,
        description="Time between the ends of two test parts, from that of first_candidate on: candidates are trained "
        "and judged for the partitions that end one; none: for every partition.",
    )
    embargo: str | None = Field(
        default=None,
        pattern=SPAN,
        description="Time before the validation and the test part whose rows are left out of the part before.",
    )
    validation_months: int = Field(
        default=1, ge=1, description="Months of time before the test part, for early stopping, tuning and calibration."
    )
    train_months: int | None = Field(
        default=None, ge=1, description="Months of time before validation, for fitting; none: all."
    )
    minimum_rows: int = Field(default=100, ge=1, description="Lowest number of labelled rows of each part.")

    @model_validator(mode="after")
    def _validate_lengths(self) -> "TimeSplit":
        for length, months in (("validation", "validation_months"), ("train", "train_months")):
            if getattr(self, length) is not None and months in self.model_fields_set:
                raise ValueError(f"{length} and {months} both give the length of one part; remove {months}")
        return self

    def declared_inputs(self) -> dict[str, Any]:
        """Return the settings that determine a split, without lengths that are not declared and without the step.

        So a version that was registered before these lengths existed keeps its digest.
        """
        lengths = {"evaluation", "validation", "train", "embargo"}
        absent = {"by", "step", *(name for name in lengths if getattr(self, name) is None)}
        return self.model_dump(mode="json", exclude=absent)

    def ends_window(self, key: str, first: str, partitions: PartitionScheme) -> bool:
        """Return whether a test part ends with ``key``, when the first one ends with ``first``.

        Days and weeks follow the local calendar, so that a step over a clock change is an hour longer or shorter.

        >>> days = PartitionScheme(cadence="day", start="2013-01-01", time_zone="America/New_York")
        >>> tuple(TimeSplit(step="1w").ends_window(key, "2013-03-09", days) for key in ("2013-03-15", "2013-03-16"))
        (False, True)
        """
        if self.step is None:
            return True
        ends, first_ends = partitions.bounds(key)[1], partitions.bounds(first)[1]
        if not self.step.endswith("h"):
            ends, first_ends = (each.astimezone(partitions.zone) for each in (ends, first_ends))
            if ends.fold:
                return False
            ends, first_ends = ends.replace(tzinfo=None), first_ends.replace(tzinfo=None)
        return ends >= first_ends and (ends - first_ends) % span_length(self.step) == timedelta()

    def first_partition(self, key: str, partitions: PartitionScheme) -> str | None:
        """Return the first partition that may contain rows of the split for the candidate of ``key``; None: all.

        It lies one partition before the training rows, because an example may have its prediction time in the
        partition after its own.

        >>> split = TimeSplit(train_months=6, validation_months=2)
        >>> split.first_partition("2013-12", PartitionScheme(start="2013-01"))
        '2013-03'
        """
        times = split_times(key, partitions, self)
        if times.train_start is None:
            return None
        return partitions.shift(partitions.key_at(times.train_start), -MARGIN_PARTITIONS)


@dataclass(frozen=True)
class SplitTimes:
    """The instants in UTC at which the parts of a split begin, and the end of the last; ``train_start`` None: all.

    The training rows end at ``train_end``, the validation rows at ``validation_end``; an embargo lies after each.
    """

    train_start: datetime | None
    train_end: datetime
    validation_start: datetime
    validation_end: datetime
    test_start: datetime
    test_end: datetime


def split_times(key: str, partitions: PartitionScheme, settings: TimeSplit) -> SplitTimes:
    """Return the times of the parts for the candidate of ``key``.

    Raises :class:`~ml_platform.data.partitions.PartitionError` for partitions without a time.
    """
    start, end = partitions.bounds(key)
    zone = partitions.zone

    def before(instant: datetime, span: str | None, months: int) -> datetime:
        return months_before(instant, months, zone) if span is None else span_before(instant, span, zone)

    test_start = before(end, settings.evaluation, 0) if settings.evaluation else start
    validation_start = before(test_start, settings.validation, settings.validation_months)
    train_start = None
    if settings.train not in (None, "all"):
        train_start = before(validation_start, settings.train, 0)
    elif settings.train_months is not None:
        train_start = before(validation_start, None, settings.train_months)
    return SplitTimes(
        train_start=train_start,
        train_end=before(validation_start, settings.embargo, 0),
        validation_start=validation_start,
        validation_end=before(test_start, settings.embargo, 0),
        test_start=test_start,
        test_end=end,
    )


@dataclass(frozen=True)
class Split:
    """Tables with the columns of the training set, in which every row has a label.

    The labels of ``train`` were known when validation began, and the labels of ``validation`` when the test part
    began. ``late`` has training rows whose labels became known between the two; only a refit uses them. ``embargoed``
    counts rows whose labels became known later, and ``unlabelled`` counts rows without a label by part.
    """

    train: pl.DataFrame
    validation: pl.DataFrame
    test: pl.DataFrame
    late: pl.DataFrame
    embargoed: int
    unlabelled: dict[str, int]

    @property
    def known(self) -> pl.DataFrame:
        """Return train, late and validation, in this order: all rows known before the test part begins."""
        return pl.concat([self.train, self.late, self.validation])

    def counts(self) -> dict[str, int]:
        """Return the number of rows of each part and of those in no part, under stable names."""
        return {
            "train_rows": self.train.height,
            "late_rows": self.late.height,
            "validation_rows": self.validation.height,
            "test_rows": self.test.height,
            "embargoed_rows": self.embargoed,
            **{f"unlabelled_{part}_rows": count for part, count in self.unlabelled.items()},
        }


def split_by_time(
    frame: pl.DataFrame, key: str, partitions: PartitionScheme, settings: TimeSplit, *, model: str
) -> Split:
    """Return the split of ``frame`` (``predict_at``, ``label``, ``label_known_at``, …) for the candidate of ``key``.

    Test rows are predicted within the test part, validation rows before it, and train rows earlier; see
    :func:`split_times`. Left out are train rows whose label became known after validation began, validation rows whose
    label became known after the test part began, and rows within a declared embargo before these times. A refit may
    use such train rows (``late``) if their label was known when the test part began. Rows without a label are in no
    part.

    Raises :class:`SplitError` when a column is missing, times are not in UTC, or a part has fewer than
    ``minimum_rows`` rows. It also raises when train or validation has labels of one value only.
    """
    times = split_times(key, partitions, settings)
    train_start, validation_start = times.train_start, times.validation_start
    test_start, test_end = times.test_start, times.test_end
    _require_columns(f"Model '{model}', {key}", frame)
    predicted_at, known = pl.col(PREDICT_AT), pl.col(LABEL_KNOWN_AT)
    parts = {
        "train": frame.filter(
            (predicted_at < validation_start) & (pl.lit(True) if train_start is None else predicted_at >= train_start)
        ),
        "validation": frame.filter((predicted_at >= validation_start) & (predicted_at < test_start)),
        "test": frame.filter((predicted_at >= test_start) & (predicted_at < test_end)),
    }
    labelled = {name: part.filter(pl.col(LABEL).is_not_null()) for name, part in parts.items()}
    split = Split(
        train=labelled["train"].filter((known <= validation_start) & (predicted_at < times.train_end)),
        validation=labelled["validation"].filter((known <= test_start) & (predicted_at < times.validation_end)),
        test=labelled["test"],
        late=labelled["train"].filter(
            ((known > validation_start) | (predicted_at >= times.train_end))
            & (known <= test_start)
            & (predicted_at < times.validation_end)
        ),
        embargoed=sum(
            labelled[name].filter((known > test_start) | (predicted_at >= times.validation_end)).height
            for name in ("train", "validation")
        ),
        unlabelled={name: part.height - labelled[name].height for name, part in parts.items()},
    )
    for name, rows in (("train", split.train), ("validation", split.validation), ("test", split.test)):
        require_part_rows(
            f"Model '{model}', {key}, {name} part",
            rows,
            settings.minimum_rows,
            "Materialize the training sets of the earlier windows, or choose a later partition.",
        )
    for name, rows in (("train", split.train), ("validation", split.validation)):
        require_two_labels(f"Model '{model}', {key}, {name} part", rows)
    return split


def _require_columns(subject: str, frame: pl.DataFrame) -> None:
    absent = [name for name in (LABEL, LABEL_KNOWN_AT, PREDICT_AT) if name not in frame.columns]
    if absent:
        raise SplitError(
            subject,
            expected=f"the columns {listed([LABEL, LABEL_KNOWN_AT, PREDICT_AT])}",
            found=f"no {listed(absent)}",
            fix=f"Pass the training set.{did_you_mean(absent[0], frame.columns)}",
        )
    naive = [name for name in (LABEL_KNOWN_AT, PREDICT_AT) if getattr(frame.schema[name], "time_zone", None) != "UTC"]
    if naive:
        raise SplitError(
            subject,
            expected="times in UTC",
            found=", ".join(f"{frame.schema[name]} in '{name}'" for name in naive),
            fix="Convert them to Datetime('us', 'UTC').",
        )


def require_part_rows(subject: str, part: pl.DataFrame, minimum: int, fix: str) -> None:
    """Raise :class:`SplitError`, which gives ``fix``, when ``part`` has fewer than ``minimum`` rows."""
    if part.height < minimum:
        raise SplitError(
            subject, expected=f"at least {minimum} rows with a known label", found=f"{part.height}", fix=fix
        )


def require_two_labels(subject: str, part: pl.DataFrame) -> None:
    """Raise :class:`SplitError` when all rows of ``part`` have one label."""
    if part[LABEL].n_unique() < 2:
        raise SplitError(
            subject,
            expected="labels of more than one value",
            found=f"{part.height} times {part[LABEL][0]}",
            fix="Correct the label rule in the examples function: no model can learn from a constant.",
        )
