"""The partitions that a command names, for assets of several cadences."""

import dagster as dg
import pytest

from ml_platform.console.arguments import ArgumentError
from ml_platform.console.partition_selection import select_partitions
from ml_platform.data.partitions import PartitionError, PartitionScheme

MONTHS = PartitionScheme(start="2013-01")
WEEKS = PartitionScheme(cadence="week", start="2013-01-06")
DAYS = PartitionScheme(cadence="day", start="2013-01-01")
TABLE, DAILY, MODEL = (dg.AssetKey(name) for name in ("table", "daily", "model"))


def test_one_month_or_a_range_is_parsed() -> None:
    assert select_partitions("2013-06", {MODEL: MONTHS, TABLE: None}) == {MODEL: ["2013-06"]}
    assert select_partitions("2012-12...2013-02", {MODEL: MONTHS})[MODEL] == ["2012-12", "2013-01", "2013-02"]


def test_a_month_names_its_days() -> None:
    found = select_partitions("2013-02", {MODEL: MONTHS, DAILY: DAYS})

    assert found[MODEL] == ["2013-02"]
    assert (found[DAILY][0], found[DAILY][-1], len(found[DAILY])) == ("2013-02-01", "2013-02-28", 28)


def test_days_name_the_month_in_which_they_lie() -> None:
    assert select_partitions("2013-02-03...2013-02-04", {DAILY: DAYS, MODEL: MONTHS})[MODEL] == ["2013-02"]


def test_backward_range_and_text_of_another_form_are_rejected() -> None:
    with pytest.raises(ArgumentError, match=r"'2013-02\.\.\.2013-01'.*found 2013-01 before 2013-02"):
        select_partitions("2013-02...2013-01", {MODEL: MONTHS})
    with pytest.raises(PartitionError, match="Partition 'June': expected a month"):
        select_partitions("June", {MODEL: MONTHS})
    with pytest.raises(PartitionError, match="Partition '2013-06-01': expected a week"):
        select_partitions("2013-06-01", {MODEL: WEEKS})


def test_partitions_may_be_left_out_where_no_asset_has_any() -> None:
    assert select_partitions("", {TABLE: None}) == {}
    with pytest.raises(ArgumentError, match="those of model: months from 2013-01 to now in UTC, found none"):
        select_partitions("", {TABLE: None, MODEL: MONTHS})
