"""Automation waits with a training set until all facts that its examples may read are there."""

import dagster as dg
import pytest

from ml_platform.components.loading import bound_model
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.model.training import training_set
from ml_platform.steps.candidates import needed_facts


def mapped(model: ModelAssets, view: str, window: str) -> set[str]:
    """Return the partitions of ``view`` on which the training set of ``window`` depends in Dagster."""
    asset, key = training_set(model), dg.AssetKey(["features", view])
    mapping = asset.get_partition_mapping(key)
    own = asset.partitions_def
    (stored,) = [each for each in model.stored_views if each.name == view]
    scheme = model.view_scheme(stored)
    assert own is not None
    assert scheme is not None
    from ml_platform.components.declaration import partitions_definition

    upstream = partitions_definition(scheme)
    if mapping is None:
        return {window}
    found = mapping.get_upstream_mapped_partitions_result_for_partitions(
        own.subset_with_partition_keys([window]), own, upstream
    )
    return set(found.partitions_subset.get_partition_keys())


@pytest.mark.parametrize(("name", "window"), [("bike_demand", "2011-03-20"), ("departure_risk", "2013-05")])
def test_a_training_set_depends_on_every_partition_that_it_reads(name: str, window: str) -> None:
    model = bound_model(name)
    assert model.stored_views  # without views the test would pass on nothing
    for view in model.stored_views:
        scheme = model.view_scheme(view)
        if scheme is None:
            continue
        needed = set(needed_facts(model, view, scheme, window, window))
        assert needed <= mapped(model, view.name, window), view.name


def test_a_window_does_not_wait_for_days_that_no_example_reads() -> None:
    # Hours are forecast a day ahead, from facts that are at most seven days old then.
    days = mapped(bound_model("bike_demand"), "bike_weekday", "2011-03-20")
    assert (min(days), max(days)) == ("2011-03-06", "2011-03-26")
