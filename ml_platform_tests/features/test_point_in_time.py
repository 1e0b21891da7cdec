"""The point-in-time join equals an oracle that reads every row of the log for every example."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ml_platform.features.point_in_time import point_in_time_join
from ml_platform.features.view import INSTANT, FeatureView, ViewError

Fact = tuple[str, datetime, int | None]
Example = tuple[str | None, datetime]
Answer = tuple[Any, Any]

T0 = datetime(2013, 3, 10, 6, 0, tzinfo=UTC)  # One hour before daylight saving begins in New York.
VIEW = FeatureView.model_validate(
    {"name": "v", "entity": ["k"], "features": [{"name": "x", "type": "int32", "description": "x"}], "function": "m:f"}
)


def at(minutes: float) -> datetime:
    return T0 + timedelta(minutes=minutes)


def log(rows: list[Fact]) -> pl.LazyFrame:
    return pl.LazyFrame(rows, schema={"k": pl.String, "known_at": INSTANT, "x": pl.Int32}, orient="row")


def examples_of(rows: list[Example]) -> pl.LazyFrame:
    frame = pl.LazyFrame(rows, schema={"k": pl.String, "predict_at": INSTANT}, orient="row")
    return frame.with_row_index("id")


def view(**changes: object) -> FeatureView:
    return VIEW.model_copy(update=changes)


def read(examples: pl.LazyFrame, facts: pl.LazyFrame, chosen: FeatureView, **options: object) -> list[Answer]:
    joined = point_in_time_join(examples, {"v": facts}, [chosen], **options).collect().sort("id")  # type: ignore[arg-type]
    return joined.select("v__x", "v__age_minutes").rows()


def oracle(examples: pl.LazyFrame, facts: pl.LazyFrame, tolerance: int | None) -> list[Answer]:
    answers: list[Answer] = []
    log_rows = facts.collect().rows()
    for _, key, now in examples.collect().rows():
        best = None
        for entity, known_at, value in log_rows:
            if entity == key and known_at <= now and (best is None or known_at >= best[0]):
                best = (known_at, value)
        age = None if best is None else (now - best[0]).total_seconds() / 60
        stale = age is None or (tolerance is not None and age > tolerance)
        answers.append((None, None) if stale else (best[1], pytest.approx(age)))  # type: ignore[index]
    return answers


minutes = st.integers(-30, 90)
facts_strategy = st.lists(
    st.tuples(st.sampled_from("abc"), minutes.map(at), st.none() | st.integers(0, 5)), max_size=25
)
examples_strategy = st.lists(st.tuples(st.none() | st.sampled_from("abcd"), minutes.map(at)), max_size=25)


@settings(max_examples=150, deadline=None)
@given(facts_strategy, examples_strategy, st.none() | st.integers(0, 40), st.integers(1, 50))
@example([], [("a", at(0))], None, 1)
@example([("a", at(0), 1)], [], 5, 1)
@example([("a", at(0), 1), ("a", at(0), 2), ("a", at(0), None)], [("a", at(0))], 0, 1)
def test_join_equals_reading_every_row(
    facts: list[Fact], rows: list[Example], tolerance: int | None, chunk_rows: int
) -> None:
    examples, facts_frame = examples_of(rows), log(facts)
    found = read(examples, facts_frame, view(tolerance_minutes=tolerance), chunk_rows=chunk_rows)
    assert found == oracle(examples, facts_frame, tolerance)


@settings(max_examples=40, deadline=None)
@given(
    facts_strategy,
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(-4000, 4000).map(at)), min_size=1, max_size=40),
    st.none() | st.integers(0, 4000),
    st.sampled_from([["k"], []]),
)
def test_chunks_of_days_give_the_result_of_one_chunk(
    facts: list[Fact], rows: list[Example], tolerance: int | None, entity: list[str]
) -> None:
    chosen = view(tolerance_minutes=tolerance, entity=entity)
    whole = read(examples_of(rows), log(facts), chosen, chunk_rows=10_000)
    assert read(examples_of(rows), log(facts), chosen, chunk_rows=1) == whole


@settings(max_examples=60, deadline=None)
@given(facts_strategy, examples_strategy, st.randoms(use_true_random=False))
def test_order_of_the_log_matters_only_among_facts_of_one_instant(
    facts: list[Fact], rows: list[Example], random: Random
) -> None:
    shuffled = facts.copy()
    random.shuffle(shuffled)
    # Late facts are at the end of a log; facts of one instant keep their order among themselves.
    of_instant = {known: iter([fact for fact in facts if fact[1] == known]) for _, known, _ in facts}
    unsorted = [next(of_instant[known]) for _, known, _ in shuffled]
    assert read(examples_of(rows), log(unsorted), VIEW) == read(examples_of(rows), log(facts), VIEW)


@settings(max_examples=60, deadline=None)
@given(facts_strategy, facts_strategy, examples_strategy)
def test_late_facts_do_not_change_examples_predicted_before_they_were_known(
    facts: list[Fact], late: list[Fact], rows: list[Example]
) -> None:
    before, after = read(examples_of(rows), log(facts), VIEW), read(examples_of(rows), log(facts + late), VIEW)
    first = min((known for _, known, _ in late), default=None)
    for (_, predict_at), old, new in zip(rows, before, after, strict=True):
        if first is None or predict_at < first:
            assert old == new


ZONE = "America/New_York"
CLOCKS = st.sampled_from([datetime(2013, 3, 10, 5, tzinfo=UTC), datetime(2013, 11, 3, 4, tzinfo=UTC)])


@settings(max_examples=60, deadline=None)
@given(CLOCKS, facts_strategy, examples_strategy, st.none() | st.integers(0, 40))
def test_join_on_local_time_equals_reading_every_row_when_clocks_change(
    night: datetime, facts: list[Fact], rows: list[Example], tolerance: int | None
) -> None:
    # One minute of the strategies becomes four, to cover two hours before the change of clocks and six after it.
    def moved(time: datetime) -> datetime:
        return night + 4 * (time - T0)

    facts = [(key, moved(known), value) for key, known, value in facts]
    rows = [(key, moved(now)) for key, now in rows]
    local = examples_of(rows).with_columns(pl.col("predict_at").dt.convert_time_zone(ZONE))
    local_log = log(facts).with_columns(pl.col("known_at").dt.convert_time_zone(ZONE))
    found = read(local, local_log, view(tolerance_minutes=tolerance))
    assert found == oracle(examples_of(rows), log(facts), tolerance)


def test_last_of_several_facts_known_at_one_instant_is_read() -> None:
    facts = log([("a", at(0), 7), ("a", at(0), 3), ("a", at(0), 5)])
    assert read(examples_of([("a", at(1))]), facts, VIEW) == [(5, 1.0)]


def test_fact_known_after_prediction_time_is_not_used() -> None:
    assert read(examples_of([("a", at(0))]), log([("a", at(0) + timedelta(microseconds=1), 1)]), VIEW) == [(None, None)]


def test_fact_exactly_as_old_as_the_tolerance_is_used_and_an_older_one_is_not() -> None:
    rows = examples_of([("a", at(10)), ("a", at(10) + timedelta(microseconds=1))])
    assert read(rows, log([("a", at(0), 1)]), view(tolerance_minutes=10)) == [(1, 10.0), (None, None)]


def test_first_of_several_chunks_reads_facts_as_old_as_the_tolerance() -> None:
    days: list[Example] = [("a", at(0)), ("a", at(0) + timedelta(days=2))]
    facts = log([("a", at(-10), 1), ("a", at(2 * 1440 - 10), 2)])
    assert read(examples_of(days), facts, view(tolerance_minutes=10), chunk_rows=1) == [(1, 10.0), (2, 10.0)]
    assert read(examples_of(days), facts, view(tolerance_minutes=9), chunk_rows=1) == [(None, None)] * 2


def test_later_chunk_reads_the_last_fact_of_the_chunk_before() -> None:
    days: list[Example] = [("a", at(9)), ("a", at(9) + timedelta(days=2)), ("a", at(9) + timedelta(days=4))]
    facts = log([("a", at(0), 1), ("a", at(5), 2)])
    expected = [(2, 4.0), (2, 4.0 + 2 * 1440), (2, 4.0 + 4 * 1440)]
    assert read(examples_of(days), facts, VIEW, chunk_rows=1) == expected
    exactly = 4 + 2 * 1440
    assert read(examples_of(days), facts, view(tolerance_minutes=exactly), chunk_rows=1) == [
        *expected[:2],
        (None, None),
    ]


def test_stale_fact_does_not_fall_back_to_an_older_one() -> None:
    facts = log([("a", at(-5), 1), ("a", at(0), None)])
    assert read(examples_of([("a", at(2))]), facts, view(tolerance_minutes=10)) == [(None, 2.0)]


def test_unknown_entity_and_null_entity_read_null() -> None:
    rows = examples_of([("z", at(5)), (None, at(5))])
    assert read(rows, log([("a", at(0), 1)]), VIEW) == [(None, None), (None, None)]


def test_ages_are_elapsed_time_over_a_change_of_clocks() -> None:
    # From 01:30 to 03:30 in New York is one hour in the night in which daylight saving begins.
    zone = ZoneInfo("America/New_York")
    fact, now = datetime(2013, 3, 10, 1, 30, tzinfo=zone), datetime(2013, 3, 10, 3, 30, tzinfo=zone)
    facts = log([("a", fact.astimezone(UTC), 1)])
    rows = pl.LazyFrame({"id": [0], "k": ["a"], "predict_at": [now]}).cast({"predict_at": pl.Datetime("us", str(zone))})
    assert read(rows, facts, view(tolerance_minutes=60)) == [(1, 60.0)]


def test_hour_that_occurs_twice_is_two_hours() -> None:
    zone = ZoneInfo("America/New_York")
    first = datetime(2013, 11, 3, 1, 30, tzinfo=zone, fold=0).astimezone(UTC)
    second = datetime(2013, 11, 3, 1, 30, tzinfo=zone, fold=1).astimezone(UTC)
    assert read(examples_of([("a", first), ("a", second)]), log([("a", second, 1)]), VIEW) == [(None, None), (1, 0.0)]


def test_view_without_entity_is_read_by_all_examples() -> None:
    facts = pl.LazyFrame([(at(0), 1), (at(5), 2)], schema={"known_at": INSTANT, "x": pl.Int32}, orient="row")
    assert read(examples_of([("a", at(3)), (None, at(9))]), facts, view(entity=[])) == [(1, 3.0), (2, 4.0)]


def test_view_without_entity_keeps_its_last_fact_for_later_chunks() -> None:
    facts = pl.LazyFrame([(at(0), 1), (at(5), 2)], schema={"known_at": INSTANT, "x": pl.Int32}, orient="row")
    days = examples_of([("a", at(9)), ("b", at(9) + timedelta(days=2))])
    assert read(days, facts, view(entity=[]), chunk_rows=1) == [(2, 4.0), (2, 4.0 + 2 * 1440)]


def test_facts_known_at_or_after_known_before_are_left_out() -> None:
    facts = log([("a", at(0), 1), ("a", at(5), 2)])
    assert read(examples_of([("a", at(9))]), facts, VIEW, known_before={"v": at(5)}) == [(1, 9.0)]


def test_several_views_are_joined_side_by_side() -> None:
    other = view(name="w", tolerance_minutes=1)
    logs = {"v": log([("a", at(0), 1)]), "w": log([("a", at(0), 2)])}
    joined = point_in_time_join(examples_of([("a", at(0)), ("a", at(2))]), logs, [VIEW, other]).collect()
    assert joined.select("v__x", "w__x").rows() == [(1, 2), (1, None)]


def test_result_is_sorted_by_prediction_time_with_ties_in_the_given_order() -> None:
    rows = examples_of([("a", at(2)), ("b", at(1)), ("a", at(1))])
    assert point_in_time_join(rows, {"v": log([])}, [VIEW]).collect()["id"].to_list() == [1, 2, 0]


def test_lazy_result_can_be_filtered_projected_and_streamed(tmp_path: Path) -> None:
    joined = point_in_time_join(
        examples_of([("a", at(2)), ("a", at(1))]), {"v": log([("a", at(0), 1)])}, [VIEW], chunk_rows=1
    )
    assert joined.filter(pl.col("v__age_minutes") > 1).select("v__x").collect().rows() == [(1,)]
    joined.sink_parquet(tmp_path / "joined.parquet")
    assert pl.read_parquet(tmp_path / "joined.parquet")["v__age_minutes"].to_list() == [1.0, 2.0]


def test_naive_prediction_time_is_rejected() -> None:
    rows = pl.LazyFrame({"k": ["a"], "predict_at": [datetime(2013, 1, 1)]})
    with pytest.raises(ViewError, match="column 'predict_at': expected instants with a time zone"):
        point_in_time_join(rows, {"v": log([])}, [VIEW])


def test_null_prediction_time_is_rejected() -> None:
    rows = examples_of([("a", at(0)), ("a", at(3000))]).with_columns(pl.lit(None, INSTANT).alias("predict_at"))
    with pytest.raises(ViewError, match="predict_at in every row, found 2 rows without it"):
        point_in_time_join(rows, {"v": log([])}, [VIEW]).collect()


def test_error_of_a_missing_entity_column_offers_the_closest_name() -> None:
    rows = examples_of([("a", at(0))]).rename({"k": "kk"})
    with pytest.raises(ViewError, match=r"no 'k' among .*Did you mean"):
        point_in_time_join(rows, {"v": log([])}, [view(entity=["k"])])


def test_error_of_a_missing_log_names_the_asset_to_materialize() -> None:
    with pytest.raises(ViewError, match="Materialize features/v first"):
        point_in_time_join(examples_of([("a", at(0))]), {}, [VIEW]).collect()
