"""Only the months that a split needs are read, by training, reproduction and release alike."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.data.lake import PARTITION, Lake, LakeError
from ml_platform.features.materialize import materialize
from ml_platform.registry.audit import AuditError, AuditLog
from ml_platform.registry.audit_anchor import released_anchors, verify_anchor
from ml_platform.registry.champion_history import CHAMPION_KIND, PROMOTE, current_champion
from ml_platform.registry.manifest import Manifest
from ml_platform.registry.models import ModelRegistry
from ml_platform.registry.promotion import champion_facts
from ml_platform.state.store import StateStore
from ml_platform.steps.candidates import (
    build_training_sets,
    read_recorded_training_set,
    read_training_set,
    split_of,
)
from ml_platform.steps.release import release_champion
from ml_platform.steps.reproduction import reproduce_version
from ml_platform.training.splits import TimeSplit, split_by_time
from ml_platform_tests.components.delivery_home import FAST, PlatformFixture, open_platform
from ml_platform_tests.components.delivery_model import deliveries, delivery_model

MONTHS = ["2012-11", "2012-12", "2013-01", "2013-02", "2013-03", "2013-04"]
LAST = "2013-04"
NOW = datetime(2013, 5, 1, tzinfo=UTC)
NEEDED = ["2013-01", "2013-02", "2013-03", "2013-04"]
"""Test month, one month of validation, one of training, and one of margin."""


def short_model(**split: Any) -> ModelAssets:
    return delivery_model(
        partitions={"start": MONTHS[0], "end": "2013-12", "time_zone": "UTC"},
        split={"train_months": 1, "minimum_rows": 50} | split,
        trainers={"lightgbm": {"settings": FAST}},
    )


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformFixture]:
    """A home with six months, in which the training set of the first month lost its file."""
    with open_platform(tmp_path_factory.mktemp("repository") / ".ml_platform") as made:
        model = short_model()
        for month in MONTHS:
            made.lake.write("datasets/deliveries", deliveries(month), month)
        store = made.resources["online_store"].store()
        materialize(model.stored_views[0], made.lake, store, MONTHS, model.declared.partitions)
        build_training_sets(model, MONTHS, made.lake)
        yield made


@pytest.fixture(scope="module")
def trained(platform: PlatformFixture) -> Manifest:
    """The manifest of version 1, which was trained after the damage."""
    damage(platform.lake, MONTHS[0])
    shown = platform.make(short_model(), LAST)
    return platform.mlflow.models.manifest(platform.mlflow.models.version("late", shown["version"]))


def damage(lake: Lake, month: str) -> None:
    table = short_model().table
    for segment in lake.catalog.segments(table, partitions=[month]):
        for file in segment.files:
            (Path(lake.root) / table / file.path).unlink(missing_ok=True)


def months_of(rows: pl.DataFrame) -> list[str]:
    return sorted(set(rows["predict_at"].dt.strftime("%Y-%m")))


def test_table_with_a_damaged_month_that_no_split_needs_trains_and_reproduces(
    platform: PlatformFixture, trained: Manifest
) -> None:
    assert trained.first_month == NEEDED[0]
    assert trained.training_rows == sum(deliveries(month).height for month in NEEDED)
    lines: list[str] = []
    assert reproduce_version(short_model(), 1, platform.stores, lines.append).equal
    assembled = [line.partition(";")[0].rpartition(", ")[2] for line in lines if line.startswith("Training set of ")]
    assert lines[0] == f"Assembles the training sets of {len(assembled)} partitions again."
    assert assembled == [f"{at} of {len(assembled)}" for at in range(1, len(assembled) + 1)]
    assert len(assembled) > 1
    assert lines[len(assembled) + 1].startswith("Fits lightgbm on ")


def test_release_reads_the_months_that_the_version_was_trained_on(platform: PlatformFixture, trained: Manifest) -> None:
    longer = short_model(train_months=2)
    assert months_of(read_recorded_training_set(longer, trained, platform.lake, rebuilt=False)) == NEEDED
    assert months_of(read_training_set(longer, LAST, platform.lake)) == ["2012-12", *NEEDED]


@pytest.mark.slow
def test_released_training_set_and_anchor_are_those_of_the_champion(
    platform: PlatformFixture, trained: Manifest, tmp_path: Path
) -> None:
    repository = platform.home.root.parent
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
        subprocess.run(command, cwd=repository, check=True)
    stores = replace(platform.stores, repository=repository)
    stores.audit.append(CHAMPION_KIND, actor="test", at=NOW, facts=champion_facts_of(stores.registry))
    champion = current_champion(stores.audit, "late")
    assert champion is not None
    released = release_champion(short_model(), champion, stores)
    assert released.released, released.message
    folder = repository / "releases" / "late"
    assert months_of(pl.read_parquet(folder / "training_set.parquet")) == NEEDED
    (anchor,) = released_anchors(repository)
    assert verify_anchor(stores.audit, anchor) == stores.audit.head()
    # Another log is not the log of the release.
    other = AuditLog(StateStore.in_folder(tmp_path))
    other.append(CHAMPION_KIND, actor="test", at=NOW, facts={"model": "late"})
    with pytest.raises(AuditError):
        verify_anchor(other, anchor)


def champion_facts_of(registry: ModelRegistry) -> dict[str, object]:
    return champion_facts(
        registry.version("late", 1),
        action=PROMOTE,
        previous=None,
        manifest={},
        verdict=None,
        approved_by=(),
        reason="test",
    )


def test_manifest_of_an_earlier_release_reads_all_months(platform: PlatformFixture, trained: Manifest) -> None:
    earlier = Manifest.model_validate(trained.model_dump(exclude={"first_month"}))
    assert earlier.first_month is None
    with pytest.raises(LakeError, match="partition 2012-11"):
        read_recorded_training_set(short_model(), earlier, platform.lake, rebuilt=False)


def test_split_of_the_needed_months_is_the_split_of_all_months(platform: PlatformFixture) -> None:
    model, table = short_model(), short_model().table
    every = platform.lake.scan(table, partitions=MONTHS[1:]).drop(PARTITION).sort("predict_at", "example_id").collect()
    assert isinstance(model.declared.split, TimeSplit)
    expected = split_by_time(every, LAST, model.partitions, model.declared.split, model="late")
    found = split_of(model, LAST, read_training_set(model, LAST, platform.lake))
    assert months_of(found.train) == ["2013-02"]
    for part in ("train", "validation", "test", "late"):
        assert getattr(found, part).equals(getattr(expected, part))
