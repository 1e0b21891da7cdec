"""The leak test catches five views that use the future, and passes two views that do not."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from ml_platform.features.change_log import Window
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.leak import (
    ColumnAvailability,
    LeakFoundError,
    LeakReport,
    choose_cuts,
    column_availability,
    run_leak_test,
    scramble,
)
from ml_platform.features.view import INSTANT, FeatureView, ViewError

Sources = dict[str, pl.LazyFrame]

START = datetime(2013, 3, 1, tzinfo=UTC)
WINDOW = Window(START, START + timedelta(days=12))
FLIGHTS: dict[str, Any] = {
    "dataset": "flights",
    "known_upfront": ["origin", "due"],
    "available_from": {"left": ["left", "dep_delay"], "landed": ["landed", "arr_delay"]},
}
WEATHER: dict[str, Any] = {
    "dataset": "weather",
    "available_from": {"observed": ["origin", "observed", "temp"]},
    "available_after_minutes": 60,
}


def recent_delay(sources: Sources) -> pl.LazyFrame:
    """No leak: the delay of each departure, known at the departure."""
    flights = sources["flights"].filter(pl.col("left").is_not_null())
    return flights.select("origin", known_at="left", value="dep_delay")


def observed_weather(sources: Sources) -> pl.LazyFrame:
    """No leak: weather, known an hour after its timestamp."""
    return sources["weather"].select("origin", known_at=pl.col("observed") + timedelta(hours=1), value="temp")


def weather_of_the_departure_hour(sources: Sources) -> pl.LazyFrame:
    """Leak: the weather at the departure, two hours after the prediction."""
    return sources["weather"].select("origin", known_at=pl.col("observed") - timedelta(hours=2), value="temp")


def weather_half_an_hour_early(sources: Sources) -> pl.LazyFrame:
    """Leak: weather, known half an hour after its timestamp although it is declared as known after an hour."""
    return sources["weather"].select("origin", known_at=pl.col("observed") + timedelta(minutes=30), value="temp")


def own_delay(sources: Sources) -> pl.LazyFrame:
    """Leak: dep_delay of the predicted flight, at its prediction time."""
    return sources["flights"].select("origin", known_at=pl.col("due") - timedelta(hours=2), value="dep_delay")


def mean_with_the_row_itself(sources: Sources) -> pl.LazyFrame:
    """Leak: a running mean that includes the predicted flight."""
    ordered = sources["flights"].sort("due").with_columns(pl.col("arr_delay").fill_null(0.0))
    mean = pl.col("arr_delay").rolling_mean(5, min_samples=1).over("origin")
    return ordered.select("origin", known_at=pl.col("due") - timedelta(hours=2), value=mean)


def joined_on_the_date(sources: Sources) -> pl.LazyFrame:
    """Leak: the mean of the whole day, known at its start."""
    day = pl.col("due").dt.truncate("1d")
    return sources["flights"].group_by("origin", known_at=day).agg(value=pl.col("arr_delay").mean())


def target_encoded(sources: Sources) -> pl.LazyFrame:
    """Leak: the late share of each airport over the whole table, known from the beginning."""
    late = (pl.col("arr_delay") > 15).mean()
    return sources["flights"].group_by("origin").agg(value=late, known_at=pl.lit(START))


def hour(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(hour=pl.col("due").dt.hour().cast(pl.Float32))


def view(function: str, *sources: dict[str, Any]) -> FeatureView:
    return FeatureView.model_validate(
        {
            "name": function,
            "entity": ["origin"],
            "features": [{"name": "value", "description": "…"}],
            "sources": list(sources) or [FLIGHTS],
            "function": f"{__name__}:{function}",
            "lookback_days": 1,
        }
    )


@pytest.fixture(scope="module")
def sources() -> Sources:
    random = np.random.default_rng(1)
    due = pl.Series([START + timedelta(minutes=int(m)) for m in sorted(random.integers(0, 12 * 1440, 800))])
    delay = pl.Series(random.normal(10, 30, 800).round())
    flights = pl.DataFrame({"due": due, "dep_delay": delay, "arr_delay": delay + 3}).with_columns(
        origin=pl.Series(random.choice(["EWR", "JFK"], 800)),
        left=pl.col("due") + pl.duration(minutes=pl.col("dep_delay") + 20),
    )
    flights = flights.with_columns(landed=pl.col("left") + timedelta(hours=3))
    hours = [START + timedelta(hours=h) for h in range(12 * 24)]
    weather = pl.DataFrame({"observed": hours * 2, "origin": ["EWR"] * len(hours) + ["JFK"] * len(hours)})
    weather = weather.with_columns(temp=pl.Series(random.normal(50, 9, weather.height).round(1)))
    return {"flights": flights.lazy(), "weather": weather.lazy()}


@pytest.fixture(scope="module")
def examples(sources: Sources) -> pl.LazyFrame:
    return (
        sources["flights"]
        .select("origin", "due", predict_at=pl.col("due") - timedelta(hours=2))
        .filter(pl.col("predict_at") >= START)
    )


def report_on(chosen: FeatureView, sources: Sources, examples: pl.LazyFrame) -> LeakReport:
    return run_leak_test(FeatureSet([chosen]), sources, examples, WINDOW, choose_cuts(examples))


@pytest.mark.parametrize(
    ("function", "source"),
    [
        ("weather_of_the_departure_hour", WEATHER),
        ("own_delay", FLIGHTS),
        ("mean_with_the_row_itself", FLIGHTS),
        ("joined_on_the_date", FLIGHTS),
        ("target_encoded", FLIGHTS),
    ],
)
def test_planted_leak_is_caught_and_named(
    function: str, source: dict[str, Any], sources: Sources, examples: pl.LazyFrame
) -> None:
    report = report_on(view(function, source), sources, examples)
    assert not report.passed
    leak = report.leaks[0]
    assert (leak.view, leak.feature) == (function, f"{function}__value")
    assert leak.rows >= 1
    shown = leak.examples[0]
    assert shown["before"] != shown["after"]
    predict_at = shown["predict_at"]
    assert isinstance(predict_at, datetime)
    assert predict_at <= leak.cut
    with pytest.raises(LeakFoundError, match=f"found 1 that do: '{function}__value'"):
        report.raise_if_failed()


@pytest.mark.parametrize(("function", "source"), [("recent_delay", FLIGHTS), ("observed_weather", WEATHER)])
def test_view_without_a_leak_passes_and_is_compared(
    function: str, source: dict[str, Any], sources: Sources, examples: pl.LazyFrame
) -> None:
    report = report_on(view(function, source), sources, examples)
    assert report.leaks == []
    assert (report.features, len(report.cuts)) == (1, 3)
    assert report.examples > 700
    report.raise_if_failed()


def test_value_used_before_its_reveal_delay_is_caught(sources: Sources) -> None:
    noon = START + timedelta(days=6, hours=12)
    # The value of 12:00 is known at 13:00. The view uses it from 12:30, so the example of 12:50 knows the future.
    example = pl.LazyFrame({"origin": ["EWR"], "predict_at": [noon + timedelta(minutes=50)]})
    chosen = FeatureSet([view("weather_half_an_hour_early", WEATHER)])
    cuts = [noon + timedelta(minutes=55), noon + timedelta(minutes=60)]
    report = run_leak_test(chosen, sources, example, WINDOW, cuts)
    assert [(leak.cut, leak.rows) for leak in report.leaks] == [(cuts[0], 1)]


def test_only_the_leaking_view_of_a_set_is_named(sources: Sources, examples: pl.LazyFrame) -> None:
    chosen = FeatureSet([view("recent_delay"), view("own_delay"), view("observed_weather", WEATHER)])
    report = run_leak_test(chosen, sources, examples, WINDOW, choose_cuts(examples, 1))
    assert {leak.view for leak in report.leaks} == {"own_delay"}


def test_column_without_a_declared_availability_is_rejected(sources: Sources, examples: pl.LazyFrame) -> None:
    silent = {"dataset": "flights", "columns": ["dep_delay"], "known_upfront": ["origin", "due"]}
    with pytest.raises(ViewError, match="for every column, when it becomes known, found nothing about 'dep_delay'"):
        report_on(view("own_delay", silent), sources, examples)


def test_views_that_disagree_when_a_column_is_known_are_rejected() -> None:
    wrong = {"dataset": "flights", "known_upfront": ["origin", "due", "dep_delay"]}
    with pytest.raises(ViewError, match="another view with another declaration for 'dep_delay'"):
        column_availability(FeatureSet([view("recent_delay"), view("own_delay", wrong)]))


def test_cut_before_all_examples_is_rejected(sources: Sources, examples: pl.LazyFrame) -> None:
    with pytest.raises(ViewError, match="expected examples predicted by 2013-02-01"):
        run_leak_test(FeatureSet([view("recent_delay")]), sources, examples, WINDOW, [datetime(2013, 2, 1, tzinfo=UTC)])


def test_scrambling_changes_only_values_known_after_the_cut(sources: Sources) -> None:
    cut = START + timedelta(days=6)
    before = sources["flights"].collect()
    known = ColumnAvailability(frozenset(["origin", "due"]), {"left": ("left", 0), "dep_delay": ("left", 0)})
    after = scramble(before, known, cut, np.random.default_rng(0))
    assert after.select("origin", "due", "arr_delay").equals(before.select("origin", "due", "arr_delay"))
    early = (before["left"] <= cut).to_list()
    assert after.filter(early).equals(before.filter(early))
    late = after.filter([not each for each in early])
    assert (late["left"] > cut).all()
    changed = late["dep_delay"] != before.filter([not each for each in early])["dep_delay"]
    assert changed.sum() > 0.8 * len(changed)


def times(*minutes_after_cut: float | None) -> pl.Series:
    """Return times around the cut of the tests below; None is a time that never came."""
    given = [None if minutes is None else CUT + timedelta(minutes=minutes) for minutes in minutes_after_cut]
    return pl.Series(given, dtype=INSTANT)


CUT = START + timedelta(days=6)


def test_value_is_scrambled_until_its_reveal_delay_has_passed() -> None:
    minutes = [-61, -60, *[-30] * 30, 0, 1]
    frame = pl.DataFrame({"origin": ["EWR"] * 34, "observed": times(*minutes), "temp": range(34)})
    known = ColumnAvailability(frozenset(["origin", "observed"]), {"temp": ("observed", 60)})
    found = scramble(frame, known, CUT, np.random.default_rng(0))["temp"].to_list()
    # Values observed up to an hour before the cut are known; the others change places among themselves.
    assert found[:2] == [0, 1]
    assert sorted(found[2:]) == list(range(2, 34))
    assert sum(new != old for old, new in enumerate(found)) > 25


def test_values_without_a_time_are_scrambled_because_they_are_never_known() -> None:
    frame = pl.DataFrame(
        {"origin": ["EWR"] * 60, "left": times(*[-5] * 20, *[None] * 40), "reason": [*range(20), *range(20, 60)]}
    )
    known = ColumnAvailability(frozenset(["origin"]), {"left": ("left", 0), "reason": ("left", 0)})
    scrambled = scramble(frame, known, CUT, np.random.default_rng(0))
    assert scrambled.head(20).equals(frame.head(20))
    changed = sum(new != old for new, old in zip(scrambled["reason"], frame["reason"], strict=True))
    assert changed > 30
    # Four of five rows that had no departure get one after the cut, so that its absence says nothing.
    departures = scrambled["left"].tail(40).drop_nulls()
    assert 24 <= len(departures) <= 38
    assert (departures > CUT).all()
    assert (departures <= CUT + timedelta(days=3)).all()


def test_one_value_in_five_becomes_null_in_a_column_with_nulls_and_none_in_others() -> None:
    frame = pl.DataFrame({"observed": times(*[-5] * 100, *[5] * 1000), "full": range(1100)})
    frame = frame.with_columns(gaps=pl.when(pl.col("full") > 0).then("full"))
    known = ColumnAvailability(frozenset(["observed"]), {"full": ("observed", 0), "gaps": ("observed", 0)})
    scrambled = scramble(frame, known, CUT, np.random.default_rng(0))
    assert scrambled["full"].null_count() == 0
    assert scrambled["gaps"].head(100).equals(frame["gaps"].head(100))
    assert scrambled["gaps"].tail(1000).null_count() == pytest.approx(200, abs=40)


def test_three_in_ten_future_rows_vanish_when_no_column_is_known_upfront() -> None:
    frame = pl.DataFrame({"observed": times(*[-5] * 100, *[5] * 1000), "temp": range(1100)})
    columns = {"observed": ("observed", 0), "temp": ("observed", 0)}
    found = scramble(frame, ColumnAvailability(frozenset(), columns), CUT, np.random.default_rng(0))
    assert found.head(100).equals(frame.head(100))
    assert found.height - 100 == pytest.approx(700, abs=50)
    kept = scramble(frame, ColumnAvailability(frozenset(["id"]), columns), CUT, np.random.default_rng(0))
    assert kept.height == 1100


def test_cuts_divide_the_examples_evenly() -> None:
    predicted = [START + timedelta(minutes=number) for number in range(100)]
    shuffled = pl.LazyFrame({"predict_at": predicted[50:] + predicted[:50]})
    assert choose_cuts(shuffled) == [predicted[25], predicted[50], predicted[75]]
    assert choose_cuts(shuffled, 1) == [predicted[50]]
