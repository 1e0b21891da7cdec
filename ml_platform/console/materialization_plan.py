"""The stale assets of a selection: never materialized, older than an input, or made by another code version.

The plan reads only the records of the Dagster instance, so a second `demo` or `dvc repro` ends in seconds.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate

import dagster as dg

from ml_platform.components.declaration import scheme_of
from ml_platform.components.materializations import LANDED_DIGEST, MaterializationRecord, latest_materializations
from ml_platform.data.partitions import PartitionScheme

CODE_VERSION_TAG = "dagster/code_version"
RESOLUTION = timedelta(microseconds=1)
"""Smallest difference of two instants."""


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
    schemes = {key: scheme_of(graph.get(key).partitions_def) for key in {*ordered, *outside}}
    inputs: dict[dg.AssetKey, _Input] = {
        parent: _Input.of(schemes[parent], materialized[parent], ()) for parent in outside
    }
    found: list[StaleAsset] = []
    for key in ordered:
        node = graph.get(key)
        parents = {parent: inputs[parent] for parent in sorted(node.parent_keys, key=str)}
        ahead = {parent: _ahead(graph.get_partition_mapping(key, parent)) for parent in parents}
        stale: list[str | None] = []
        for partition in partitions.get(key) or (None,):
            own = materialized[key].get(partition)
            reason = _own_reason(own, node.code_version, landed_digest(key, partition)) or damage(key, partition)
            if reason is None and own is not None:
                reason = _input_reason(own, partition, schemes[key], parents, ahead)
            if reason is not None:
                found.append(StaleAsset(key, partition, reason))
                stale.append(partition)
        inputs[key] = _Input.of(schemes[key], materialized[key], stale)
    return found


def data_of_model(definitions: dg.Definitions, model: str) -> list[dg.AssetKey]:
    """Return the sorted keys of the training set of ``model`` and of all assets that its training set is made of."""
    training_set = dg.AssetSelection.keys([model, "training_set"])
    return sorted(training_set.upstream().resolve(definitions.resolve_asset_graph()))


def _ahead(mapping: dg.PartitionMapping | None) -> int:
    """Return how many partitions after its own a consumer reads of its input, in partitions of the consumer."""
    return mapping.end_offset if isinstance(mapping, dg.TimeWindowPartitionMapping) else 0


def _own_reason(own: MaterializationRecord | None, code_version: str | None, landed: str | None) -> str | None:
    if own is None:
        return "never materialized"
    made_by = (own.event.tags or {}).get(CODE_VERSION_TAG)
    # Dagster records the run as the version of an asset that declares none; declaring one later changes nothing.
    if code_version is not None and made_by not in (code_version, own.run_id):
        return _version_reason(made_by or "", code_version)
    if landed is not None and landed != own.metadata(LANDED_DIGEST):
        return "its landed file changed"
    return None


def _version_reason(made_by: str, code_version: str) -> str:
    """Return what differs: the version of a view is ``<version of its code>-<digest of its declaration>``."""
    (before, _, declared), (now, _, declares) = made_by.partition("-"), code_version.partition("-")
    changed = f"({made_by} → {code_version})"
    if before != now:
        return f"its code changed {changed}"
    return (
        f"its declaration changed {changed}"
        if declared and declares
        else (f"its version covers its declaration now, as of release 0.4 {changed}")
    )


@dataclass(frozen=True)
class _Input:
    """The partitions of an input in order, so that one search finds what a partition of a consumer reads of it.

    ``newest`` has, for each of ``numbers``, the highest storage id up to it; ``first_stale`` is the number of its first
    stale partition (None: it is up to date). Without partitions, everything has the number 0.
    """

    scheme: PartitionScheme | None
    numbers: list[int]
    newest: list[int]
    first_stale: int | None

    @classmethod
    def of(
        cls,
        scheme: PartitionScheme | None,
        materialized: Mapping[str | None, MaterializationRecord],
        stale: Sequence[str | None],
    ) -> "_Input":
        def number(partition: str | None) -> int:
            return 0 if scheme is None or partition is None else scheme.number(partition)

        known = {key: each for key, each in materialized.items() if key is None or not scheme or scheme.names_key(key)}
        ordered = sorted((number(partition), record.storage_id) for partition, record in known.items())
        newest = list(accumulate((storage_id for _, storage_id in ordered), max))
        first_stale = min((number(partition) for partition in stale), default=None)
        return cls(scheme, [place for place, _ in ordered], newest, first_stale)

    def last_read(self, partition: str | None, scheme: PartitionScheme | None, ahead: int) -> int | None:
        """Return the number of the last partition that ``partition`` of a consumer reads; None: it reads all.

        The consumer reads its input until the end of its partition that lies ``ahead`` of its own.
        """
        if partition is None or scheme is None or self.scheme is None:
            return None
        if self.scheme == scheme:
            return scheme.number(partition) + ahead
        if not (scheme.is_timed and self.scheme.is_timed):
            return None
        return self.scheme.number_at(scheme.bounds(scheme.shift(partition, ahead))[1] - RESOLUTION)


def _input_reason(
    own: MaterializationRecord,
    partition: str | None,
    scheme: PartitionScheme | None,
    parents: Mapping[dg.AssetKey, _Input],
    ahead: Mapping[dg.AssetKey, int],
) -> str | None:
    # A partition reads its own and earlier partitions of its inputs, and later ones of late labels only.
    for parent, read in parents.items():
        last = read.last_read(partition, scheme, ahead[parent])
        if read.first_stale is not None and (last is None or read.first_stale <= last):
            return f"its input {parent.to_user_string()} is stale"
        count = len(read.numbers) if last is None else bisect_right(read.numbers, last)
        if count and read.newest[count - 1] > own.storage_id:
            return f"its input {parent.to_user_string()} is newer"
    return None
