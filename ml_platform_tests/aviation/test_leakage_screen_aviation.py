"""The leakage screen on the real year: columns that only seem to predict, and columns that are known too late."""

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from assets.aviation.datasets import loaders
from assets.aviation.departure_risk.examples import flights as examples_of
from assets.aviation.features import request
from assets.aviation.landing import land
from ml_platform.data.landing import Landing
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.late_fields import availability_for_examples, late_fields
from ml_platform.features.leak import choose_cuts
from ml_platform.features.leakage_screen import screen_for_leakage
from ml_platform.features.prediction_time import PredictionTime
from ml_platform.features.row_columns import call_with_table

pytestmark = pytest.mark.slow

MONTHS = [f"2013-{month:02}" for month in range(1, 13)]
SCHEDULE = ["origin", "dest", "carrier", "hour", "minute_of_day", "weekday", "day_of_year", "block"]
AVAILABLE_FROM = {"flights": {"departed_at": ["dep_time", "dep_delay"], "arrived_at": ["arr_delay", "air_time"]}}


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """All flights of 2013 with a label, their schedule as features, and two columns that are known too late."""
    landing = Landing(Path(tmp_path_factory.mktemp("landing")))
    land(landing, MONTHS[-1])
    airports = loaders.airports(landing.find("airports", None).path)
    flights = pl.concat([loaders.flights(landing.find("flights", month).path, airports) for month in MONTHS])
    known = flights.filter(pl.col("arr_delay").is_not_null())
    outcome_columns = known.select("dep_time", "air_time", "departed_at", "arrived_at")
    fields = known.select("origin", "dest", "carrier", "scheduled_departure", "scheduled_arrival")
    features = call_with_table(request.schedule, fields).select(SCHEDULE)
    label = (known["arr_delay"] > 15).cast(pl.Int8).alias("label")
    predict_at = (known["scheduled_departure"] - timedelta(hours=2)).alias("predict_at")
    return features.hstack(outcome_columns.get_columns()).with_columns(label, predict_at)


def test_schedule_that_learns_single_days_gives_a_warning_about_the_gap(year: pl.DataFrame) -> None:
    report = screen_for_leakage(year, SCHEDULE, "label")
    assert report.auc_random == pytest.approx(0.71, abs=0.02)
    assert report.auc_by_time == pytest.approx(0.61, abs=0.02)
    (warning,) = report.warnings
    assert "a gap of 0.1" in warning


def test_columns_of_the_departure_itself_give_a_warning_and_count_as_known_too_late(year: pl.DataFrame) -> None:
    known_at = {"dep_time": "departed_at", "air_time": "arrived_at"}
    report = screen_for_leakage(year, [*SCHEDULE, "dep_time", "air_time"], "label", known_at=known_at)
    assert report.auc_random > 0.9
    assert any("too good to be true" in warning for warning in report.warnings)
    assert report.known_too_late == {"dep_time": year.height, "air_time": year.height}


def test_request_fields_that_become_known_too_late_are_found_by_their_declared_times(tmp_path: Path) -> None:
    landing = Landing(tmp_path)
    land(landing, MONTHS[0])
    airports = loaders.airports(landing.find("airports", None).path)
    flights = loaders.flights(landing.find("flights", MONTHS[0]).path, airports)

    def build(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
        return pl.concat([examples_of(sources), sources["flights"].select("dep_time", "air_time")], how="horizontal")

    timing = PredictionTime(field="scheduled_departure", minutes_before=120)
    known = availability_for_examples(FeatureSet([]), AVAILABLE_FROM)
    examples = flights.lazy().select(timing.expression())
    fields = ["carrier", "tailnum", "scheduled_departure", "dep_time", "air_time"]
    late = late_fields(build, {"flights": flights}, known, fields, timing, choose_cuts(examples))
    assert {each.field for each in late} == {"dep_time", "air_time"}
    assert all(each.rows > 100 for each in late)
