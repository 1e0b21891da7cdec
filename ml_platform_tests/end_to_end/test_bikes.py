"""The domain of bikes: its days, features and training sets; `test_four_domains.py` has its served answers."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest

from assets.bikes.demand import hours
from assets.bikes.landing import land
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.data.landing import Landing
from ml_platform.data.package_files import package_file
from ml_platform.steps.candidates import read_training_set, split_of
from ml_platform_tests.components.delivery_home import PlatformFixture
from ml_platform_tests.end_to_end.conftest import BIKES_WEEK

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "bikes"
NEW_YORK = ZoneInfo("America/New_York")


def riders_by_hour() -> dict[tuple[date, int], int]:
    rows = pl.read_csv(package_file("ISLP", "data/Bikeshare.csv")).select("day", "hr", "bikers").rows()
    return {(date(2011, 1, 1) + timedelta(days=day - 1), hour): riders for day, hour, riders in rows}


def test_domain_has_at_most_200_lines() -> None:
    files = [file for file in FOLDER.rglob("*") if file.suffix in (".py", ".yaml")]
    # A replay drives the domain from outside, which most domains need not.
    lines = sum(len(file.read_text().splitlines()) for file in files if file.name != "replay.py")
    assert 100 < lines <= 200


def test_days_are_those_of_the_published_file_and_each_hour_is_an_instant(tmp_path: Path) -> None:
    landed = land(Landing(tmp_path), "2011-12-31")
    source = package_file("ISLP", "data/Bikeshare.csv").read_bytes()
    header = source.splitlines(keepends=True)[0]
    assert header + b"".join(file.path.read_bytes().removeprefix(header) for file in landed) == source
    rows = pl.concat(hours(file.path) for file in landed)
    assert rows["starts_at"].n_unique() == rows.height == 8645
    local = rows["starts_at"].dt.convert_time_zone("America/New_York")
    assert (local.dt.hour() == rows["hour"]).all()  # also on the two days on which the clock changes
    assert (local.dt.weekday() % 7 == rows["weekday"]).all()


def test_features_are_what_had_arrived_a_day_ahead(bikes_home: PlatformFixture, demand: ModelAssets) -> None:
    riders, found = riders_by_hour(), read_training_set(demand, BIKES_WEEK, bikes_home.lake)
    assert found.height > 1500
    off = {day: day.weekday() >= 5 or day in (date(2011, 1, 17), date(2011, 2, 21)) for day, _ in riders}
    checked = 0
    for row in found.sample(300, seed=0).iter_rows(named=True):
        local = row["starts_at"].astimezone(NEW_YORK)
        day, hour = local.date(), local.hour
        # The hour between midnight and the arrival at one o'clock still lacks the day before the prediction.
        predicted = row["predict_at"].astimezone(NEW_YORK)
        last = predicted.date() - timedelta(days=2 if predicted.hour < 1 else 1)
        known = [each for each in sorted(off, reverse=True) if each <= last and (each, hour) in riders]
        alike = [riders[each, hour] for each in known if off[each] == off[day]][:5]
        weeks = [riders[each, hour] for each in known if each.weekday() == day.weekday()]
        assert row["bike_day__riders"] == (alike[0] if alike else None)
        before = riders.get((day - timedelta(days=7), hour))
        assert row["bike_weekday__riders"] == before
        if len(alike) == 5 and before is not None and len(weeks) >= 4:
            assert row["bike_day__mean"] == pytest.approx(np.mean(alike))
            checked += 1
        assert row["label"] == riders[day, hour]
    assert checked > 100


def test_weeks_are_split_in_the_declared_lengths(bikes_home: PlatformFixture, demand: ModelAssets) -> None:
    split = split_of(demand, BIKES_WEEK, read_training_set(demand, BIKES_WEEK, bikes_home.lake))
    start, end = datetime(2011, 2, 27, 5, tzinfo=UTC), datetime(2011, 3, 27, 4, tzinfo=UTC)
    assert split.test["predict_at"].is_between(start, end, closed="left").all()
    assert (split.validation["label_known_at"] <= start).all()
    # An hour of the last day of the window is predicted on the day before, so 27 days of the window have labels.
    assert split.test["predict_at"].dt.convert_time_zone("America/New_York").dt.date().n_unique() == 27
