"""Landings in their order: comparable partitions, late, repeated and incomplete ones, clocks, and what is recorded."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ml_platform.data import landing_quality
from ml_platform.data.arrival import Arrival
from ml_platform.data.comparable_partitions import comparable_names
from ml_platform.data.contract import ColumnRule, Contract
from ml_platform.data.contract_record import ContractResult, latest_result
from ml_platform.data.dataset import DatasetSource, PartitionAudit, expire
from ml_platform.data.lake import Lake, TableVersion
from ml_platform.data.landing_quality import JudgedPartition, judge_landed, record_blocked, record_judged
from ml_platform.data.partitions import PartitionScheme, file_stem
from ml_platform.data.quality_record import KEPT_CONTENTS, LandingRecord, last_landings, published_landings
from ml_platform.data.quality_settings import QualitySettings
from ml_platform.state.store import StateStore

DAYS = PartitionScheme(cadence="day", start="2024-01-01")
CONTRACT = Contract(
    columns=[
        ColumnRule(name="id", type="integer", description="Number"),
        ColumnRule(name="at", type="timestamp", description="Time"),
        ColumnRule(name="city", type="string", description="City"),
    ]
)


def source(partitions: PartitionScheme | None = DAYS, event_time: str | None = "at") -> DatasetSource:
    return DatasetSource(
        "orders", lambda path: pl.DataFrame(), CONTRACT, keys=["id"], partitions=partitions, event_time=event_time
    )


def settings(**changed: Any) -> QualitySettings:
    return QualitySettings.model_validate({"partitions": 6, "minimum_partitions": 3, **changed})


class Shop:
    """A lake into which partitions of one dataset land; the clock is the end of the partition plus an hour."""

    def __init__(self, root: Path) -> None:
        self.lake, self.folder, self.source, self.settings = Lake.standalone(root / "lake"), root, source(), settings()
        self.arrival: Arrival | None = None

    def rows(self, partition: str | None, count: int = 100, first: int | None = None) -> pl.DataFrame:
        scheme = self.source.partitions
        start = datetime(2024, 1, 1, tzinfo=UTC)
        if partition is not None and scheme is not None and scheme.is_timed:
            start = scheme.bounds(partition)[0]
            first = first if first is not None else scheme.number(partition) * 1000
        step = timedelta(hours=24) / count
        return pl.DataFrame(
            {
                "id": range(first or 0, (first or 0) + count),
                "at": pl.Series([start + step * each for each in range(count)], dtype=pl.Datetime("us", "UTC")),
                "city": ["Ulm", "Bonn"] * (count // 2) + ["Ulm"] * (count % 2),
            }
        )

    def land(
        self, partition: str | None, rows: pl.DataFrame | None = None, now: datetime | None = None
    ) -> JudgedPartition:
        """Judge, publish and record one partition."""
        (judged,) = self.judge([(partition, self.rows(partition) if rows is None else rows)], now)
        self.publish(judged)
        return judged

    def judge(self, parts: list[tuple[str | None, pl.DataFrame]], now: datetime | None = None) -> list[JudgedPartition]:
        audits = []
        for partition, rows in parts:
            staged = self.folder / f"{file_stem(partition or 'whole')}.parquet"
            rows.write_parquet(staged)
            audits.append(PartitionAudit(self.source, partition, None, (), staged))
        scheme = self.source.partitions
        if now is None:
            last = parts[-1][0]
            timed = scheme is not None and scheme.is_timed and last is not None
            now = DAYS.bounds(last)[1] + timedelta(hours=1) if timed and last else datetime(2024, 6, 1, tzinfo=UTC)
        return judge_landed(audits, self.settings, self.lake, now, self.arrival)

    def publish(self, judged: JudgedPartition) -> None:
        assert judged.audit.staged is not None
        self.lake.write(
            self.source.table,
            pl.read_parquet(judged.audit.staged),
            judged.audit.partition,
            lambda written: record_judged(judged, self.lake, written),
        )

    def land_days(self, last: str, first: str = "2024-01-01") -> None:
        for day in DAYS.between(first, last):
            self.land(day)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def kinds(judged: JudgedPartition) -> list[tuple[str, str]]:
    return [(each.kind, each.severity) for each in judged.findings]


def test_partition_is_judged_once_enough_earlier_ones_have_landed(shop: Shop) -> None:
    states = [shop.land(day).judgement.state for day in DAYS.between("2024-01-01", "2024-01-04")]

    assert states == ["not judged"] * 3 + ["as usual"]
    latest, first = last_landings(shop.lake.state, "orders", 4)[0], last_landings(shop.lake.state, "orders", 4)[-1]
    assert (latest.partition, latest.state, latest.reason) == ("2024-01-04", "as usual", None)
    assert first.reason == "Comparable partitions: 0; at least 3 are needed."


def test_partitions_of_one_run_are_compared_with_each_other(shop: Shop) -> None:
    days = DAYS.between("2024-01-01", "2024-01-05")
    parts: list[tuple[str | None, pl.DataFrame]] = [
        (day, shop.rows(day, 30 if day == days[-1] else 100)) for day in days
    ]
    judged = shop.judge(parts[::-1], DAYS.bounds("2024-01-05")[1])

    assert [each.audit.partition for each in judged] == days[::-1]
    assert kinds(judged[0]) == [("volume", "warning")]
    assert judged[1].judgement.state == "as usual"


def test_same_weekdays_are_compared_where_enough_have_landed(shop: Shop) -> None:
    def count(day: str) -> int:
        return 20 if DAYS.bounds(day)[0].weekday() == 6 else 100

    for day in DAYS.between("2024-01-01", "2024-02-03"):
        shop.land(day, shop.rows(day, count(day)))

    assert kinds(shop.land("2024-02-04", shop.rows("2024-02-04", 20))) == []
    (finding,) = shop.land("2024-02-05", shop.rows("2024-02-05", 20)).findings
    assert (finding.kind, finding.what) == ("volume", "20 rows, usual are 100: fewer by 4.81 times")


def test_finding_names_the_first_partition_that_had_it(shop: Shop) -> None:
    shop.land_days("2024-01-06")
    first = shop.land("2024-01-07", shop.rows("2024-01-07", 30))
    second = shop.land("2024-01-08", shop.rows("2024-01-08", 30))

    assert [each.since for each in (*first.findings, *second.findings)] == ["2024-01-07", "2024-01-07"]
    record = last_landings(shop.lake.state, "orders")[0].findings[0]
    assert (record["subject"], record["kind"], record["severity"], record["since"]) == (
        "Dataset 'orders', partition 2024-01-08",
        "volume",
        "warning",
        "2024-01-07",
    )


def test_partition_that_lands_again_with_other_content_is_named(shop: Shop) -> None:
    shop.land_days("2024-01-04")

    assert kinds(shop.land("2024-01-03", now=DAYS.bounds("2024-01-05")[1])) == []
    again = shop.land("2024-01-03", shop.rows("2024-01-03", 98), DAYS.bounds("2024-01-05")[1])
    assert [(each.kind, each.what) for each in again.findings] == [
        ("landed_again", "landed again with other content: 100 rows before, 98 now")
    ]


def test_partitions_out_of_order_and_absent_ones_are_named(shop: Shop) -> None:
    shop.land("2024-01-01")
    skipped = shop.land("2024-01-03")
    earlier = shop.land("2024-01-02", now=DAYS.bounds("2024-01-03")[1] + timedelta(hours=2))

    assert [each.what for each in skipped.findings] == ["landed while the partition before, 2024-01-02, is absent"]
    assert [each.what for each in earlier.findings] == ["landed after a later partition"]


def test_late_partition_is_found_and_one_that_lands_again_is_not_late(shop: Shop) -> None:
    shop.land_days("2024-01-05")
    end = DAYS.bounds("2024-01-06")[1]

    assert kinds(shop.land("2024-01-06", now=end + timedelta(hours=40))) == [("late", "warning")]
    assert kinds(shop.land("2024-01-05", now=end + timedelta(days=9))) == []


def test_file_that_landed_for_two_partitions_is_found(shop: Shop) -> None:
    shop.source = source(event_time=None)
    shop.land_days("2024-01-04")
    copied = shop.land("2024-01-05", shop.rows("2024-01-04"))

    assert kinds(copied) == [("repeated_keys", "critical"), ("same_content", "warning")]
    assert copied.findings[1].what == "has the content of partition 2024-01-04"


def test_partition_that_has_not_ended_is_a_part_and_gives_no_usual_values(shop: Shop) -> None:
    shop.land_days("2024-01-04")
    noon = DAYS.bounds("2024-01-05")[0] + timedelta(hours=12)
    part = shop.land("2024-01-05", shop.rows("2024-01-05").head(50), noon)

    assert part.judgement.state == "not judged"
    assert part.judgement.not_judged == "The partition has arrived until 2024-01-05 12:00 UTC and is not over."
    # Its later rows land with the next file, which is no other content.
    assert kinds(shop.land("2024-01-05")) == []


def test_latest_partition_of_a_declared_arrival_may_be_a_part_until_the_next_one_lands(shop: Shop) -> None:
    shop.arrival = Arrival(dataset="orders", every="hour", clock=["at"])
    shop.land_days("2024-01-04")
    morning = shop.rows("2024-01-05").head(40)
    part = shop.land("2024-01-05", morning)
    after = shop.land("2024-01-06")

    assert part.judgement.not_judged == "The partition has arrived until 2024-01-05 10:00 UTC and is not over."
    assert [(each.kind, each.what) for each in after.findings] == [
        ("incomplete_before", "the partition before, 2024-01-05, has arrived until 2024-01-05 10:00 UTC only")
    ]
    shop.arrival = None
    assert ("newest_event", "critical") in kinds(shop.land("2024-01-07", shop.rows("2024-01-07").head(40)))


def test_events_after_the_landing_and_a_clock_that_goes_back_are_found(shop: Shop) -> None:
    shop.land("2024-01-01")
    rows = shop.rows("2024-01-02").with_columns(pl.col("at") + pl.duration(hours=3))
    ahead = shop.land("2024-01-02", rows)
    back = shop.land("2024-01-03", now=DAYS.bounds("2024-01-01")[1])

    (finding,) = [each for each in ahead.findings if each.kind == "clock"]
    assert (finding.severity, finding.how_bad) == ("warning", 7)
    texts = [each.what for each in back.findings if each.kind == "clock"]
    assert "landed 90000 s before the last recorded landing: a clock went back" in texts


def test_accepted_partition_is_info_and_gives_its_reason(shop: Shop) -> None:
    shop.land_days("2024-01-06")
    shop.settings = settings(accepted={"2024-01-07": "The shop moved."})
    judged = shop.land("2024-01-07", shop.rows("2024-01-07", 10))

    assert judged.judgement.state == "info"
    assert judged.findings[0].what.endswith("(accepted: The shop moved.)")


def test_partitions_before_usual_from_give_no_usual_values(shop: Shop) -> None:
    shop.land_days("2024-01-06")
    shop.settings = settings(usual_from="2024-01-05")

    judged = shop.land("2024-01-07", shop.rows("2024-01-07", 10))
    assert judged.judgement.not_judged == "Comparable partitions: 2; at least 3 are needed."


@pytest.mark.parametrize("partitions", [None, PartitionScheme(cadence="names", names=["north", "south"])])
def test_table_without_time_is_compared_with_its_earlier_contents(
    shop: Shop, partitions: PartitionScheme | None
) -> None:
    shop.source = source(partitions, event_time=None)
    name = None if partitions is None else "north"
    for first in range(4):
        shop.land(name, shop.rows(name, 100, first * 7))
    if partitions is not None:
        shop.land("south", shop.rows("south", 4))

    assert kinds(shop.land(name, shop.rows(name, 100, 40))) == []
    assert kinds(shop.land(name, shop.rows(name, 20, 99))) == [("volume", "critical")]


def test_blocked_partition_is_recorded_as_failed_and_gives_no_usual_values(shop: Shop) -> None:
    shop.land_days("2024-01-05")
    empty = shop.rows("2024-01-06", 4)
    judged = shop.judge([("2024-01-06", empty)])
    record_blocked(judged, shop.lake)

    latest = last_landings(shop.lake.state, "orders")[0]
    assert (latest.partition, latest.state, latest.content) == ("2024-01-06", "critical", None)
    assert latest_result(shop.lake.state, "orders") == ContractResult("2024-01-06", None, "quality")
    after = shop.judge([("2024-01-07", shop.rows("2024-01-07"))])
    assert ("out_of_order", "info") in kinds(after[0])


def test_equal_landings_add_no_record_and_contents_of_one_partition_are_bounded(shop: Shop) -> None:
    shop.source = source(None, event_time=None)
    judged = shop.land(None)

    def recorded(digests: list[str]) -> list[str | None]:
        for digest in digests:
            record_judged(judged, shop.lake, TableVersion("datasets/orders", 1, 100, 1, digest))
        return [each.content for each in last_landings(shop.lake.state, "orders", 99)]

    assert recorded(["a", "a", "a"])[:-1] == ["a"]
    assert recorded([str(each) for each in range(99)]) == [str(98 - each) for each in range(KEPT_CONTENTS)]


def test_records_of_expired_partitions_are_deleted(shop: Shop) -> None:
    shop.land("2024-01-01")
    shop.land("2024-04-01")
    expire(shop.source, 1, shop.lake)

    assert [each.partition for each in last_landings(shop.lake.state, "orders", 9)] == ["2024-04-01"]


def test_cost_of_a_landing_does_not_grow_with_the_age_of_the_dataset(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = shop.land("2024-01-01")
    read: list[int] = []

    def counted(state: StateStore, dataset: str, names: list[str]) -> dict[str, LandingRecord]:
        found = published_landings(state, dataset, names)
        read.append(len(found))
        return found

    for day in DAYS.between("2024-01-02", "2024-10-01"):
        audit = replace(judged.audit, partition=day)
        record_judged(
            replace(judged, audit=audit), shop.lake, TableVersion("datasets/orders", 1, 100, 1, judged.profile.content)
        )
    monkeypatch.setattr(landing_quality, "published_landings", counted)
    for day in ("2024-04-10", "2024-10-02"):
        shop.judge([(day, shop.rows(day))])

    # 12 of the same weekday and 12 before it, of which one is both, and the earlier content of the first.
    assert read == [24, 23]


@pytest.mark.parametrize(
    ("scheme", "key", "first", "last"),
    [
        (PartitionScheme(cadence="hour", start="2024-01-01-00:00"), "2024-02-01-09:00", "2024-01-25-09:00", 3),
        (PartitionScheme(cadence="week", start="2020-01-05"), "2024-02-04", "2023-02-05", 2),
        (PartitionScheme(cadence="month", start="2020-01"), "2024-02", "2023-02", 2),
        (PartitionScheme(cadence="quarter", start="2020-01"), "2024-04", "2023-04", 2),
        (PartitionScheme(cadence="year", start="2010"), "2024", "2023", 1),
    ],
)
def test_comparable_partitions_follow_the_season_of_the_cadence(
    scheme: PartitionScheme, key: str, first: str, last: int
) -> None:
    found = comparable_names(scheme, key, 2)

    assert len(found) == last
    assert found[0][0] == first
    assert found[-1] == [scheme.shift(key, -1), scheme.shift(key, -2)]


def test_names_have_no_comparable_partitions_by_name() -> None:
    assert comparable_names(PartitionScheme(cadence="names", names=["a", "b"]), "b", 3) == []
