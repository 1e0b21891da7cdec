"""A version is reproduced bit for bit after the tables of its training were replaced, and cleaning has run."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from ml_platform.data.lake import LakeError
from ml_platform.features.materialize import materialize
from ml_platform.steps.candidates import build_training_sets
from ml_platform.steps.housekeeping import clean
from ml_platform.steps.pins import pin_holder, pin_registered_versions
from ml_platform.steps.reproduction import reproduce_version
from ml_platform.steps.retention import RetentionPolicies, RetentionSettings
from ml_platform_tests.components.delivery_home import PlatformFixture, open_platform
from ml_platform_tests.components.delivery_model import MONTHS, deliveries, delivery_model

LATER = datetime.now(UTC) + timedelta(days=40)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[PlatformFixture]:
    with open_platform(tmp_path / "home") as opened:
        opened.land()
        yield opened


def replace_deliveries(platform: PlatformFixture, factor: float) -> None:
    """Land deliveries of other distances, so that every table gets new versions of all partitions."""
    model = delivery_model()
    for month in MONTHS:
        changed = deliveries(month).with_columns(pl.col("distance") * factor, late=1 - pl.col("late"))
        platform.lake.write("datasets/deliveries", changed, month)
    store = platform.resources["online_store"].store()
    materialize(model.stored_views[0], platform.lake, store, list(MONTHS), model.declared.partitions)
    build_training_sets(model, MONTHS, platform.lake)


@pytest.mark.slow
def test_version_is_reproduced_after_its_tables_were_replaced_and_cleaned(platform: PlatformFixture) -> None:
    model, stores = delivery_model(), platform.stores
    platform.make(model)
    (version,) = stores.registry.versions(model.name)
    manifest = stores.registry.manifest(version)
    pinned = stores.lake.catalog.pins()
    assert pinned == {pin_holder(model.name, version.content_digest): set(manifest.tables.items())}

    replace_deliveries(platform, 2)
    replace_deliveries(platform, 3)
    policies = RetentionPolicies(RetentionSettings(candidates_days=None))
    report = clean(stores, policies, now=LATER, by="ada")
    assert [each.kind for each in report.kinds] == ["table versions"]
    with pytest.raises(LakeError, match="retention removed"):
        stores.lake.scan("datasets/deliveries", len(MONTHS))
    assert reproduce_version(model, version.version, stores).equal

    # A home of an earlier release has no pins.
    stores.lake.catalog.unpin(pin_holder(model.name, version.content_digest))
    assert pin_registered_versions(stores).added == [pin_holder(model.name, version.content_digest)]
    assert stores.lake.catalog.pins() == pinned


def test_repeated_training_keeps_the_pins_of_its_version(platform: PlatformFixture) -> None:
    model, stores = delivery_model(), platform.stores
    platform.make(model)
    pinned = stores.lake.catalog.pins()
    for holder in pinned:
        stores.lake.catalog.unpin(holder)
    assert platform.make(model)["content_digest"]
    assert stores.lake.catalog.pins() == pinned
