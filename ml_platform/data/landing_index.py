"""The index of landed files in the state store: which content has landed, was requested and was published.

A file is hashed once. Afterwards its size and modification time are compared, and the hash only when these changed.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from ml_platform.data.contract_record import published_files
from ml_platform.data.landing import WHOLE as WHOLE_FILE
from ml_platform.data.landing import Landing, file_sha256
from ml_platform.state.schema import WHOLE, landed_files
from ml_platform.state.store import StateStore, now_text

SETTLED_NS = 2_000_000_000
"""Age at which a modification time is trusted: a second change within its resolution would not be visible."""


@dataclass(frozen=True)
class LandedContent:
    """The content of one landed file; ``partition`` is None for a dataset without partitions."""

    name: str
    partition: str | None
    sha256: str
    size_bytes: int
    requested: bool
    """Whether a run was requested for this content."""
    published: bool
    """Whether the lake contains the rows of this content."""


@dataclass(frozen=True)
class LandedState:
    """What has landed for one dataset.

    ``contents`` has one entry per partition. ``ambiguous`` maps partitions to several files that claim to be theirs.
    ``strays`` are files that belong to no declared partition.
    """

    contents: list[LandedContent]
    ambiguous: dict[str, list[str]]
    strays: list[str]

    @property
    def due(self) -> list[LandedContent]:
        """The contents that are neither published nor requested, by partition."""
        return [each for each in self.contents if not (each.published or each.requested)]


class LandingIndex:
    """The index of the files in ``landing``."""

    def __init__(self, landing: Landing, state: StateStore) -> None:
        self.landing = landing
        self.state = state

    def refresh(
        self, dataset: str, is_partition: Callable[[str], bool], *, confirmed_tick: int | None = None
    ) -> LandedState:
        """Bring the index of ``dataset`` up to date and return it; unchanged files are not read.

        ``is_partition`` tells the declared partitions by name. Requests count up to ``confirmed_tick`` (None: all),
        because a request after it may have been lost with the tick that made it.
        """
        listing = self.landing.listing(
            dataset, lambda name: name == WHOLE_FILE or is_partition(name)
        )
        known = self._known(dataset)
        published = published_files(self.state, dataset)
        contents, changed = [], []
        for name, entries in sorted(listing.files.items()):
            if len(entries) > 1:
                continue
            entry, partition = entries[0], WHOLE if name == WHOLE_FILE else name
            status = entry.stat()
            row = known.get(entry.name)
            digest = row.sha256 if row is not None and _is_same(row, status) else None
            if digest is None:
                digest = file_sha256(Path(entry.path))
                changed.append((entry.name, partition, status, digest))
            requested = row is not None and row.requested_sha256 == digest
            if requested and confirmed_tick is not None:
                requested = (row.requested_tick or 0) <= confirmed_tick
            contents.append(
                LandedContent(
                    entry.name, partition or None, digest, status.st_size, requested, published.get(partition) == digest
                )
            )
        self._store(dataset, changed, known, gone=known.keys() - {each.name for each in contents})
        ambiguous = {
            name: sorted(e.name for e in entries) for name, entries in listing.files.items() if len(entries) > 1
        }
        return LandedState(contents, ambiguous, listing.strays)

    def mark_requested(self, dataset: str, contents: Sequence[LandedContent], tick: int) -> None:
        """Record that the sensor tick ``tick`` requested runs for ``contents``."""
        with self.state.write() as connection:
            for each in contents:
                connection.execute(
                    sa.update(landed_files)
                    .where(landed_files.c.dataset == dataset, landed_files.c.name == each.name)
                    .values(requested_sha256=each.sha256, requested_tick=tick)
                )

    def _known(self, dataset: str) -> dict[str, sa.Row[tuple[object, ...]]]:
        with self.state.read() as connection:
            rows = connection.execute(sa.select(landed_files).where(landed_files.c.dataset == dataset)).all()
        return {row.name: row for row in rows}

    def _store(
        self,
        dataset: str,
        changed: Sequence[tuple[str, str, os.stat_result, str]],
        known: dict[str, sa.Row[tuple[object, ...]]],
        gone: set[str],
    ) -> None:
        if not changed and not gone:
            return
        now_ns = time.time_ns()
        with self.state.write() as connection:
            for name in gone:
                connection.execute(
                    sa.delete(landed_files).where(landed_files.c.dataset == dataset, landed_files.c.name == name)
                )
            for name, partition, status, digest in changed:
                settled = now_ns - status.st_mtime_ns > SETTLED_NS
                values = {
                    "partition": partition,
                    "size_bytes": status.st_size,
                    # 0: hash again at the next refresh.
                    "modified_ns": status.st_mtime_ns if settled else 0,
                    "sha256": digest,
                    "landed_at": now_text(),
                }
                if name in known:
                    if known[name].sha256 == digest:
                        del values["landed_at"]
                    statement = sa.update(landed_files).where(
                        landed_files.c.dataset == dataset, landed_files.c.name == name
                    )
                    connection.execute(statement.values(**values))
                else:
                    connection.execute(sa.insert(landed_files).values(dataset=dataset, name=name, **values))


def _is_same(row: sa.Row[tuple[object, ...]], status: os.stat_result) -> bool:
    return bool(row.size_bytes == status.st_size and row.modified_ns == status.st_mtime_ns)
