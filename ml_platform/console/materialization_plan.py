"""The stale assets of a selection: never materialized, older than an input, or made by another code version.

The plan reads only the records of the Dagster instance, so a second `demo` or `dvc repro` ends in seconds.
"""

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice, repeat
from typing import Any

import dagster as dg
import numpy as np
import numpy.typing as npt

from ml_platform.components.declaration import scheme_of
from ml_platform.components.materializations import MaterializedVersion, has_other_code, latest_versions
from ml_platform.components.version_cache import VersionCache
from ml_platform.data.partitions import PartitionScheme

RESOLUTION = timedelta(microseconds=1)
"""Smallest difference of two instants."""

_ALL = np.iinfo(np.int64).max
"""Stands for the last partition of an input that is read as a whole."""

_ABSENT = MaterializedVersion(-1, None, "")
"""Stands for the version of what was never materialized."""


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
    damage: Callable[[dg.AssetKey, Sequence[str | None]], Mapping[str | None, str]] = lambda _key, _partitions: {},
    cache: VersionCache | None = None,
    changes: Callable[[dg.AssetKey, str], str] = lambda _key, _made_by: "",
) -> list[StaleAsset]:
    """Return the stale assets of ``keys``, upstream first.

    ``partitions`` lists the requested partitions of each partitioned key. ``damage`` returns, by partition, why
    requested partitions of an asset are stale although they were materialized, such as a landed file that changed.
    With ``cache``, events that an earlier plan has read are not read again; the answer is the same. ``changes`` returns
    what differs between the code version of today and the one by which an asset was made; empty if that is unknown.

    An asset is stale when it was never materialized, when its code version changed, and when ``damage``
    names it. It is also stale when an input was materialized later, even an input that is not in ``keys``.
    """
    graph = definitions.resolve_asset_graph()
    selected = set(keys)
    ordered = [key for key in graph.toposorted_asset_keys if key in selected]
    materialized = {
        key: latest_versions(instance, key, partitions.get(key, ()), expected=graph.get(key).code_version, cache=cache)
        for key in ordered
    }
    outside = {parent for key in ordered for parent in graph.get(key).parent_keys} - selected
    materialized |= {parent: latest_versions(instance, parent, cache=cache) for parent in outside}
    schemes = {key: scheme_of(graph.get(key).partitions_def) for key in {*ordered, *outside}}
    numbers = _Numbers()
    for key in ordered:
        numbers.add_range(schemes[key], partitions.get(key, ()))
    inputs: dict[dg.AssetKey, _Input] = {
        parent: _Input.of(schemes[parent], materialized[parent], (), numbers) for parent in outside
    }
    found: list[StaleAsset] = []
    for key in ordered:
        node = graph.get(key)
        parents = {parent: inputs[parent] for parent in sorted(node.parent_keys, key=str)}
        ahead = {parent: _ahead(graph.get_partition_mapping(key, parent)) for parent in parents}
        requested = partitions.get(key) or (None,)
        damaged, stale, scheme = damage(key, requested), list[str | None](), schemes[key]
        changed = _version_reasons(key, node.code_version, changes)
        versions = [materialized[key].get(partition, _ABSENT) for partition in requested]
        ids, code_versions, _ = zip(*versions, strict=True)
        own_ids = np.array(ids, np.int64)
        suspect = _with_changed_input(own_ids, requested, scheme, parents, ahead, numbers)
        suspect |= own_ids == _ABSENT.storage_id
        suspect |= np.fromiter(map(operator.ne, code_versions, repeat(node.code_version)), np.bool_, len(versions))
        if damaged:
            suspect |= np.fromiter((each in damaged for each in requested), np.bool_)
        for place in map(int, np.flatnonzero(suspect)):
            partition = requested[place]
            own = None if versions[place] is _ABSENT else versions[place]
            reason = _own_reason(own, changed) or damaged.get(partition)
            if reason is None and own is not None:
                reason = _input_reason(own, partition, scheme, parents, ahead, numbers)
            if reason is not None:
                found.append(StaleAsset(key, partition, reason))
                stale.append(partition)
        inputs[key] = _Input.of(scheme, materialized[key], stale, numbers)
    return found


