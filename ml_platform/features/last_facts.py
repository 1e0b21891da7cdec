"""Keeps the last facts of a view's change log in the lake, so that the next publication reads only new partitions.

The facts are the table ``online/<view>/<code version>``. The cursor of the same name in the state store says which
partitions of the change log they contain, and it is written in the transaction of the table's version. An online store
is no substitute: not every store can return all its rows.
"""

import logging
from collections.abc import Collection
from datetime import datetime
from typing import Any

import polars as pl

from ml_platform.data.lake import Lake, LakeError
from ml_platform.data.partitions import PartitionScheme
from ml_platform.features import change_log
from ml_platform.features.online_store import Snapshot, latest_facts
from ml_platform.features.view import KNOWN_AT, FeatureView
from ml_platform.state.cursors import delete_cursors, read_cursor, write_cursor

LAST_FACTS = "online/"
"""Begin of the names of tables of last facts, and of their cursors."""

_log = logging.getLogger(__name__)


def last_facts_table(view: FeatureView) -> str:
    """Return the table of the last facts of ``view``: ``online/<view>/<code version>``."""
    return f"{LAST_FACTS}{view.name}/{view.pinned().code_version}"


def update_last_facts(
    view: FeatureView,
    lake: Lake,
    version: int,
    digests: dict[str, str],
    watermark: datetime,
    partitions: PartitionScheme,
) -> Snapshot:
    """Return the snapshot of ``version`` of the change log at ``watermark``, and store it for the next call.

    ``digests`` are the content digests of the partitions of this version. If they only add later partitions to those
    of the stored facts, only the added ones are read. The whole log is read after any other change, for example when
    an old partition was built again, and when the stored facts are absent or damaged. Both ways give the same snapshot.
    """
    table = last_facts_table(view)
    stored = _stored_facts(lake, table, digests, watermark, partitions)
    if stored is None:
        log = change_log.read(view, lake, version)
    else:
        facts, contained = stored
        log = facts.select(*view.entity, KNOWN_AT, *view.dtypes)
        added = partitions.sort(set(digests) - contained)
        if added:
            log = pl.concat([log, change_log.read(view, lake, version, added)])
    snapshot = latest_facts(view, log, watermark)
    if log.select((pl.col(KNOWN_AT) >= watermark).any()).collect().item():
        # Partitions of another time zone: the snapshot lacks facts that a later one needs.
        delete_cursors(lake.state, [table])
        return snapshot
    cursor = {"digests": digests, "watermark": watermark.isoformat()}
    lake.write(
        table,
        snapshot.frame,
        None,
        on_record=lambda written: write_cursor(lake.state, table, {**cursor, "version": written.version}),
    )
    return snapshot


def _stored_facts(
    lake: Lake, table: str, digests: dict[str, str], watermark: datetime, partitions: PartitionScheme
) -> tuple[pl.LazyFrame, set[str]] | None:
    """Return the stored facts and their partitions, or None if the log has changed in another way than at its end."""
    cursor: dict[str, Any] | None = read_cursor(lake.state, table)
    if cursor is None or datetime.fromisoformat(cursor["watermark"]) > watermark:
        return None
    contained: dict[str, str] = cursor["digests"]
    if not contained.items() <= digests.items() or not _all_later(set(digests) - set(contained), contained, partitions):
        return None
    try:
        return lake.scan(table, cursor["version"]), set(contained)
    except LakeError as error:
        _log.warning("The whole change log is read again, because the last facts cannot be: %s", error)
        return None


def _all_later(added: Collection[str], contained: Collection[str], partitions: PartitionScheme) -> bool:
    if not added or not contained:
        return True
    return partitions.precedes(partitions.latest(contained), partitions.earliest(added))
