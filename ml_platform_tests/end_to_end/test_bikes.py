"""The domain of bikes: its days, features, training sets and served answers, and the domains behind one gateway."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import httpx
import numpy as np
import polars as pl
import pytest

from assets.bikes.demand import REQUEST_FIELDS, hours
from assets.bikes.landing import DAYS, land
from assets.penguins.demo import request_rows as penguin_requests
from assets.penguins.landing import land as land_penguins
from assets.penguins.species import penguins
from ml_platform.components.loading import bound_model
from ml_platform.components.model import evaluation, model_card, promotion, serving, training
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.console.services import serving_processes
from ml_platform.data.contract_record import record_passed
from ml_platform.data.lake import Lake
from ml_platform.data.landing import LandedFile, Landing
from ml_platform.data.package_files import package_file
from ml_platform.features.materialize import materialize
from ml_platform.serving.processes import serve_temporarily
from ml_platform.steps.candidates import build_training_sets, read_training_set, split_of
from ml_platform.training.model_directory import read_model
from ml_platform_tests.components.delivery_home import PlatformFixture, open_platform

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "bikes"
NEW_YORK = ZoneInfo("America/New_York")
LAST_DAY, WEEK = "2011-03-26", "2011-03-20"


def publish(lake: Lake, rows: pl.DataFrame, file: LandedFile) -> None:
    written = lake.write(f"datasets/{file.dataset}", rows, file.partition)
    record_passed(lake.state, file.dataset, file.partition, content_digest=written.sha256, landed_sha256=file.sha256)


@pytest.fixture(scope="module")
def demand() -> ModelAssets:
    return bound_model("bike_demand")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, demand: ModelAssets) -> Iterator[PlatformFixture]:
    """A home with the days until March 26th, after a change of the clock, their features and training sets."""
    with open_platform(tmp_path_factory.mktemp("bikes") / ".ml_platform") as made:
        for file in land(Landing(made.home.landing), LAST_DAY):
            publish(made.lake, hours(file.path), file)
        days, store = DAYS.between(DAYS.first, LAST_DAY), made.resources["online_store"].store()
        for view in demand.stored_views:
            materialize(view, made.lake, store, days, DAYS)
        build_training_sets(demand, demand.partitions.between(demand.partitions.first, WEEK), made.lake)
        yield made


def riders_by_hour() -> dict[tuple[date, int], int]:
    rows = pl.read_csv(package_file("ISLP", "data/Bikeshare.csv")).select("day", "hr", "bikers").rows()
    return {(date(2011, 1, 1) + timedelta(days=day - 1), hour): riders for day, hour, riders in rows}


def test_domain_has_at_most_200_lines() -> None:
    lines = sum(len(file.read_text().splitlines()) for file in FOLDER.rglob("*") if file.suffix in (".py", ".yaml"))
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


def test_features_are_what_had_arrived_a_day_ahead(platform: PlatformFixture, demand: ModelAssets) -> None:
    riders, found = riders_by_hour(), read_training_set(demand, WEEK, platform.lake)
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


def test_weeks_are_split_in_the_declared_lengths(platform: PlatformFixture, demand: ModelAssets) -> None:
    split = split_of(demand, WEEK, read_training_set(demand, WEEK, platform.lake))
    start, end = datetime(2011, 2, 27, 5, tzinfo=UTC), datetime(2011, 3, 27, 4, tzinfo=UTC)
    assert split.test["predict_at"].is_between(start, end, closed="left").all()
    assert (split.validation["label_known_at"] <= start).all()
    # An hour of the last day of the window is predicted on the day before, so 27 days of the window have labels.
    assert split.test["predict_at"].dt.convert_time_zone("America/New_York").dt.date().n_unique() == 27


@pytest.mark.slow
def test_served_answer_has_the_offline_features_beside_another_domain(
    platform: PlatformFixture, demand: ModelAssets, tmp_path: Path
) -> None:
    cycle = (training.candidate(demand, "lightgbm"), evaluation.evaluation(demand), model_card.model_card(demand),
             promotion.champion(demand), serving.bento(demand), serving.rollout(demand))  # fmt: skip
    species = bound_model("penguin_species")
    (file,) = land_penguins(Landing(platform.home.landing))
    publish(platform.lake, penguins(file.path), file)
    untimed = (training.training_set(species), training.candidate(species, "lightgbm"), evaluation.evaluation(species),
               promotion.champion(species), serving.bento(species), serving.rollout(species))  # fmt: skip
    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize(cycle, partition_key=WEEK, resources=platform.resources, instance=instance).success
        assert dg.materialize(untimed, resources=platform.resources, instance=instance).success
    # The hours that are predicted between the arrival of the last day and that of the next one.
    first = DAYS.bounds(LAST_DAY)[1] + timedelta(hours=25)
    landed = land(Landing(tmp_path / "bikes"), "2011-03-29")
    requests = pl.concat(hours(each.path) for each in landed[-2:]).filter(
        pl.col("starts_at").is_between(first, first + timedelta(days=1), closed="left")
    )
    assert requests.height == 23  # one hour of the night had no riders
    rows = [
        {"starts_at": row["starts_at"].isoformat(), "holiday": row["holiday"]}
        for row in requests.select(REQUEST_FIELDS).iter_rows(named=True)
    ]
    card = (platform.home.reports / "model_card" / "bike_demand" / WEEK / "card.md").read_text()
    assert f"rows of {WEEK} and before it, 28d in all" in card
    with serve_temporarily(serving_processes(platform.home)) as address, httpx.Client(base_url=address) as client:
        bikes = client.post("/v1/bike_demand/predict", json={"rows": rows}, timeout=30).raise_for_status().json()
        others = penguin_requests(tmp_path / "penguins").head(5).drop("outcome_text", "outcome").to_dicts()
        names = client.post("/v1/penguin_species/predict", json={"rows": others}, timeout=30).raise_for_status().json()
    assert {each["label"] for each in names["predictions"]} <= {"Adelie", "Chinstrap", "Gentoo"}

    examples = requests.select(REQUEST_FIELDS).with_columns(predict_at=pl.col("starts_at") - timedelta(days=1))
    offline = demand.feature_set.as_of(examples.lazy(), demand.feature_set.logs(platform.lake)).collect()
    (version,) = platform.stores.registry.versions("bike_demand")
    model = read_model(platform.stores.registry.download(version, tmp_path / "model"))
    expected = model.answer_numbers(offline)
    served = [[each["score"], each["interval"]["lower"], each["interval"]["upper"]] for each in bikes["predictions"]]
    assert np.abs(expected - np.array(served)).max() < 1e-9
    assert len({round(upper - lower, 6) for _, lower, upper in served}) > 1  # quiet hours have narrower intervals
