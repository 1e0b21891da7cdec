"""The index of landed files in the state store: which content has landed, was requested and was published.

A file is hashed once. Afterwards its size and modification time are compared, and the hash only when these changed. A
folder whose own modification time did not change has no new or replaced file, so most refreshes read no folder at all.
A full comparison every hour finds files that were overwritten in place.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from ml_platform.data.canonical import file_digest
from ml_platform.data.collector import collector_paused
from ml_platform.data.landing import Landing, partition_of_file
from ml_platform.data.partitions import WHOLE as WHOLE_FILE
from ml_platform.state.cursors import read_cursor, write_cursor
from ml_platform.state.schema import WHOLE, contract_results, landed_files
from ml_platform.state.store import StateStore, now_text

SETTLED_NS = 2_000_000_000
"""Age at which a modification time is trusted: a second change within its resolution would not be visible."""

FILES_COMPARED = 20_000
"""Most files of a folder of which each is compared when the folder has changed; of more, only new names and inodes.

A file that is deleted and written again may get the same inode. A full comparison of 175,000 files takes seconds.
"""

NAMES_PER_QUERY = 500

FULL_COMPARISON_SECONDS = 3600.0
"""Time after which all files of a folder are compared again, for files that were overwritten in place."""


_IndexedFile = tuple[str, int, int, int, str]
"""Name, size in bytes, modification time in nanoseconds (0: unknown), inode and digest of a file of the index."""

_ChangedFile = tuple[str, str, os.stat_result, str]
"""Name, partition, status and digest of a new or replaced file."""


class _Found(NamedTuple):
    """Content of a folder: the number of files, those that claim to be one partition, and the strays."""

    files: int
    ambiguous: dict[str, list[str]]
    strays: list[str]


@dataclass(frozen=True)
class LandedContent:
    """The content of one landed file; ``partition`` is None for a dataset without partitions."""

    name: str
    partition: str | None
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class LandedState:
    """The landed files of one dataset.

    ``due`` are the contents that are neither published nor requested, by partition; ``open`` says whether a requested
    one may not be published yet. ``files`` is the number of all landed files. ``ambiguous`` maps partitions to several
    files that claim to be theirs. ``strays`` are files that belong to no declared partition.
    """

    due: list[LandedContent]
    open: bool
    files: int
    ambiguous: dict[str, list[str]]
    strays: list[str]


class LandingIndex:
    """The index of the files in ``landing``; ``clock`` returns POSIX time in seconds."""

    def __init__(self, landing: Landing, state: StateStore, clock: Callable[[], float] = time.time) -> None:
        self.landing = landing
        self.state = state
        self.clock = clock

    def refresh(
        self, dataset: str, is_partition: Callable[[str], bool], *, confirmed_tick: int | None = None
    ) -> LandedState:
        """Bring the index of ``dataset`` up to date and return it; unchanged files are not read.

        ``is_partition`` tells the declared partitions by name. Requests count up to ``confirmed_tick`` (None: all),
        because a request after it may have been lost with the tick that made it.
        """
        cursor = f"landing/{dataset}"
        last = read_cursor(self.state, cursor)
        folder_ns, now = self._folder_ns(dataset), self.clock()
        compared_recently = last is not None and 0 <= now - last["compared_at"] < FULL_COMPARISON_SECONDS
        if last is not None and compared_recently and folder_ns == last["folder_ns"]:
            due = self._due(dataset, confirmed_tick) if last["due"] else []
        else:
            with collector_paused():
                found = self._look_for_new(dataset, last, is_partition) if last and compared_recently else None
                if found is None:
                    found = self._look_at_all(dataset, is_partition, only_new=compared_recently)
            due = self._due(dataset, confirmed_tick)
            last = {
                "compared_at": last["compared_at"] if last is not None and compared_recently else now,
                # A file that landed within the resolution of the folder's time would not be visible in it.
                "folder_ns": folder_ns if now * 1e9 - folder_ns > SETTLED_NS else None,
                **found._asdict(),
                "due": True,
                "open": last is None or last.get("open", True),
            }
            write_cursor(self.state, cursor, last)
        if last["due"] and not due:
            write_cursor(self.state, cursor, {**last, "due": False})
        # Earlier releases did not record whether a requested content was published.
        return LandedState(due, last.get("open", True), last["files"], last["ambiguous"], last["strays"])

    def unpublished(self, dataset: str) -> tuple[set[str], set[str]]:
        """Return the partitions with a landed file, and those whose rows were published from another one.

        "" is the partition of a dataset without partitions. The index is as of the last :meth:`refresh`.
        """
        file, result = landed_files.c, contract_results.c
        same_partition = sa.and_(result.dataset == file.dataset, result.partition == file.partition)
        landed = sa.select(file.partition).where(file.dataset == dataset)
        changed = landed.select_from(landed_files.outerjoin(contract_results, same_partition)).where(
            file.sha256.is_distinct_from(result.passed_landed_sha256)
        )
        with self.state.read() as connection:
            return set(connection.scalars(landed).all()), set(connection.scalars(changed).all())

    def mark_open(self, dataset: str) -> None:
        """Record that contents were requested; a request counts once its tick is stored, so the next refresh looks."""
        self._mark(dataset, due=True, open=True)

    def mark_settled(self, dataset: str, *, settled: bool) -> None:
        """Record whether each requested content is published, so that later ticks need not look."""
        self._mark(dataset, open=not settled)

    def _mark(self, dataset: str, **flags: bool) -> None:
        with self.state.write():
            last = read_cursor(self.state, f"landing/{dataset}")
            if last is not None and last | flags != last:
                write_cursor(self.state, f"landing/{dataset}", last | flags)

    def _folder_ns(self, dataset: str) -> int:
        try:
            return (self.landing.root / dataset).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _due(self, dataset: str, confirmed_tick: int | None) -> list[LandedContent]:
        file, result = landed_files.c, contract_results.c
        same_partition = sa.and_(result.dataset == file.dataset, result.partition == file.partition)
        requested = sa.and_(file.requested_sha256.is_not(None), file.requested_sha256 == file.sha256)
        if confirmed_tick is not None:
            requested = sa.and_(requested, file.requested_tick <= confirmed_tick)
        published = sa.and_(result.passed_landed_sha256.is_not(None), result.passed_landed_sha256 == file.sha256)
        with self.state.read() as connection:
            query = (
                sa.select(file.name, file.partition, file.sha256, file.size_bytes)
                .select_from(landed_files.outerjoin(contract_results, same_partition))
                .where(files_of(connection, dataset), sa.not_(requested))
                .where(sa.or_(result.dataset.is_(None), sa.not_(published)))
            )
            due = [
                LandedContent(row.name, row.partition or None, row.sha256, row.size_bytes)
                for row in connection.execute(query)
            ]
        return sorted(due, key=lambda each: (each.partition or WHOLE, each.name))

    def _look_at_all(self, dataset: str, is_partition: Callable[[str], bool], *, only_new: bool) -> "_Found":
        """Hash the new and replaced files of ``dataset``, forget those that are gone, and return what is there.

        Without ``only_new``, files that were overwritten in place are found too, which needs one call per file.
        """
        listing = self.landing.listing(dataset, lambda name: name == WHOLE_FILE or is_partition(name))
        entries = {
            each[0].name: (each[0], WHOLE if name == WHOLE_FILE else name)
            for name, each in listing.files.items()
            if len(each) == 1
        }
        known = self._known(dataset)
        changed = []
        for name, (entry, partition) in entries.items():
            row = known.get(name)
            if row is None or not only_new or len(entries) <= FILES_COMPARED or _may_differ(row, entry):
                changed += self._changed(row, entry, partition)
        self._store(dataset, changed, known, gone=known.keys() - entries.keys())
        several = {name: sorted(each.name for each in files) for name, files in listing.files.items() if len(files) > 1}
        return _Found(len(entries), several, listing.strays)

    def _look_for_new(
        self, dataset: str, last: Mapping[str, Any], is_partition: Callable[[str], bool]
    ) -> "_Found | None":
        """Do as :meth:`_look_at_all` with ``only_new``, but without parsing the names that the index has.

        Return None where that does not suffice: when several files claim to be one partition.
        """
        if last["ambiguous"]:
            return None
        entries, known = self.landing.entries(dataset), self._known(dataset)
        changed, new, strays = list[_ChangedFile](), list[str](), list[str]()
        for name, entry in entries.items():
            row = known.get(name)
            if row is not None and len(entries) > FILES_COMPARED and not _may_differ(row, entry):
                continue
            if not entry.is_file():
                continue
            partition = partition_of_file(name, lambda each: each == WHOLE_FILE or is_partition(each))
            if partition is None:
                strays.append(name)
                continue
            partition = WHOLE if partition == WHOLE_FILE else partition
            if row is None:
                new.append(partition)
            changed += self._changed(row, entry, partition)
        gone = known.keys() - entries.keys()
        if len(set(new)) < len(new) or self._named(dataset, new) - gone:
            return None
        self._store(dataset, changed, known, gone=gone)
        return _Found(len(known) + len(new) - len(gone), {}, sorted(strays))

    def _changed(self, row: _IndexedFile | None, entry: "os.DirEntry[str]", partition: str) -> list[_ChangedFile]:
        """Return the file of ``entry`` with its digest, or nothing if it is as ``row`` says."""
        status = entry.stat()
        if row is not None and row[1:4] == (status.st_size, status.st_mtime_ns, status.st_ino):
            return []
        return [(entry.name, partition, status, file_digest(Path(entry.path)))]

    def _named(self, dataset: str, partitions: Sequence[str]) -> set[str]:
        """Return the names of the indexed files of ``partitions``."""
        file = landed_files.c
        found: set[str] = set()
        with self.state.read() as connection:
            for start in range(0, len(partitions), NAMES_PER_QUERY):
                some = partitions[start : start + NAMES_PER_QUERY]
                query = sa.select(file.name).where(file.dataset == dataset, file.partition.in_(some))
                found |= set(connection.scalars(query))
        return found

    def _known(self, dataset: str) -> dict[str, _IndexedFile]:
        file = landed_files.c
        query = sa.select(file.name, file.size_bytes, file.modified_ns, file.inode, file.sha256)
        with self.state.read() as connection:
            rows = connection.execute(query.where(files_of(connection, dataset))).all()
        return {row[0]: row for row in rows}

    def _store(
        self,
        dataset: str,
        changed: Sequence[_ChangedFile],
        known: dict[str, _IndexedFile],
        gone: set[str],
    ) -> None:
        if not changed and not gone:
            return
        now_ns = int(self.clock() * 1e9)
        with self.state.write() as connection:
            for name in gone:
                connection.execute(
                    sa.delete(landed_files).where(landed_files.c.dataset == dataset, landed_files.c.name == name)
                )
            for name, partition, status, digest in changed:
                settled = now_ns - status.st_mtime_ns > SETTLED_NS
                values: dict[str, Any] = {
                    "partition": partition,
                    "size_bytes": status.st_size,
                    # 0: hash again at the next comparison.
                    "modified_ns": status.st_mtime_ns if settled else 0,
                    "inode": status.st_ino,
                    "sha256": digest,
                    "landed_at": now_text(),
                }
                unchanged = name in known and known[name][4] == digest
                updated = connection.execute(
                    sa.update(landed_files)
                    .where(landed_files.c.dataset == dataset, landed_files.c.name == name)
                    .values({key: value for key, value in values.items() if key != "landed_at" or not unchanged})
                )
                # Another process may have added the file since it was compared.
                if not updated.rowcount:
                    connection.execute(sa.insert(landed_files).values(dataset=dataset, name=name, **values))


def files_of(connection: sa.engine.Connection, dataset: str) -> sa.ColumnElement[bool]:
    """Return the condition that selects the indexed files of ``dataset``, as cheap as their number allows.

    One look-up by the index for each row takes about eight times as long as reading the rows as they are stored. Where
    the dataset has a good part of all rows, the condition is therefore one that no index serves.
    """
    column = landed_files.c.dataset
    own = connection.scalar(sa.select(sa.func.count()).where(column == dataset)) or 0
    if own < FILES_COMPARED:
        return column == dataset
    every = connection.scalar(sa.select(sa.func.count()).select_from(landed_files)) or 0
    return sa.func.coalesce(column, "") == dataset if own * 4 > every else column == dataset


def _may_differ(row: _IndexedFile, entry: "os.DirEntry[str]") -> bool:
    """Return whether ``entry`` may be another file than that of ``row``, or one whose time was not to be trusted."""
    return not row[2] or row[3] != entry.inode()
