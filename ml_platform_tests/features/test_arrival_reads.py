"""Both reads use a fact from its arrival on: the join over history, and the online store over what has landed."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.data.arrival import Arrival
from ml_platform.data.lake import Lake
from ml_platform.data.partitions import PartitionScheme
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.materialize import materialize
from ml_platform.features.online_store import latest_facts
from ml_platform.features.point_in_time import point_in_time_join
from ml_platform.features.skew import compare_features, features_to_log
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.features.view import INSTANT, FeatureView

ZONE = "America/New_York"
NIGHTS = st.sampled_from([datetime(2013, 3, 10, 5, tzinfo=UTC), datetime(2013, 11, 3, 4, tzinfo=UTC)])
HOURLY = Arrival(every="hour", delay="15m", time_zone=ZONE)
NOON = datetime(2013, 6, 5, 12, tzinfo=UTC)


def prices(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return one fact per sale, known at the sale."""
    return sources["sales"].select("k", known_at="at", x="x")


def view(*arrivals: Arrival, **changes: object) -> FeatureView:
    return FeatureView.model_validate(
        {
            "name": "v",
            "entity": ["k"],
            "features": [{"name": "x", "type": "int32", "description": "x"}],
            "sources": [{"dataset": "sales"}],
            "function": f"{__name__}:prices",
            "code_version": "1",
            "age": True,
            "arrivals": arrivals,
            **changes,
        }
    )


def log(facts: list[tuple[str, datetime, int]]) -> pl.LazyFrame:
    return pl.LazyFrame(facts, schema={"k": pl.String, "known_at": INSTANT, "x": pl.Int32}, orient="row")


def examples(rows: list[tuple[str, datetime]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"k": pl.String, "predict_at": INSTANT}, orient="row").with_row_index("id")


def oracle(
    facts: list[tuple[str, datetime, int]], key: str, now: datetime, chosen: FeatureView
) -> tuple[object, object]:
    """Return value and age of the last fact of ``key`` that had arrived by ``now``, reading every fact."""
    best: tuple[datetime, int] | None = None
    for entity, known_at, value in facts:
        usable = all(known_at < arrival.cut_off(now) for arrival in chosen.arrivals)
        if entity == key and usable and (best is None or known_at >= best[0]):
            best = (known_at, value)
    age = None if best is None else (now - best[0]).total_seconds() / 60
    stale = age is None or (chosen.tolerance_minutes is not None and age > chosen.tolerance_minutes)
    return (None, None) if stale or best is None else (best[1], pytest.approx(age))


@settings(max_examples=50, deadline=None)
@given(
    NIGHTS,
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(-4_000, 4_000), st.integers(0, 5)), max_size=25),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(-4_000, 4_000)), max_size=20),
    st.lists(
        st.sampled_from(
            [HOURLY, Arrival(every="day", delay="6h", time_zone=ZONE), Arrival(delay="1h"), Arrival(every="week")]
        ),
        max_size=2,
    ),
    st.none() | st.integers(0, 3_000),
    st.sampled_from([1, 10_000]),
)
def test_join_with_arrivals_equals_reading_every_fact(
    night: datetime,
    facts: list[tuple[str, int, int]],
    rows: list[tuple[str, int]],
    arrivals: list[Arrival],
    tolerance: int | None,
    chunk_rows: int,
) -> None:
    chosen = view(*(arrivals or [Arrival()]), tolerance_minutes=tolerance)
    known = [(key, night + timedelta(minutes=minute), value) for key, minute, value in facts]
    requests = [(key, night + timedelta(minutes=minute)) for key, minute in rows]
    joined = point_in_time_join(examples(requests).lazy(), {"v": log(known)}, [chosen], chunk_rows=chunk_rows)
    found = joined.collect().sort("id").select("v__x", "v__age_minutes").rows()
    assert found == [oracle(known, key, now, chosen) for key, now in requests]


