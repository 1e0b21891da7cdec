"""The sensor `online_snapshots`: it has the views published again that a server of the online store has lost.

A server may be flushed, restored or replaced by an empty one. Services are then not ready, and their fallback answers.
"""

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import dagster as dg

from ml_platform.components.sensor_interval import sensor_seconds
from resources.online_store import OnlineStoreResource

if TYPE_CHECKING:
    from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

FEATURES = "features"
"""First part of the key of the asset of a view."""

ONLINE_WATERMARK = "online_watermark"
"""Metadata of a materialization that has published a snapshot; views of the request publish none."""


def online_snapshots_sensor() -> dg.SensorDefinition:
    """Return the sensor. Files of the home are not lost alone, so it acts on a server only."""

    @dg.sensor(
        name="online_snapshots",
        target=dg.AssetSelection.all(),
        description="Materializes the latest partition of feature views whose snapshot the online server has lost.",
        minimum_interval_seconds=sensor_seconds(60),
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def _online_snapshots(
        context: dg.SensorEvaluationContext, online_store: OnlineStoreResource
    ) -> dg.SensorResult | dg.SkipReason:
        from ml_platform.features.valkey_store import ValkeyStore

        store = online_store.store()
        if not isinstance(store, ValkeyStore):
            return dg.SkipReason("The online store is a folder.")
        assert context.repository_def is not None
        present = store.published_views()
        requests = list(lost_views(context.instance, context.repository_def.asset_graph, present))
        return dg.SensorResult(run_requests=requests) if requests else dg.SkipReason("The server has every view.")

    return _online_snapshots


def lost_views(instance: dg.DagsterInstance, graph: "AssetGraph", present: Collection[str]) -> Iterator[dg.RunRequest]:
    """Yield one request for each published view that is not among ``present``: its latest partition again.

    The request has the latest materialization as its key, so the same loss is answered by one run.
    """
    for key in sorted(graph.materializable_asset_keys):
        if key.path[0] != FEATURES or len(key.path) != 2 or key.path[1] in present:
            continue
        latest = instance.get_latest_materialization_event(key)
        materialization = None if latest is None else latest.asset_materialization
        if latest is None or materialization is None or ONLINE_WATERMARK not in materialization.metadata:
            continue
        yield dg.RunRequest(
            run_key=f"{key.path[1]}/{latest.run_id}",
            asset_selection=[key],
            partition_key=materialization.partition,
        )
