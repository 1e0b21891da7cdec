"""The split by time: the part of each row, to the minute, and rejected training sets."""

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from ml_platform.data.partitions import PartitionScheme
from ml_platform.training.splits import Split, SplitError, SplitTimes, TimeSplit, split_by_time, split_times

ZONE = "America/New_York"
MONTHS = PartitionScheme(start="2013-01", time_zone=ZONE)
# In New York, 2013-05-01 begins at 04:00 UTC, and 2013-06-01 too.
MAY, JUNE, JULY = (datetime(2013, month, 1, 4, tzinfo=UTC) for month in (5, 6, 7))
HOUR = timedelta(hours=1)
INSTANT = pl.Datetime("us", "UTC")


def frame(*rows: tuple[datetime, timedelta | None, int | None]) -> pl.DataFrame:
    """Return rows of (predict_at, time until the label is known, label), numbered in `row`."""
    return pl.DataFrame(
        {
            "row": range(len(rows)),
            "predict_at": [at for at, _, _ in rows],
            "label": [label for _, _, label in rows],
            "label_known_at": [None if late is None else at + late for at, late, _ in rows],
        },
        schema={"row": pl.Int64, "predict_at": INSTANT, "label": pl.Int8, "label_known_at": INSTANT},
    )


PLENTY = frame(
    *((start + at * HOUR, HOUR, at % 2) for start in (MAY - 720 * HOUR, MAY, JUNE) for at in range(1, 40)),
)


def cut(extra: pl.DataFrame | None = None, **settings: Any) -> Split:
    """Return the split of the rows above and ``extra`` for June; rows of ``extra`` are numbered from 1000."""
    rows = PLENTY if extra is None else pl.concat([PLENTY, extra.with_columns(pl.col("row") + 1000)])
    return split_by_time(rows, "2013-06", MONTHS, TimeSplit(minimum_rows=10, **settings), model="toy")


def extras(part: pl.DataFrame) -> list[int]:
    """Return the numbers of the extra rows in ``part``."""
    return [row - 1000 for row in part["row"] if row >= 1000]


def test_months_begin_at_midnight_in_the_declared_time_zone():
    minute = timedelta(minutes=1)
    split = cut(
        frame(
            (MAY - minute, timedelta(0), 1),
            (MAY, HOUR, 1),
            (JUNE - 2 * minute, minute, 1),
            (JUNE, HOUR, 1),
            (JULY - minute, HOUR, 1),
            (JULY, HOUR, 1),
        )
    )

    assert (extras(split.train), extras(split.validation), extras(split.test)) == ([0], [1, 2], [3, 4])


def test_label_known_after_the_part_ends_is_embargoed():
    split = cut(
        frame(
            (MAY - HOUR, HOUR, 1),  # known as validation begins
            (MAY - HOUR, 2 * HOUR, 1),  # known later, before the test month
            (MAY - HOUR, 1000 * HOUR, 1),  # known in the test month
            (JUNE - HOUR, HOUR, 1),
            (JUNE - HOUR, 2 * HOUR, 1),
        )
    )

    assert (extras(split.train), extras(split.late), extras(split.validation)) == ([0], [1], [3])
    assert split.embargoed == 2


def test_known_has_train_late_and_validation_in_this_order():
    split = cut(frame((MAY - HOUR, 2 * HOUR, 1)))

    assert split.known["row"].to_list() == [*split.train["row"], 1000, *split.validation["row"]]


def test_rows_without_a_label_are_counted_and_in_no_part():
    split = cut(frame((MAY - 5 * HOUR, None, None), (MAY + HOUR, None, None), (JUNE + HOUR, None, None)))

    assert split.counts() == {
        "train_rows": 39,
        "late_rows": 0,
        "validation_rows": 39,
        "test_rows": 39,
        "embargoed_rows": 0,
        "unlabelled_train_rows": 1,
        "unlabelled_validation_rows": 1,
        "unlabelled_test_rows": 1,
    }


def test_longer_validation_takes_months_from_train():
    earlier = frame(*((MAY - 1500 * HOUR + at * HOUR, HOUR, at % 2) for at in range(20)))

    assert cut(earlier, validation_months=2).train.height == 20
    assert cut(earlier, validation_months=1).train.height == 59


def test_train_months_excludes_older_rows():
    ancient = frame((MAY - 5000 * HOUR, HOUR, 1))

    assert extras(cut(ancient).train) == [0]
    assert extras(cut(ancient, train_months=1).train) == []


def test_empty_validation_month_is_rejected():
    rows = PLENTY.filter((pl.col("predict_at") < MAY) | (pl.col("predict_at") >= JUNE))

    with pytest.raises(SplitError, match="validation part: expected at least 10 rows with a known label, found 0"):
        split_by_time(rows, "2013-06", MONTHS, TimeSplit(minimum_rows=10), model="toy")


def test_fewer_rows_than_declared_are_rejected():
    with pytest.raises(SplitError, match="expected at least 40 rows with a known label, found 39"):
        split_by_time(PLENTY, "2013-06", MONTHS, TimeSplit(minimum_rows=40), model="toy")