def data_of_model(definitions: dg.Definitions, model: str) -> list[dg.AssetKey]:
    """Return the sorted keys of the training set of ``model`` and of all assets that its training set is made of."""
    training_set = dg.AssetSelection.assets([model, "training_set"])
    return sorted(training_set.upstream().resolve(definitions.resolve_asset_graph()))


def _ahead(mapping: dg.PartitionMapping | None) -> int:
    """Return how many partitions after its own a consumer reads of its input, in partitions of the consumer."""
    return mapping.end_offset if isinstance(mapping, dg.TimeWindowPartitionMapping) else 0


def _own_reason(own: MaterializedVersion | None, changed: Callable[[str | None, str], str | None]) -> str | None:
    return "never materialized" if own is None else changed(own.code_version, own.run_id)


def _version_reasons(
    key: dg.AssetKey, code_version: str | None, changes: Callable[[dg.AssetKey, str], str]
) -> Callable[[str | None, str], str | None]:
    """Return a function of the version by which ``key`` was made, and of the run: what has changed, None if nothing.

    A version is compared once, although thousands of partitions may have it.
    """
    known: dict[str, str] = {}

    def reason(made_by: str | None, run_id: str) -> str | None:
        if code_version is None or not has_other_code(key, made_by, run_id, code_version):
            return None
        before = made_by or ""
        if before not in known:
            known[before] = (
                f"{changes(key, before) or _part_that_changed(before, code_version)} ({before} → {code_version})"
            )
        return known[before]

    return reason


def _part_that_changed(made_by: str, code_version: str) -> str:
    """Return what differs: most versions are ``<version of the code>-<digest of the declaration>``."""
    (before, _, declared), (now, _, declares) = made_by.partition("-"), code_version.partition("-")
    if before != now:
        return "its code changed"
    if declared and declares:
        return "its declaration changed"
    return "its version covers its declaration now, as of release 0.4"


class _Numbers:
    """The numbers of partitions by scheme; each key is parsed once for all assets of equal schemes."""

    def __init__(self) -> None:
        self._known: list[tuple[PartitionScheme, dict[str, int]]] = []
        self._of: dict[int, tuple[PartitionScheme, dict[str, int]]] = {}

    def of(self, scheme: PartitionScheme) -> dict[str, int]:
        """Return the known numbers of ``scheme``; :meth:`number` adds to them."""
        if id(scheme) not in self._of:
            known = next((each for each in self._known if each[0] == scheme), None)
            if known is None:
                known = (scheme, {})
                self._known.append(known)
            # The scheme is kept, so that its id stays its own.
            self._of[id(scheme)] = (scheme, known[1])
        return self._of[id(scheme)][1]

    def add_range(self, scheme: PartitionScheme | None, keys: Sequence[str]) -> None:
        """Remember the numbers of ``keys`` of one length, without parsing each, if they are all of a range in order."""
        if scheme is None or not scheme.is_timed or not keys or keys[0] in self.of(scheme):
            return
        first, last = scheme.number(keys[0]), scheme.number(keys[-1])
        # Keys of time are in order as text. As many different ones as the range has are all of it.
        if last - first + 1 == len(keys) and all(map(operator.lt, keys, islice(keys, 1, None))):
            self.of(scheme).update(zip(keys, range(first, last + 1), strict=True))

    def number(self, scheme: PartitionScheme | None, partition: str | None) -> int:
        """Return the number of ``partition``; 0 without partitions."""
        if scheme is None or partition is None:
            return 0
        known = self.of(scheme)
        if partition not in known:
            known[partition] = scheme.number(partition)
        return known[partition]

    def names_key(self, scheme: PartitionScheme, partition: str) -> bool:
        """Return whether ``partition`` has the form of the keys of ``scheme``."""
        return partition in self.of(scheme) or scheme.names_key(partition)


