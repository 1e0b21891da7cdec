"""A view that a flushed Valkey server has lost is served again after the run that the sensor requests, and no other."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from ml_platform.components.feature_view.change_log import change_log
from ml_platform.components.feature_view.component import FeatureView
from ml_platform.components.online_snapshots import lost_views
from ml_platform.data.partitions import PartitionScheme
from ml_platform.features.valkey_store import OnlineServerError, ValkeyStore
from ml_platform_tests.cluster import running_valkey
from resources.home import Home
from resources.lake import LakeResource
from resources.online_store import OnlineStoreResource

pytestmark = pytest.mark.slow

MONTHS = PartitionScheme(start="2013-01", end="2013-06", time_zone="UTC")


def departures(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return one fact per departure, known at the departure."""
    return sources["flights"].select("origin", known_at="left", delay="delay")


def declared(name: str) -> FeatureView:
    return FeatureView.model_validate(
        {
            "name": name,
            "description": "Each departure",
            "owner": "team:aviation",
            "entity": ["origin"],
            "features": [{"name": "delay", "description": "Minutes late"}],
            "sources": [{"dataset": "flights", "available_from": {"left": ["left", "delay"]}}],
            "function": f"{__name__}:departures",
        }
    )


@pytest.fixture
def server() -> Iterator[Any]:
    with running_valkey() as started:
        yield started


def test_flushed_view_is_requested_once_and_published_again(tmp_path: Path, server: Any) -> None:
    views = [declared("departures"), declared("other"), declared("never")]
    assets = [change_log(each.settings(), MONTHS, each.shared_arguments(each.settings())) for each in views]
    resources = {
        "lake": LakeResource.for_home(Home(tmp_path)),
        "online_store": OnlineStoreResource(kind="valkey", url=server.connection_url),
    }
    graph = dg.Definitions(assets=assets, resources=resources).resolve_asset_graph()
    start = datetime(2013, 1, 1, tzinfo=UTC)
    rows = pl.DataFrame({"origin": ["JFK"] * 2, "left": [start, start + timedelta(days=9)], "delay": [1.0, 7.5]})
    LakeResource.for_home(Home(tmp_path)).lake().write("datasets/flights", rows, "2013-01")
    store = ValkeyStore(server.connection_url)
    view = views[0].settings()

    with dg.DagsterInstance.ephemeral(str(tmp_path)) as instance:
        for asset in assets[:2]:
            dg.materialize([asset], instance=instance, resources=resources, partition_key="2013-01")
        assert store.published_views() == {"departures", "other"}
        assert list(lost_views(instance, graph, store.published_views())) == []
        served = store.lookup([view], {"origin": ["JFK"]}, 1).values.tolist()
        assert served == [[7.5]]

        store._connected().flushall()
        with pytest.raises(OnlineServerError, match="Online snapshot of feature view 'departures'"):
            store.require([view])
        requests = list(lost_views(instance, graph, store.published_views()))
        assert [(each.asset_selection, each.partition_key) for each in requests] == [
            ([dg.AssetKey(["features", name])], "2013-01") for name in ("departures", "other")
        ]
        # The same loss has the same keys, so Dagster makes one run of it.
        again = list(lost_views(instance, graph, store.published_views()))
        assert [each.run_key for each in again] == [each.run_key for each in requests]

        partition = requests[0].partition_key
        dg.materialize([assets[0]], instance=instance, resources=resources, partition_key=partition)
        assert store.lookup([view], {"origin": ["JFK"]}, 1).values.tolist() == served
        assert [each.asset_selection for each in lost_views(instance, graph, store.published_views())] == [
            [dg.AssetKey(["features", "other"])]
        ]
