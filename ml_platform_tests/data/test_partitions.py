"""Months: their order, and their first instant in a time zone."""

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from ml_platform.data.partitions import MonthlyPartitions, PartitionError, month_bounds, months_between, shift_month


def test_month_begins_at_local_midnight_on_both_sides_of_daylight_saving() -> None:
    # New York is five hours behind UTC on March 1st, four on April 1st.
    assert month_bounds("2013-03", "America/New_York") == (
        datetime(2013, 3, 1, 5, tzinfo=UTC),
        datetime(2013, 4, 1, 4, tzinfo=UTC),
    )


def test_months_cross_the_year() -> None:
    assert months_between("2012-11", "2013-02") == ["2012-11", "2012-12", "2013-01", "2013-02"]
    assert shift_month("2012-11", 14) == "2014-01"
    assert shift_month("2013-01", -13) == "2011-12"


def test_months_in_the_wrong_order_give_an_empty_list() -> None:
    assert months_between("2013-02", "2013-01") == []


@pytest.mark.parametrize("text", ["2013-13", "2013-1", "13-01", "2013-00", ""])
def test_text_that_is_not_a_month_is_rejected(text: str) -> None:
    with pytest.raises(PartitionError, match=r"expected the form YYYY-MM"):
        shift_month(text, 1)


def test_unknown_time_zone_is_rejected() -> None:
    with pytest.raises(PartitionError, match=r"Time zone 'New_York'.*IANA"):
        month_bounds("2013-01", "New_York")


def test_declared_months_must_be_in_order_and_in_a_known_zone() -> None:
    with pytest.raises(ValidationError, match=r"end 2012-12 lies before start 2013-01"):
        MonthlyPartitions(start="2013-01", end="2012-12")
    with pytest.raises(ValidationError, match=r"'New_York' is no time zone"):
        MonthlyPartitions(start="2013-01", time_zone="New_York")
