"""Until when a partition has arrived: the latest one is a part while its datasets have not arrived until its end.

A training set may be built from a part, but a model is neither trained nor judged on one. So a training set that was
built from a part is remembered until it is built again: its datasets arrive until the end before its rows do.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from ml_platform.data.dataset import table_of
from ml_platform.data.lake import Lake
from ml_platform.errors import listed
from ml_platform.features.materialize import arrived_until
from ml_platform.state.cursors import read_cursor, write_cursor
from ml_platform.steps.model import BoundModel

_PREFIX = "built_from_part/"


def arrived_end(model: BoundModel, key: str, lake: Lake) -> datetime:
    """Return the end of the model's partition ``key``, or the earlier time until which its examples have arrived."""
    return min([model.partitions.bounds(key)[1], *_arrived(model, lake).values()])


def still_arriving(model: BoundModel, key: str, lake: Lake) -> str:
    """Return until when the datasets of the examples have arrived, as text; empty if ``key`` is whole.

    Only datasets that declare their arrival can tell, and only their latest partition can be a part. A training set
    that was built from a part stays one until it is built from the rows that have arrived since.
    """
    if not model.partitions.is_timed:
        return ""
    return _not_arrived(model, key, lake) or _built_from_part(model, key, lake)


def sources_of_parts(model: BoundModel, keys: Iterable[str], lake: Lake) -> dict[str, Any]:
    """Return the digests of the datasets of the examples for those of ``keys`` that have not arrived until their end.

    Read them before the rows: what lands meanwhile then counts as not read.
    """
    arrived = _arrived(model, lake).values() if model.partitions.is_timed else ()
    if not arrived:
        return {}
    until = min(arrived)
    return {key: _source_digests(model, key, lake) for key in keys if until < model.partitions.bounds(key)[1]}


def record_parts(model: BoundModel, keys: Iterable[str], parts: Mapping[str, Any], lake: Lake) -> None:
    """Remember that the training sets of ``keys`` were built, those of ``parts`` from a part of their data."""
    name = f"{_PREFIX}{model.name}"
    before = read_cursor(lake.state, name) or {}
    built = set(keys)
    now = {key: digests for key, digests in before.items() if key not in built} | dict(parts)
    if now != before:
        write_cursor(lake.state, name, now)


def _built_from_part(model: BoundModel, key: str, lake: Lake) -> str:
    digests = (read_cursor(lake.state, f"{_PREFIX}{model.name}") or {}).get(key)
    if digests is None:
        return ""
    present = _source_digests(model, key, lake)
    newer = [table for table in present if present[table] != digests.get(table)]
    return f"its training set was built before the last rows of {listed(newer)} arrived" if newer else ""


def _source_digests(model: BoundModel, key: str, lake: Lake) -> dict[str, dict[str, str]]:
    """Return the digests of the partitions that the examples of ``key`` read, by table, of arriving datasets."""
    tables = {
        table_of(arrival.dataset): model.example_partitions(arrival.dataset, key)
        for arrival in model.arrivals
        if arrival.dataset in model.declared.examples.sources
    }
    return {
        table: {str(name): digest for name, digest in lake.digests(table, partitions).items()}
        for table, partitions in tables.items()
    }


def _not_arrived(model: BoundModel, key: str, lake: Lake) -> str:
    end = model.partitions.bounds(key)[1]
    parts = [
        f"datasets/{name} has arrived until {until.astimezone(model.partitions.zone):%Y-%m-%d %H:%M}"
        for name, until in _arrived(model, lake).items()
        if until < end
    ]
    return "; ".join(parts)


def _arrived(model: BoundModel, lake: Lake) -> dict[str, datetime]:
    """Return the time until which each dataset of the examples has arrived that declares its arrival."""
    found = {}
    for arrival in model.arrivals:
        scheme = model.dataset_scheme(arrival.dataset)
        landed = [each for each in lake.digests(table_of(arrival.dataset)) if each is not None]
        if arrival.dataset in model.declared.examples.sources and scheme is not None and landed:
            found[arrival.dataset] = arrived_until(arrival, lake, scheme.latest(landed), scheme)
    return found
