"""The record of how the columns of a dataset changed, so that files which landed before can still be read.

A landed file is never changed. When one that landed before a change is read again, the recorded changes are applied to
its rows. A file that lands later must have the columns of the contract.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import polars as pl
import sqlalchemy as sa

from ml_platform.data.contract import Contract
from ml_platform.data.evolution import filled
from ml_platform.data.reading import EarlierColumns
from ml_platform.data.schema import stored_type
from ml_platform.data.source_record import recorded_reads
from ml_platform.state.cursors import read_cursor, write_cursor
from ml_platform.state.schema import WHOLE, contract_results, landed_files
from ml_platform.state.store import StateStore

EVOLUTIONS = "evolution/"
"""Prefix of the cursor that has the changes of a dataset, oldest first."""


@dataclass(frozen=True)
class Evolution:
    """One change of the columns of a dataset; see :class:`~ml_platform.data.evolution.ColumnChanges`.

    ``version`` is that of the table, ``at`` is ISO 8601 in UTC. ``is_reported`` says whether Dagster has it too.
    """

    at: str
    version: int
    renamed: Mapping[str, str]
    added: Mapping[str, str | None]
    dropped: Sequence[str]
    is_reported: bool = False


@dataclass(frozen=True)
class EarlierFiles:
    """The changes of a dataset, each with the digests of the landed files that it applies to."""

    changes: Sequence[tuple[Evolution, Set[str]]] = ()
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    """Fingerprint of the source at the read that was last published, by partition."""

    def after(self, landed_sha256: str) -> list[Evolution]:
        """Return the changes after the landed file with this digest, oldest first; none for an unknown file."""
        return [change for change, files in self.changes if landed_sha256 in files]

    def after_read(self, partition: str | None, fingerprint: str | None) -> list[Evolution]:
        """Return all changes if the source is as at the read that was last published; none otherwise."""
        is_published = fingerprint is not None and self.fingerprints.get(partition or WHOLE) == fingerprint
        return [change for change, _ in self.changes] if is_published else []

    def hint(self, columns: Sequence[str]) -> str:
        """Return a sentence about the latest change that explains the unexpected ``columns`` of a file, or nothing."""
        for change, _ in reversed(self.changes):
            for name in columns:
                if name in change.renamed:
                    return (
                        f" Column '{name}' is '{change.renamed[name]}' since {change.at}; files that land later have "
                        "the new name."
                    )
                if name in change.dropped:
                    return f" Column '{name}' was dropped at {change.at}; files that land later are without it."
        return ""


def earlier_columns(changes: Sequence[Evolution]) -> EarlierColumns:
    """Return the names that columns had before ``changes``, for readers of landed files."""
    together = _Together.of(changes)
    names: dict[str, tuple[str, ...]] = {}
    for old, new in together.renamed.items():
        names[new] = (old, *names.get(new, ()))
    return EarlierColumns(names, frozenset(together.added))


def as_changed(rows: pl.DataFrame, changes: Sequence[Evolution], contract: Contract) -> pl.DataFrame:
    """Return the rows of a file that landed before ``changes`` with its columns as after them.

    An added column gets its value also where a loader returned it with nulls only.
    """
    together = _Together.of(changes)
    names = set(rows.columns)
    rows = rows.rename({old: new for old, new in together.renamed.items() if old in names and new not in names})
    for rule in contract.columns:
        present = rule.name in rows.columns
        if rule.name in together.added and not (present and rows[rule.name].null_count() < rows.height):
            added = filled(rule.name, together.added[rule.name], stored_type(rule), rows.height)
            rows = rows.with_columns(added)
    return rows.drop([name for name in together.dropped if name not in contract.column_names], strict=False)


def evolutions(state: StateStore, dataset: str) -> list[Evolution]:
    """Return the changes of the columns of ``dataset``, oldest first."""
    stored: list[dict[str, Any]] = read_cursor(state, EVOLUTIONS + dataset) or []
    return [Evolution(**each) for each in stored]


def record_evolution(state: StateStore, dataset: str, change: Evolution) -> None:
    """Add ``change`` to the record of ``dataset``, in the current transaction if one is open."""
    _write(state, dataset, [*evolutions(state, dataset), change])


def record_reported(state: StateStore, dataset: str) -> None:
    """Record that Dagster has all changes of ``dataset``."""
    _write(state, dataset, [replace(each, is_reported=True) for each in evolutions(state, dataset)])


def earlier_files(state: StateStore, dataset: str) -> EarlierFiles:
    """Return the changes of ``dataset`` with the landed files to which each applies.

    These are the files that had landed until then, and the one from which each partition was last published: it was
    published before, or has the new columns, to which a change does nothing.
    """
    changes = evolutions(state, dataset)
    if not changes:
        return EarlierFiles()
    file, result = landed_files.c, contract_results.c
    with state.read() as connection:
        landed = connection.execute(sa.select(file.sha256, file.landed_at).where(file.dataset == dataset)).all()
        published = set(connection.scalars(sa.select(result.passed_landed_sha256).where(result.dataset == dataset)))
    known = {digest for digest in published if digest is not None}
    reads = {
        name: each["fingerprint"] for name, each in recorded_reads(state, dataset).items() if "fingerprint" in each
    }
    return EarlierFiles(
        [(change, known | {digest for digest, landed_at in landed if landed_at <= change.at}) for change in changes],
        reads,
    )


def _write(state: StateStore, dataset: str, changes: Sequence[Evolution]) -> None:
    write_cursor(state, EVOLUTIONS + dataset, [asdict(each) for each in changes])


@dataclass(frozen=True)
class _Together:
    """Several changes as one: last names by earlier ones, texts of added columns by their last names, and drops."""

    renamed: Mapping[str, str]
    added: Mapping[str, str | None]
    dropped: frozenset[str]

    @classmethod
    def of(cls, changes: Sequence[Evolution]) -> "_Together":
        renamed: dict[str, str] = {}
        added: dict[str, str | None] = {}
        dropped: set[str] = set()
        for change in changes:
            renamed = {old: change.renamed.get(new, new) for old, new in renamed.items()} | dict(change.renamed)
            added = {change.renamed.get(name, name): text for name, text in added.items()} | dict(change.added)
            dropped |= {*change.dropped}
        return cls(renamed, added, frozenset(dropped))
