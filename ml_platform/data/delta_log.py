"""Publishes the tables of the lake as Delta tables, so that other tools read their current rows.

The catalog decides which files belong to a table; the Delta log only follows it. A lost or damaged log loses nothing,
and is written again from the catalog.
"""

import logging
import shutil
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from ml_platform.data.delta_types import delta_columns
from ml_platform.errors import PlatformError

if TYPE_CHECKING:
    from arro3.core.types import ArrowSchemaExportable
    from deltalake import DeltaTable

LOG_FOLDER = "_delta_log"
CHECKPOINT_INTERVAL = 10

LOG = logging.getLogger(__name__)


class DeltaLogError(PlatformError):
    """Raised when a Delta log cannot be read or written; the rows of the lake are not affected."""


FilePartitions = Mapping[str, tuple[int, str | None]]
"""Files of a table by their path: size in bytes, and partition (None for a table without partitions)."""


@dataclass(frozen=True)
class DeltaTarget:
    """A Delta table: its address, an empty table of its columns, and the column by which it is partitioned."""

    address: str
    columns: pl.DataFrame
    partition_column: str | None
    storage_options: dict[str, str] | None


@dataclass(frozen=True)
class DeltaChanges:
    """The files that a table gained and lost since its Delta commit ``since``."""

    since: int
    added: FilePartitions
    removed: FilePartitions


def exists(address: str) -> bool:
    """Return whether a local Delta table has a log."""
    return (Path(address) / LOG_FOLDER).is_dir()


def publish(
    target: DeltaTarget, all_files: Callable[[], FilePartitions], changes: DeltaChanges | None = None
) -> int | None:
    """Make the Delta table contain exactly the files of the catalog, in one commit, and return the latest commit.

    When the table is still at the commit ``changes.since``, only the changes are committed. Otherwise its list of files
    is compared with ``all_files()``. A local path with a percent sign is left out with a warning and gives None:
    delta-rs decodes it twice and misses the files. Raises :class:`DeltaLogError` when the log is damaged.
    """
    if _is_unreachable(target.address):
        LOG.warning("%s is not published as a Delta table: its path contains a percent sign.", target.address)
        return None
    with _named_errors(target.address):
        table = _open(target) or _create(target)
        # A whole table is replaced at once, because its columns may change; so is one whose columns have changed.
        as_whole = target.partition_column is None or not _has_columns(table, target)
        if changes is not None and not as_whole and table.version() == changes.since:
            return _commit(table, target, changes.added, changes.removed)
        files, listed = all_files(), _listed_files(table, target.partition_column)
        added = {path: file for path, file in files.items() if path not in listed}
        removed = {path: file for path, file in listed.items() if path not in files}
        return _commit(table, target, added, removed, replaced_by=files if as_whole else None)


def is_current(target: DeltaTarget, files: FilePartitions) -> bool:
    """Return whether the Delta table has exactly ``files``.

    Raises :class:`DeltaLogError` when the log is damaged.
    """
    if _is_unreachable(target.address):
        return True
    with _named_errors(target.address):
        table = _open(target)
        return table is not None and set(_listed_files(table, None)) == set(files)


def rewrite(target: DeltaTarget, files: FilePartitions) -> int | None:
    """Replace a damaged log by a new one with ``files`` and return its commit; the old one is removed afterwards."""
    if "://" in target.address:
        raise DeltaLogError(
            f"Delta log of {target.address}",
            expected="a local folder",
            found="an object store",
            fix=f"Delete {target.address}/{LOG_FOLDER} there and materialize the table again.",
        )
    log = Path(target.address) / LOG_FOLDER
    aside = log.with_name(f".{LOG_FOLDER}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
    if log.exists():
        log.replace(aside)
    commit = publish(target, lambda: files)
    shutil.rmtree(aside, ignore_errors=True)
    return commit


def _open(target: DeltaTarget) -> "DeltaTable | None":
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    try:
        return DeltaTable(_uri(target.address), storage_options=target.storage_options)
    except TableNotFoundError:
        return None


def _create(target: DeltaTarget) -> "DeltaTable":
    from deltalake import DeltaTable

    if "://" not in target.address:
        Path(target.address).mkdir(parents=True, exist_ok=True)
    return DeltaTable.create(
        _uri(target.address),
        schema=_schema(target),
        partition_by=None if target.partition_column is None else [target.partition_column],
        storage_options=target.storage_options,
        # A short log: opening the table costs the same after a thousand commits as after ten.
        configuration={"delta.checkpointInterval": str(CHECKPOINT_INTERVAL)},
    )


def _commit(
    table: "DeltaTable",
    target: DeltaTarget,
    added: FilePartitions,
    removed: FilePartitions,
    replaced_by: FilePartitions | None = None,
) -> int:
    """Commit the files; ``replaced_by`` has all files of a table that is replaced at once."""
    from deltalake.transaction import AddAction, RemoveAction

    if not added and not removed and (replaced_by is None or _has_columns(table, target)):
        return table.version()
    column = target.partition_column
    if replaced_by is not None:
        added, removed = replaced_by, {}
    now = int(datetime.now(UTC).timestamp() * 1000)
    actions: list[AddAction | RemoveAction] = [
        AddAction(path, size, {} if column is None else {column: partition}, now, True, "{}")
        for path, (size, partition) in added.items()
    ]
    actions += [
        RemoveAction(path, True, now, None, {} if column is None else {column: partition})
        for path, (_, partition) in removed.items()
    ]
    table.create_write_transaction(
        actions,
        mode="overwrite" if column is None or replaced_by is not None else "append",
        schema=_schema(target),
        partition_by=None if column is None else [column],
    )
    return table.version()


def _has_columns(table: "DeltaTable", target: DeltaTarget) -> bool:
    """Return whether the log declares the columns of ``target``, in any order."""
    from deltalake import Schema

    declared, wanted = (
        {each.name: str(each.type) for each in found.fields}
        for found in (table.schema(), Schema.from_arrow(_schema(target)))
    )
    return declared == wanted


def _listed_files(table: "DeltaTable", partition_column: str | None) -> dict[str, tuple[int, str | None]]:
    """Return the files that the log lists."""
    present = pl.DataFrame(table.get_add_actions(flatten=True))
    values = present[f"partition.{partition_column}"].to_list() if partition_column else [None] * present.height
    files = zip(present["path"].to_list(), present["size_bytes"].to_list(), values, strict=True)
    return {path: (size, partition) for path, size, partition in files}


@contextmanager
def _named_errors(address: str) -> Iterator[None]:
    from deltalake.exceptions import DeltaError

    try:
        yield
    except (DeltaError, OSError, ValueError) as error:
        raise DeltaLogError(
            f"Delta log of {address}",
            expected="a complete log",
            found=" ".join(str(error).split())[:300],
            fix="The rows are safe, because the platform reads them by its catalog. Write the log again with "
            "`ml-platform repair`.",
        ) from error


def _is_unreachable(address: str) -> bool:
    return "://" not in address and "%" in address


def _schema(target: DeltaTarget) -> "ArrowSchemaExportable":
    columns = target.columns
    if target.partition_column is not None:
        columns = columns.with_columns(pl.lit("").alias(target.partition_column))
    schema: ArrowSchemaExportable = delta_columns(columns.clear()).to_arrow().schema
    return schema


def _uri(address: str) -> str:
    # A quoted URI, because a plain path with a space, '#' or '%20' would be read as another path.
    return address if "://" in address else f"file://{urllib.parse.quote(str(Path(address).absolute()))}"
