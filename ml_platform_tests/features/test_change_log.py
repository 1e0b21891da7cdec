"""Building a change log: the function's result is validated, and left-out facts are counted and named."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from ml_platform.data.lake import Lake
from ml_platform.features.change_log import ChangeLog, Window, build, read, write
from ml_platform.features.view import INSTANT, FeatureView, ViewError

START, END = datetime(2013, 3, 1, tzinfo=UTC), datetime(2013, 4, 1, tzinfo=UTC)
WINDOW = Window(START, END)
RETURNED: dict[str, object] = {}


def given_facts(sources: dict[str, pl.LazyFrame]) -> object:
    """Return the facts that the test stored; the function of the views below."""
    return RETURNED["facts"]


def seen_columns(sources: dict[str, pl.LazyFrame], window: Window) -> pl.LazyFrame:
    """Return the names of the visible columns as one fact at the start of the window."""
    names = sources["flights"].collect_schema().names()
    return pl.LazyFrame({"k": ["+".join(names)], "known_at": [window.start], "x": [1.0]})


def view(**changes: object) -> FeatureView:
    return FeatureView.model_validate(
        {
            "name": "origin",
            "entity": ["k"],
            "features": [{"name": "x", "description": "a number"}],
            "function": f"{__name__}:given_facts",
            "lookback_days": 2,
            **changes,
        }
    )


def facts(*rows: tuple[str | None, datetime | None, float | None]) -> pl.LazyFrame:
    return pl.LazyFrame(list(rows), schema={"k": pl.String, "known_at": INSTANT, "x": pl.Float64}, orient="row")


def built(frame: object, **changes: object) -> ChangeLog:
    RETURNED["facts"] = frame
    return build(view(**changes), {}, WINDOW)


def day(number: float) -> datetime:
    return START + timedelta(days=number)


def test_log_has_the_facts_of_its_window_sorted_in_declared_types() -> None:
    log = built(facts(("b", day(2), 1.5), ("a", day(2), 2.5), ("a", day(-1), 0.0)))
    assert log.frame.rows() == [("a", day(2), 2.5), ("b", day(2), 1.5)]
    assert log.frame.schema["x"] == pl.Float32
    assert (log.report.rows, log.report.before_window) == (2, 1)


def test_window_includes_its_start_and_excludes_its_end() -> None:
    log = built(facts(("a", START, 1.0), ("a", END - timedelta(microseconds=1), 2.0), ("a", END, 3.0)))
    assert log.frame["x"].to_list() == [1.0, 2.0]


def test_fact_from_after_the_data_clock_is_counted_and_named() -> None:
    report = built(facts(("JFK", END, 1.0), ("a", day(1), 2.0))).report
    assert report.after_clock == 1
    assert report.first_after_clock == "view 'origin', k=JFK at 2013-04-01T00:00+0000"


def test_fact_from_after_the_data_clock_is_rejected_without_a_lookback() -> None:
    with pytest.raises(ViewError, match=r"'origin': expected no fact known at or after .* k=JFK at 2013-04-01"):
        built(facts(("JFK", END, 1.0)), lookback_days=0)


def test_equal_rows_are_one_fact_and_are_counted() -> None:
    log = built(facts(("a", day(1), 1.0), ("a", day(1), 1.0), ("b", day(1), 1.0)))
    assert log.frame.height == 2
    assert (log.report.duplicates, log.report.superseded) == (1, 0)


def test_last_of_several_facts_of_one_entity_and_instant_counts() -> None:
    log = built(facts(("a", day(1), 1.0), ("a", day(1), 2.0), ("a", day(1), 1.5)))
    assert log.frame["x"].to_list() == [1.5]
    assert (log.report.duplicates, log.report.superseded) == (0, 2)


def test_nan_becomes_null() -> None:
    assert built(facts(("a", day(1), float("nan")))).frame["x"].to_list() == [None]


def test_infinite_value_is_rejected_with_view_entity_and_time() -> None:
    with pytest.raises(ViewError, match=r"column 'x': expected finite values, found 1 infinite.*k=b at 2013-03-02"):
        built(facts(("a", day(1), 1.0), ("b", day(1), float("inf"))))


def test_null_key_is_rejected_with_its_time() -> None:
    with pytest.raises(ViewError, match=r"column 'k': expected no nulls, found 1 of 2 .*at 2013-03-03"):
        built(facts(("a", day(1), 1.0), (None, day(2), 1.0)))


def test_null_time_is_rejected_with_its_entity() -> None:
    with pytest.raises(ViewError, match=r"column 'known_at': expected no nulls, .*k=b"):
        built(facts(("a", day(1), 1.0), ("b", None, 1.0)))


def test_naive_time_is_rejected() -> None:
    naive = facts(("a", day(1), 1.0)).with_columns(pl.col("known_at").dt.replace_time_zone(None))
    with pytest.raises(ViewError, match=r"column 'known_at': expected instants with a time zone, found Datetime"):
        built(naive)


def test_time_of_another_zone_is_stored_in_utc() -> None:
    zoned = facts(("a", day(1), 1.0)).with_columns(pl.col("known_at").dt.convert_time_zone("America/New_York"))
    log = built(zoned)
    assert log.frame.schema["known_at"] == INSTANT
    assert log.frame["known_at"][0] == day(1)


def test_missing_and_undeclared_columns_are_named() -> None:
    with pytest.raises(ViewError, match=r"1 missing \('x'\) and 1 not declared \('xx'\).* Did you mean 'xx'\?"):
        built(facts(("a", day(1), 1.0)).rename({"x": "xx"}))


def test_text_in_a_number_column_is_rejected() -> None:
    with pytest.raises(ViewError, match="column 'x': expected Float32, found String"):
        built(facts(("a", day(1), 1.0)).with_columns(pl.lit("12m").alias("x")))


def test_number_that_does_not_fit_its_type_is_rejected() -> None:
    small = [{"name": "x", "type": "int8", "description": "a small number"}]
    with pytest.raises(ViewError, match=r"'x': expected values of Int8, found 1 of 1 .*the first 300\.0 of"):
        built(facts(("a", day(1), 300.0)), features=small)


def test_function_that_returns_no_frame_is_rejected() -> None:
    with pytest.raises(ViewError, match="expected a Polars frame of facts, found dict"):
        built({"k": []})


def test_no_facts_give_an_empty_log_of_the_declared_types() -> None:
    log = built(facts())
    assert log.frame.schema == pl.Schema({"k": pl.String(), "known_at": INSTANT, "x": pl.Float32()})
    assert log.report.rows == 0


def test_function_gets_declared_columns_only_and_its_window() -> None:
    flights = pl.LazyFrame({"a": [1], "b": [2], "c": [3], "d": [4]})
    source = {"dataset": "flights", "known_upfront": ["a"], "available_from": {"b": ["b", "c"]}}
    log = build(view(function=f"{__name__}:seen_columns", sources=[source]), {"flights": flights}, WINDOW)
    assert log.frame["k"].to_list() == ["a+b+c"]
    assert log.frame["known_at"].to_list() == [START]


def test_error_names_a_declared_column_that_the_source_lacks() -> None:
    source = {"dataset": "flights", "known_upfront": ["departed"]}
    with pytest.raises(ViewError, match=r"expected columns 'departed' in 'flights'.* Did you mean 'departed_at'"):
        build(view(sources=[source]), {"flights": pl.LazyFrame({"departed_at": [1]})}, WINDOW)


def test_late_fact_is_published_counted_and_named_and_the_old_version_stays(tmp_path: Path) -> None:
    lake = Lake.standalone(tmp_path)
    first, report = write(view(), built(facts(("a", day(1), 1.0), ("a", day(5), 2.0))), lake, "2013-03")
    assert report.late_facts == 0
    later = built(facts(("a", day(1), 1.0), ("b", day(3), 9.0), ("a", day(5), 2.0), ("a", day(6), 3.0)))
    second, report = write(view(), later, lake, "2013-03")
    assert report.late_facts == 1
    assert report.first_late_fact == "view 'origin', k=b at 2013-03-04T00:00+0000"
    assert read(view(), lake, first.version).collect().height == 2
    assert read(view(), lake, second.version).collect().height == 4


def test_changed_code_version_has_its_own_table(tmp_path: Path) -> None:
    lake = Lake.standalone(tmp_path)
    old, new = view(code_version="1"), view(code_version="2", features=[{"name": "y", "description": "another"}])
    RETURNED["facts"] = facts(("a", day(1), 1.0))
    write(old, build(old, {}, WINDOW), lake, "2013-03")
    RETURNED["facts"] = facts(("a", day(1), 2.0)).rename({"x": "y"})
    write(new, build(new, {}, WINDOW), lake, "2013-03")
    assert read(old, lake).collect()["x"].to_list() == [1.0]
    assert read(new, lake).collect()["y"].to_list() == [2.0]


def test_log_is_read_of_the_given_partitions(tmp_path: Path) -> None:
    lake = Lake.standalone(tmp_path)
    for month, value in [("2013-03", 1.0), ("2013-04", 2.0)]:
        write(view(), built(facts(("a", day(1), value))), lake, month)
    assert read(view(), lake, partitions=["2013-03"]).collect()["x"].to_list() == [1.0]
    assert sorted(read(view(), lake).collect()["x"]) == [1.0, 2.0]