def test_fact_of_an_hour_is_used_a_quarter_past_the_next_one_and_its_age_counts_from_the_fact() -> None:
    facts = [("a", NOON - timedelta(minutes=150), 1), ("a", NOON - timedelta(minutes=30), 2)]
    requests = [("a", NOON + timedelta(minutes=14, seconds=59)), ("a", NOON + timedelta(minutes=15))]
    read = point_in_time_join(examples(requests).lazy(), {"v": log(facts)}, [view(HOURLY)]).collect()
    assert read["v__x"].to_list() == [1, 2]
    assert read["v__age_minutes"].to_list() == pytest.approx([164 + 59 / 60, 45])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(-600, 60), st.integers(0, 5)), max_size=20),
    st.integers(0, 120),
)
def test_store_that_arrived_as_declared_serves_what_training_reads(
    tmp_path_factory: pytest.TempPathFactory, facts: list[tuple[str, int, int]], minute: int
) -> None:
    chosen, now = FeatureSet([view(HOURLY)]), NOON + timedelta(minutes=minute)
    known = [(key, NOON + timedelta(minutes=at), value) for key, at, value in sorted(facts, key=lambda fact: fact[1])]
    online = SnapshotStore(tmp_path_factory.mktemp("online"))
    online.publish(latest_facts(chosen.views[0], log(known), HOURLY.cut_off(now)))
    request = examples([("a", now), ("b", now), ("c", now)])
    offline = chosen.as_of(request.lazy(), {"v": log(known)}).collect().sort("id")
    assert chosen.online(request, online).equals(offline.select(chosen.feature_names))


def test_data_later_than_declared_are_no_skew(tmp_path: Path) -> None:
    chosen, now = FeatureSet([view(HOURLY)]), NOON + timedelta(minutes=20)
    facts = log([("a", NOON - timedelta(minutes=90), 1), ("a", NOON - timedelta(minutes=30), 2)])
    online = SnapshotStore(tmp_path)
    online.publish(latest_facts(chosen.views[0], facts, NOON - timedelta(hours=1)))
    request = examples([("a", now)])
    served = chosen.serve(request, online)
    assert served.frame["v__x"].to_list() == [1]
    assert compare_features(chosen, features_to_log(request, served), {"v": facts}).passed


def test_set_without_arrivals_is_stored_as_before_and_one_with_arrivals_keeps_them() -> None:
    undeclared, declared = FeatureSet([view()]), FeatureSet([view(HOURLY)])
    assert "arrivals" not in undeclared.to_dict()["views"][0]  # type: ignore[index]
    again = FeatureSet.from_dict(json.loads(json.dumps(declared.to_dict())))
    assert again.views[0].arrivals == [HOURLY]
    assert again.views[0].table == undeclared.views[0].table


MONTHS = PartitionScheme(start="2013-05", time_zone="UTC")
SOLD = {"k": pl.String(), "at": INSTANT, "x": pl.Int32()}


def test_part_of_a_month_is_published_until_its_last_hour_and_the_whole_month_until_its_end(tmp_path: Path) -> None:
    lake, online = Lake.standalone(tmp_path / "lake"), SnapshotStore(tmp_path / "online", refresh_seconds=0)
    declared = view(HOURLY.model_copy(update={"dataset": "sales", "clock": ["at"]}))

    def publish(*times: datetime) -> datetime:
        sales = pl.DataFrame([("a", at, at.day) for at in times], schema=SOLD, orient="row")
        lake.write("datasets/sales", sales, "2013-06")
        return materialize(declared, lake, online, ["2013-06"], MONTHS)[1].watermark

    morning, noon = datetime(2013, 6, 5, 9, 10, tzinfo=UTC), datetime(2013, 6, 5, 11, 50, tzinfo=UTC)
    assert publish() == datetime(2013, 6, 1, tzinfo=UTC)
    assert publish(morning) == datetime(2013, 6, 5, 10, tzinfo=UTC)
    assert publish(morning, noon) == datetime(2013, 6, 5, 12, tzinfo=UTC)
    assert online.lookup([declared], {"k": ["a"]}, 1).values.tolist() == [[5.0]]
    assert publish(morning, datetime(2013, 6, 30, 23, 1, tzinfo=UTC)) == datetime(2013, 7, 1, tzinfo=UTC)


def test_slowest_source_limits_the_watermark_of_a_view(tmp_path: Path) -> None:
    lake, online = Lake.standalone(tmp_path / "lake"), SnapshotStore(tmp_path / "online", refresh_seconds=0)
    daily = Arrival(every="day", dataset="weather", clock=["at"])
    hourly = HOURLY.model_copy(update={"dataset": "sales", "clock": ["at"]})
    sold = pl.DataFrame([("a", datetime(2013, 6, 5, 9, tzinfo=UTC), 1)], schema=SOLD, orient="row")
    lake.write("datasets/sales", sold, "2013-06")
    lake.write("datasets/weather", sold.with_columns(pl.col("at").dt.offset_by("-1d")), "2013-06")
    publication = materialize(view(hourly, daily), lake, online, ["2013-06"], MONTHS)[1]
    assert publication.watermark == datetime(2013, 6, 5, tzinfo=UTC)
