"""Adds Delta tables that have no catalog entry to the catalog: those of earlier releases, or of a lost state store.

Every version that the Delta log still has becomes a version of the catalog, so pinned versions stay readable.
"""

import json
import os
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from ml_platform.data.canonical import file_digest
from ml_platform.data.delta_log import LOG_FOLDER
from ml_platform.data.digest import content_hash
from ml_platform.data.lake import PARTITION, Lake, LakeError
from ml_platform.data.lake_catalog import AdoptedSegment, NewSegment
from ml_platform.data.lake_files import StoredFile
from ml_platform.state.schema import WHOLE

if TYPE_CHECKING:
    from deltalake import DeltaTable


@dataclass(frozen=True)
class AdoptionReport:
    """The adopted tables, and for each table that could not be adopted the reason."""

    tables: list[str]
    failed: dict[str, str]


@dataclass
class _OpenSegment:
    """The files of one partition since ``version``."""

    version: int
    files: frozenset[str]
    digest: str | None = None


@dataclass
class _History:
    """The segments of one table, in the order in which they ended."""

    open: dict[str, _OpenSegment] = field(default_factory=dict)
    ended: list[tuple[str, _OpenSegment, int]] = field(default_factory=list)


def adopt_delta_tables(lake: Lake) -> AdoptionReport:
    """Add each local Delta table under the root of ``lake`` that the catalog lacks; a repeated call changes nothing.

    Digests come from the notes that earlier releases left in their commits, and from the rows where these are gone.
    """
    unreadable: tuple[type[Exception], ...] = (
        LakeError,
        OSError,
        ValueError,
        pl.exceptions.PolarsError,
        *_delta_errors(),
    )
    adopted: list[str] = []
    failed: dict[str, str] = {}
    for table in _delta_tables(lake):
        if lake.exists(table):
            continue
        try:
            _adopt(lake, table)
        except unreadable as error:
            failed[table] = " ".join(str(error).split())[:300]
        else:
            adopted.append(table)
    return AdoptionReport(adopted, failed)


def _adopt(lake: Lake, table: str) -> None:
    from deltalake import DeltaTable

    address = f"file://{urllib.parse.quote(lake.delta_address(table))}"
    opened = DeltaTable(address)
    latest = opened.version()
    partitioned = bool(opened.metadata().partition_columns)
    history = _read_history(opened, latest, partitioned)
    segments = [
        _segment(lake, table, partition, each, ended)
        for partition, each, ended in [
            *history.ended,
            *((name, segment, None) for name, segment in history.open.items()),
        ]
    ]
    opened.load_as_version(latest)
    lake.catalog.adopt(
        table,
        _columns(opened),
        version=latest,
        partitioned=partitioned,
        segments=sorted(segments, key=lambda one: one.version),
    )


def _read_history(opened: "DeltaTable", latest: int, partitioned: bool) -> _History:
    notes = _notes(opened, latest)
    history = _History()
    for version in range(latest + 1):
        try:
            opened.load_as_version(version)
        except _delta_errors():
            # The log of this version was cleaned.
            continue
        actions = pl.DataFrame(opened.get_add_actions(flatten=True))
        names = actions[f"partition.{PARTITION}"].to_list() if partitioned else [WHOLE] * actions.height
        files: dict[str, set[str]] = {}
        for path, name in zip(actions["path"].to_list(), names, strict=True):
            files.setdefault(name, set()).add(path)
        note = notes.get(version)
        if note is not None and not note["rows"]:
            files.setdefault(note["partition"] or WHOLE, set())
        for name, segment in list(history.open.items()):
            # An empty partition has no files; it ends when rows are written to it.
            kept = segment.files == frozenset(files.get(name, set()) if segment.files else files.get(name, ()))
            if not kept:
                history.ended.append((name, history.open.pop(name), version))
        for name, paths in files.items():
            if name not in history.open:
                noted = note is not None and (note["partition"] or WHOLE) == name
                digest = note["sha256"] if note is not None and noted else None
                history.open[name] = _OpenSegment(version, frozenset(paths), digest)
    return history


def _notes(opened: "DeltaTable", latest: int) -> dict[int, Mapping[str, Any]]:
    """Return the notes of earlier releases by version; a commit without a note is absent."""
    found: dict[int, Mapping[str, Any]] = {}
    for position, commit in enumerate(opened.history()):
        version = commit.get("version", latest - position)
        if "content" in commit:
            found[int(version)] = json.loads(commit["content"])
    return found


def _segment(lake: Lake, table: str, partition: str, segment: _OpenSegment, ended: int | None) -> AdoptedSegment:
    root = Path(lake.root) / table
    paths = sorted(segment.files)
    present = all((root / path).exists() for path in paths)
    if not present and ended is None:
        absent = next(path for path in paths if not (root / path).exists())
        raise LakeError(
            f"Table '{table}', partition {partition}",
            expected=f"the file {absent}",
            found="none",
            fix="Materialize the partition again.",
        )
    files = tuple(StoredFile(path, (root / path).stat().st_size, file_digest(root / path)) for path in paths if present)
    rows = 0
    digest = segment.digest
    if files:
        frames = [pl.read_parquet(root / path, glob=False, hive_partitioning=False) for path in paths]
        frame = pl.concat(frames)
        rows = frame.height
        digest = digest or content_hash(frame.drop(PARTITION, strict=False))
    new = NewSegment(partition, rows, digest or content_hash(pl.DataFrame()), files, stores_partition=False)
    return AdoptedSegment(new, segment.version, ended, cleaned=not present)


def _columns(opened: "DeltaTable") -> pl.DataFrame:
    import pyarrow as pa

    empty = pa.schema(opened.schema().to_arrow()).empty_table()
    frame = pl.from_arrow(empty)
    assert isinstance(frame, pl.DataFrame)
    return frame.drop(PARTITION, strict=False)


def _delta_tables(lake: Lake) -> list[str]:
    found = []
    root = Path(lake.root)
    for folder, names, _files in os.walk(root):
        if LOG_FOLDER in names:
            found.append(Path(folder).relative_to(root).as_posix())
        names[:] = [name for name in names if not name.startswith(("_", ".", f"{PARTITION}="))]
    return sorted(found)


def _delta_errors() -> tuple[type[Exception], ...]:
    from deltalake.exceptions import DeltaError

    return (DeltaError,)
