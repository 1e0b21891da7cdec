"""The stale assets of a selection: never materialized, older than an input, or made by another code version.

The plan reads only the records of the Dagster instance, so a second `demo` or `dvc repro` ends in seconds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from ml_platform.components.materializations import LANDED_DIGEST, MaterializationRecord, latest_materializations

CODE_VERSION_TAG = "dagster/code_version"


@dataclass(frozen=True)
class StaleAsset:
    """One asset, and partition if it has partitions, that must be materialized, with the reason."""

    key: dg.AssetKey
    partition: str | None
    reason: str


def stale_assets(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    keys: Sequence[dg.AssetKey],
    partitions: Mapping[dg.AssetKey, Sequence[str]],
    landed_digest: Callable[[dg.AssetKey, str | None], str | None],
    damage: Callable[[dg.AssetKey, str | None], str | None] = lambda _key, _partition: None,
) -> list[StaleAsset]:
    """Return the stale assets of ``keys``, upstream first.

    ``partitions`` lists the requested partitions of each partitioned key. ``landed_digest`` returns the digest of the
    landed file that an asset reads now, or None for an asset that reads no file. ``damage`` returns what is wrong with
    the stored rows of an asset, or None.

    An asset is stale when it was never materialized, when its code version or its landed file changed, and when its
    rows are damaged. It is also stale when an input was materialized later, even an input that is not in ``keys``.
    """
    graph = definitions.resolve_asset_graph()
    selected = set(keys)
    ordered = [key for key in graph.toposorted_asset_keys if key in selected]
    materialized = {key: latest_materializations(instance, key, partitions.get(key, ())) for key in ordered}
    outside = {parent for key in ordered for parent in graph.get(key).parent_keys} - selected
    materialized |= {parent: latest_materializations(instance, parent) for parent in outside}
    found: list[StaleAsset] = []
    for key in ordered:
        node = graph.get(key)
        parents = sorted(node.parent_keys, key=str)
        for partition in partitions.get(key) or (None,):
            own = materialized[key].get(partition)
            reason = _own_reason(own, node.code_version, landed_digest(key, partition)) or damage(key, partition)
            if reason is None and own is not None:
                reason = _input_reason(own, partition, parents, materialized, found)
            if reason is not None:
                found.append(StaleAsset(key, partition, reason))
    return found


def data_of_model(definitions: dg.Definitions, model: str) -> list[dg.AssetKey]:
    """Return the sorted keys of the training set of ``model`` and of all assets that its training set is made of."""
    training_set = dg.AssetSelection.keys([model, "training_set"])
    return sorted(training_set.upstream().resolve(definitions.resolve_asset_graph()))


def _own_reason(own: MaterializationRecord | None, code_version: str | None, landed: str | None) -> str | None:
    if own is None:
        return "never materialized"
    made_by = (own.event.tags or {}).get(CODE_VERSION_TAG)
    if code_version is not None and made_by != code_version:
        return f"its code changed ({made_by} → {code_version})"
    if landed is not None and landed != own.metadata(LANDED_DIGEST):
        return "its landed file changed"
    return None


def _input_reason(
    own: MaterializationRecord,
    partition: str | None,
    parents: Sequence[dg.AssetKey],
    materialized: Mapping[dg.AssetKey, dict[str | None, MaterializationRecord]],
    found: Sequence[StaleAsset],
) -> str | None:
    def is_used(parent_partition: str | None) -> bool:
        # A partition reads its own and earlier partitions of its inputs, never later ones.
        return parent_partition is None or partition is None or parent_partition <= partition

    for parent in parents:
        if any(stale.key == parent and is_used(stale.partition) for stale in found):
            return f"its input {parent.to_user_string()} is stale"
        if any(is_used(p) and materialized[parent][p].storage_id > own.storage_id for p in materialized[parent]):
            return f"its input {parent.to_user_string()} is newer"
    return None