@pytest.mark.parametrize(("start", "part"), [(MAY - 720 * HOUR, "train"), (MAY, "validation")])
def test_constant_label_is_rejected(start: datetime, part: str):
    month = pl.col("predict_at").is_between(start, start + 700 * HOUR)
    rows = PLENTY.with_columns(pl.when(month).then(pl.lit(1, pl.Int8)).otherwise("label").alias("label"))

    with pytest.raises(SplitError, match=f"{part} part: expected labels of more than one value, found 39 times 1"):
        split_by_time(rows, "2013-06", MONTHS, TimeSplit(minimum_rows=10), model="toy")


def test_missing_column_is_rejected_with_the_nearest_name():
    with pytest.raises(SplitError, match=r"found no 'label_known_at'.*Did you mean 'label_known'\?"):
        split_by_time(PLENTY.rename({"label_known_at": "label_known"}), "2013-06", MONTHS, TimeSplit(), model="toy")


def test_naive_times_are_rejected():
    rows = PLENTY.with_columns(pl.col("predict_at").dt.replace_time_zone(None))

    with pytest.raises(SplitError, match=r"expected times in UTC, found .* in 'predict_at'"):
        split_by_time(rows, "2013-06", MONTHS, TimeSplit(), model="toy")


WEEKS = PartitionScheme(cadence="week", start="2013-01-06", time_zone=ZONE)


def test_lengths_in_days_end_with_the_partition_and_follow_the_local_calendar():
    settings = TimeSplit(evaluation="28d", validation="2w", train="30d", embargo="12h")

    # The week of June 2nd ends on the 9th; New York is four hours behind UTC until March 10th back in time.
    assert split_times("2013-06-02", WEEKS, settings) == SplitTimes(
        train_start=datetime(2013, 3, 29, 4, tzinfo=UTC),
        train_end=datetime(2013, 4, 27, 16, tzinfo=UTC),
        validation_start=datetime(2013, 4, 28, 4, tzinfo=UTC),
        validation_end=datetime(2013, 5, 11, 16, tzinfo=UTC),
        test_start=datetime(2013, 5, 12, 4, tzinfo=UTC),
        test_end=datetime(2013, 6, 9, 4, tzinfo=UTC),
    )
    over_the_clock_change = split_times("2013-03-10", WEEKS, TimeSplit(validation="1d"))
    assert over_the_clock_change.test_start == datetime(2013, 3, 10, 5, tzinfo=UTC)
    assert over_the_clock_change.test_end == datetime(2013, 3, 17, 4, tzinfo=UTC)


def test_first_partition_lies_one_before_the_training_rows():
    settings = TimeSplit(validation="7d", train="14d")

    assert settings.first_partition("2013-06-02", WEEKS) == "2013-05-05"
    assert TimeSplit(train="all").first_partition("2013-06-02", WEEKS) is None


def test_rows_within_the_embargo_are_in_no_part_but_late_ones_serve_a_refit():
    near_validation, near_test = (MAY - HOUR, timedelta(minutes=1), 1), (JUNE - HOUR, timedelta(minutes=1), 1)
    split = cut(frame(near_validation, near_test), embargo="2h")

    assert [extras(part) for part in (split.train, split.validation, split.test)] == [[], [], []]
    assert extras(split.late) == [0]
    assert split.embargoed == 1


def test_length_that_is_given_twice_is_rejected():
    with pytest.raises(ValidationError, match="validation and validation_months both give"):
        TimeSplit(validation="7d", validation_months=1)
    with pytest.raises(ValidationError, match="pattern"):
        TimeSplit(evaluation="28 days")


def test_lengths_that_are_not_declared_leave_the_inputs_of_earlier_versions_unchanged():
    assert TimeSplit().declared_inputs() == {"validation_months": 1, "train_months": None, "minimum_rows": 100}
    assert TimeSplit(evaluation="28d").declared_inputs()["evaluation"] == "28d"
    assert TimeSplit(step="7d").declared_inputs() == TimeSplit().declared_inputs()


@pytest.mark.parametrize(
    ("cadence", "step", "first", "ends"),
    [
        # The clock is put forward on March 10th and back on November 3rd.
        ("day", "7d", "2013-03-02", ["2013-03-02", "2013-03-09", "2013-03-16"]),
        ("week", "2w", "2013-03-03", ["2013-03-03", "2013-03-17", "2013-03-31"]),
        ("hour", "1d", "2013-11-02-11:00", ["2013-11-02-11:00", "2013-11-03-11:00", "2013-11-04-11:00"]),
        ("hour", "12h", "2013-11-02-11:00", ["2013-11-02-11:00", "2013-11-02-23:00", "2013-11-03-10:00"]),
    ],
)
def test_test_parts_end_once_every_step_of_the_local_calendar(
    cadence: str, step: str, first: str, ends: list[str]
) -> None:
    start = "2013-01-06-00:00" if cadence == "hour" else "2013-01-06"
    scheme = PartitionScheme.model_validate({"cadence": cadence, "start": start, "time_zone": "America/New_York"})
    keys = scheme.between(scheme.shift(first, -40), ends[-1])
    assert [key for key in keys if TimeSplit(step=step).ends_window(key, first, scheme)] == ends