@dataclass(frozen=True)
class _Input:
    """The partitions of an input in order, so that one search finds what a partition of a consumer reads of it.

    ``newest`` has, for each of ``places``, the highest storage id up to it; ``first_stale`` is the number of its first
    stale partition (None: it is up to date). Without partitions, everything has the number 0.
    """

    scheme: PartitionScheme | None
    places: npt.NDArray[np.int64]
    newest: npt.NDArray[np.int64]
    first_stale: int | None

    @classmethod
    def of(
        cls,
        scheme: PartitionScheme | None,
        materialized: Mapping[str | None, MaterializedVersion],
        stale: Sequence[str | None],
        numbers: _Numbers,
    ) -> "_Input":
        keys: Collection[str | None] = materialized
        known: Mapping[Any, int] = {} if scheme is None else numbers.of(scheme)
        if not materialized.keys() <= known.keys():
            keys = [key for key in materialized if key is None or not scheme or numbers.names_key(scheme, key)]
            known = {key: numbers.number(scheme, key) for key in keys}
        places = np.fromiter(map(known.__getitem__, keys), np.int64, len(keys))
        versions = map(materialized.__getitem__, keys)
        ids = np.fromiter(map(operator.itemgetter(0), versions), np.int64, len(keys))  # the storage ids
        order = np.argsort(places, kind="stable")
        first_stale = min((numbers.number(scheme, partition) for partition in stale), default=None)
        return cls(scheme, places[order], np.maximum.accumulate(ids[order]), first_stale)

    def last_read(
        self, partition: str | None, scheme: PartitionScheme | None, ahead: int, numbers: _Numbers
    ) -> int | None:
        """Return the number of the last partition that ``partition`` of a consumer reads; None: it reads all.

        The consumer reads its input until the end of its partition that lies ``ahead`` of its own.
        """
        if partition is None or scheme is None or self.scheme is None:
            return None
        if numbers.of(self.scheme) is numbers.of(scheme):
            return numbers.number(scheme, partition) + ahead
        if not (scheme.is_timed and self.scheme.is_timed):
            return None
        return self.scheme.number_at(scheme.bounds(scheme.shift(partition, ahead))[1] - RESOLUTION)


def _with_changed_input(
    own: npt.NDArray[np.int64],
    partitions: Sequence[str | None],
    scheme: PartitionScheme | None,
    parents: Mapping[dg.AssetKey, _Input],
    ahead: Mapping[dg.AssetKey, int],
    numbers: _Numbers,
) -> npt.NDArray[np.bool_]:
    """Return, for each of ``partitions``, whether :func:`_input_reason` has a reason; ``own`` are their storage ids."""
    found = np.zeros(len(own), np.bool_)
    for parent, read in parents.items():
        if scheme is not None and read.scheme is not None and numbers.of(read.scheme) is numbers.of(scheme):
            known: Mapping[Any, int] = numbers.of(scheme)
            if not all(map(known.__contains__, partitions)):
                found[:] = True  # not all are parsed yet: look at each
                continue
            last = np.fromiter(map(known.__getitem__, partitions), np.int64, len(partitions)) + ahead[parent]
        else:
            each_last = [read.last_read(each, scheme, ahead[parent], numbers) for each in partitions]
            last = np.fromiter((_ALL if each is None else each for each in each_last), np.int64, len(partitions))
        if read.first_stale is not None:
            found |= read.first_stale <= last
        if len(read.places):
            count = np.searchsorted(read.places, last, side="right")
            found |= (count > 0) & (read.newest[count - 1] > own)
    return found


def _input_reason(
    own: MaterializedVersion,
    partition: str | None,
    scheme: PartitionScheme | None,
    parents: Mapping[dg.AssetKey, _Input],
    ahead: Mapping[dg.AssetKey, int],
    numbers: _Numbers,
) -> str | None:
    # A partition reads its own and earlier partitions of its inputs, and later ones of late labels only.
    for parent, read in parents.items():
        last = read.last_read(partition, scheme, ahead[parent], numbers)
        if read.first_stale is not None and (last is None or read.first_stale <= last):
            return f"its input {parent.to_user_string()} is stale"
        count = len(read.places) if last is None else int(np.searchsorted(read.places, last, side="right"))
        if count and read.newest[count - 1] > own.storage_id:
            return f"its input {parent.to_user_string()} is newer"
    return None
