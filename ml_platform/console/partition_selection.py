"""The partitions that a command names, for each selected asset: assets of other cadences get those of the same time."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

from ml_platform.components.declaration import scheme_of
from ml_platform.console.arguments import ArgumentError
from ml_platform.data.partitions import PartitionScheme

Schemes = Mapping[dg.AssetKey, PartitionScheme | None]


def schemes_of(graph: BaseAssetGraph[Any], keys: Sequence[dg.AssetKey]) -> dict[dg.AssetKey, PartitionScheme | None]:
    """Return the partitions of each asset of ``keys``; None for an asset without partitions."""
    return {key: scheme_of(graph.get(key).partitions_def) for key in keys}


def select_partitions(text: str, schemes: Schemes) -> dict[dg.AssetKey, list[str]]:
    """Return the partitions that ``text`` names, by partitioned asset, in order.

    ``text`` is one key (``2013-06``), or a range with both ends (``2013-06-01...2013-06-07``). An asset with keys of
    this form gets the range; another one gets all partitions whose time overlaps it, so that a week names its days.
    An empty ``text`` is for assets without partitions.
    Raises :class:`.ArgumentError` for a range that runs backwards or a missing one, and
    :class:`~ml_platform.data.partitions.PartitionError` for keys of no selected asset.
    """
    partitioned = {key: scheme for key, scheme in schemes.items() if scheme is not None}
    if not text and partitioned:
        key, scheme = next(iter(partitioned.items()))
        raise ArgumentError(
            "Partitions",
            expected=f"those of {key.to_user_string()}: {scheme.describe()}",
            found="none",
            fix="Name them with --partitions.",
        )
    first, _, last = text.partition("...")
    last = last or first
    native = [scheme for scheme in partitioned.values() if scheme.names_key(first) and scheme.names_key(last)]
    if partitioned and not native:
        scheme = next(iter(partitioned.values()))
        scheme.number(first)
        scheme.number(last)
    if native and native[0].precedes(last, first):
        raise ArgumentError(
            f"Partitions '{text}'",
            expected="the first partition before the last, like 2013-01...2013-06",
            found=f"{last} before {first}",
            fix=f"Write {last}...{first}.",
        )
    found: list[tuple[PartitionScheme, list[str]]] = []
    for scheme in partitioned.values():
        if all(scheme != other for other, _ in found):
            found.append((scheme, _in_scheme(scheme, native[0], first, last)))
    return {key: next(keys for other, keys in found if other == scheme) for key, scheme in partitioned.items()}


def _in_scheme(scheme: PartitionScheme, named: PartitionScheme, first: str, last: str) -> list[str]:
    if scheme.names_key(first) and scheme.names_key(last):
        return scheme.between(first, last)
    return scheme.covering(named.bounds(first)[0], named.bounds(last)[1])
