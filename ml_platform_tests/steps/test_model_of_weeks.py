"""A model of weeks over daily data: its weeks have all rows of their days once, and an open week is not built."""

from collections.abc import Iterator

import polars as pl
import pytest

from ml_platform.components.declaration import DeclarationError
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.model.validation import validate_declaration
from ml_platform.data.lake import LakeError
from ml_platform.data.partitions import PartitionScheme
from ml_platform.features.materialize import materialize
from ml_platform.steps.candidates import build_training_sets, data_clock, read_training_set, split_of
from ml_platform.steps.evaluation import leaking_features
from ml_platform_tests.components.delivery_home import PlatformFixture, open_platform
from ml_platform_tests.components.delivery_model import deliveries, delivery_model

DAYS = PartitionScheme(cadence="day", start="2013-01-01")
WEEKS = ["2013-01-06", "2013-01-13", "2013-01-20"]
LANDED = DAYS.between("2013-01-01", "2013-01-26")
ROWS = deliveries("2013-01")


def weekly(**changes: object) -> ModelAssets:
    split = {"validation": "5d", "minimum_rows": 20}
    partitions = {"cadence": "week", "start": WEEKS[0]}
    model = delivery_model(**({"partitions": partitions, "split": split} | changes))
    return ModelAssets(model.declared, model.views, schemes={"deliveries": DAYS})


def rows_between(first: str, last: str) -> pl.DataFrame:
    start, end = DAYS.bounds(first)[0], DAYS.bounds(last)[1]
    return ROWS.filter(pl.col("ordered_at").is_between(start, end, closed="left"))


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformFixture]:
    """A home with all days up to January 26th except the 22nd."""
    with open_platform(tmp_path_factory.mktemp("repository") / ".ml_platform") as made:
        landed = [day for day in LANDED if day != "2013-01-22"]
        for day in landed:
            made.lake.write("datasets/deliveries", rows_between(day, day), day)
        materialize(weekly().stored_views[0], made.lake, made.resources["online_store"].store(), landed, DAYS)
        build_training_sets(weekly(), WEEKS[:2], made.lake)
        yield made


def test_week_has_the_rows_of_its_seven_days_once(platform: PlatformFixture) -> None:
    found = platform.lake.scan(weekly().table, partitions=[WEEKS[1]]).collect()

    assert sorted(found["example_id"]) == sorted(rows_between("2013-01-13", "2013-01-19")["delivery"])
    assert data_clock(weekly(), platform.lake) == DAYS.bounds("2013-01-19")[1]


def test_week_with_a_missing_day_is_not_built_and_the_day_is_named(platform: PlatformFixture) -> None:
    with pytest.raises(LakeError, match="'2013-01-22'"):
        build_training_sets(weekly(), [WEEKS[2]], platform.lake)
    assert platform.lake.partitions(weekly().table) == WEEKS[:2]


def test_split_of_a_week_has_the_declared_lengths(platform: PlatformFixture) -> None:
    model = weekly(split={"evaluation": "3d", "validation": "5d", "minimum_rows": 20})
    split = split_of(model, WEEKS[1], read_training_set(model, WEEKS[1], platform.lake))

    # Sunday 13th begins the week; its last three days are the test part.
    assert sorted(split.test["example_id"]) == sorted(rows_between("2013-01-17", "2013-01-19")["delivery"])
    assert sorted(split.validation["example_id"]) == sorted(rows_between("2013-01-12", "2013-01-16")["delivery"])
    assert sorted(split.train["example_id"]) == sorted(rows_between("2013-01-06", "2013-01-11")["delivery"])


def test_leak_check_reads_the_days_of_the_week(platform: PlatformFixture) -> None:
    assert leaking_features(weekly(), WEEKS[1], platform.lake) == []


def test_model_finer_than_its_examples_and_names_are_rejected_at_load() -> None:
    hourly = weekly(partitions={"cadence": "hour", "start": "2013-01-01-00:00"})
    with pytest.raises(DeclarationError, match="whose partitions are not longer than those of the model, hours"):
        validate_declaration(hourly.declared, hourly)  # type: ignore[arg-type]
    named = weekly(partitions={"cadence": "names", "names": ["a", "b"]})
    with pytest.raises(DeclarationError, match="expected partitions of time, because the split"):
        validate_declaration(named.declared, named)  # type: ignore[arg-type]


@pytest.mark.parametrize("step", ["10d", "168h"])
def test_step_that_ends_within_a_partition_is_rejected_at_load(step: str) -> None:
    stepped = weekly(split={"evaluation": "28d", "step": step})
    with pytest.raises(DeclarationError, match=rf"a whole number of partitions of the model, weeks.*found '{step}'"):
        validate_declaration(stepped.declared, stepped)  # type: ignore[arg-type]
