"""Backup and restore of a home: a consistent copy while everything runs, and only what has changed since the last one.

The state store is copied first. Files that it names are written once and are not deleted meanwhile, because cleaning
waits for the backup. MLflow and Dagster are copied afterwards, so they contain at least what the store names.
"""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ml_platform.data.answer_counts import SUFFIX as COUNTS_SUFFIX
from ml_platform.data.lake import Lake
from ml_platform.data.scratch import PREFIX, scratch_folder
from ml_platform.registry.audit import AuditLog
from ml_platform.serving.bento_signature import BYTECODE
from ml_platform.serving.bento_signing import SigningKeys
from ml_platform.state.state_dump import STATE_DUMP, dump_state, load_state
from ml_platform.state.store import StateStore
from ml_platform.steps.backup_target import BackedUpFile, BackupError, BackupIndex, BackupTarget
from resources.home import Home
from resources.home_lake import open_lake
from resources.home_version import HOME_VERSION, stored_version

CLEANING_LOCK = "cleaning"
"""Lock of everything that deletes files; a backup takes it too."""

LEFT_OUT = frozenset({"run", "locks", "logs"})
"""Folders of the home that belong to running processes."""

ID_FORMAT = "%Y%m%dT%H%M%S%fZ"
"""Form of the ids of backups: the time in UTC with microseconds."""

SQLITE_MAGIC = b"SQLite format 3\x00"
SQLITE_COMPANIONS = ("-wal", "-shm", "-journal")


@dataclass(frozen=True)
class BackupReport:
    """A finished backup: its id, files and bytes in all, and those that were copied now."""

    id: str
    files: int
    size_bytes: int
    copied_files: int
    copied_bytes: int
    seconds: float


@dataclass(frozen=True)
class RestoreReport:
    """A finished restore."""

    id: str
    files: int
    size_bytes: int
    seconds: float


def back_up(home: Home, target: BackupTarget, *, now: datetime, keep: int | None = None) -> BackupReport:
    """Copy ``home`` to ``target`` and return what was copied; ``keep`` is the number of backups that stay there.

    A killed backup leaves no index. The next one continues with the objects that are there already.
    """
    start = time.monotonic()
    lake = open_lake(home)
    with lake.state.lock(CLEANING_LOCK), scratch_folder("backup") as scratch:
        existing = target.indexes()
        before = target.index(existing[-1]).files if existing else {}
        files: dict[str, BackedUpFile] = {}
        copied_files = copied_bytes = 0
        state_copy = _copy_state(lake.state, home, scratch)
        head = AuditLog(_state_at(state_copy, lake.state)).head()
        for path, source in _sources(home, lake, scratch, state_copy):
            status = source.stat()
            known = before.get(path)
            copied = source.is_relative_to(scratch)
            unchanged = known is not None and (known.size_bytes, known.modified_ns) == (
                status.st_size,
                status.st_mtime_ns,
            )
            if known is not None and unchanged and not copied and target.has_object(known.sha256, known.size_bytes):
                files[path] = known
                continue
            digest, size = target.put_object(source)
            files[path] = BackedUpFile(
                sha256=digest, size_bytes=size, modified_ns=status.st_mtime_ns, mode=status.st_mode & 0o777
            )
            if known is None or known.sha256 != digest:
                copied_files, copied_bytes = copied_files + 1, copied_bytes + size
        index = BackupIndex(
            id=_next_id(now, existing[-1] if existing else None),
            home_version=stored_version(home) or HOME_VERSION,
            audit_sequence=head.sequence,
            audit_digest=head.digest,
            files=files,
        )
        target.put_index(index)
        if keep is not None:
            target.remove(target.indexes()[:-keep])
    return BackupReport(index.id, len(files), index.size_bytes, copied_files, copied_bytes, time.monotonic() - start)


def restore(target: BackupTarget, home: Home, backup: str | None = None) -> RestoreReport:
    """Restore a backup (None: the latest) into the folder of ``home``, which must be absent or empty.

    Every file is verified by its digest. The folder gets its name last, so a killed restore is not mistaken for a home;
    a repeated one continues. Raises :class:`BackupError` when the folder is in use or the backup is incomplete.
    """
    start = time.monotonic()
    index = target.index(backup)
    if index.home_version > HOME_VERSION:
        raise BackupError(
            f"Backup {index.id}",
            expected=f"a home of version {HOME_VERSION} or earlier",
            found=f"version {index.home_version}, written by a later release",
            fix="Upgrade ml-platform, or name an earlier backup.",
        )
    if home.root.exists() and any(home.root.iterdir()):
        raise BackupError(
            f"Platform home {home.root}",
            expected="no folder, or an empty one",
            found="a home with content",
            fix="Set ML_PLATFORM_HOME to a new folder, or move the old home away.",
        )
    staged = home.root.with_name(f".{home.root.name}.restoring-{index.id}")
    for path, file in index.files.items():
        place = staged / path
        if not _is_restored(place, file):
            target.get_object(file, place)
    staged.chmod(0o700)
    dump = staged / STATE_DUMP
    if home.root.exists():
        home.root.rmdir()
    staged.replace(home.root)
    lake = open_lake(home) if not dump.exists() else _load_dump(home)
    for table in lake.catalog.tables():
        lake.republish(table)
    return RestoreReport(index.id, len(index.files), index.size_bytes, time.monotonic() - start)


def _next_id(now: datetime, last: str | None) -> str:
    """Return the id of a backup at ``now``, after ``last`` also when the clock went back: ids give the order."""
    made = f"{now.astimezone(UTC):{ID_FORMAT}}"
    if last is None or made > last:
        return made
    return f"{datetime.strptime(last, ID_FORMAT) + timedelta(microseconds=1):{ID_FORMAT}}"


def _load_dump(home: Home) -> Lake:
    from resources.state import open_state

    load_state(open_state(home), home.root / STATE_DUMP)
    (home.root / STATE_DUMP).unlink()
    return open_lake(home)


def _is_restored(place: Path, file: BackedUpFile) -> bool:
    try:
        status = place.stat()
    except FileNotFoundError:
        return False
    return (status.st_size, status.st_mtime_ns) == (file.size_bytes, file.modified_ns)


def _copy_state(state: StateStore, home: Home, scratch: Path) -> Path:
    """Return a copy of the state store: a SQLite file, or a portable dump of a Postgres store."""
    if state.path is None:
        dump = scratch / STATE_DUMP
        dump_state(state, dump)
        return dump
    copy = scratch / home.state.name
    _copy_sqlite(state.path, copy)
    return copy


def _state_at(copy: Path, state: StateStore) -> StateStore:
    return StateStore(path=copy, locks=copy.parent) if state.path is not None else state


def _sources(home: Home, lake: Lake, scratch: Path, state_copy: Path) -> Iterator[tuple[str, Path]]:
    """Yield path in the home and file to copy, for every file that a restore needs."""
    yield state_copy.name, state_copy
    if lake.files.local is not None:
        for table in lake.catalog.tables():
            for path in sorted(lake.catalog.known_files(table)):
                source = lake.files.local / table / path
                if source.exists():
                    yield source.relative_to(home.root).as_posix(), source
    for source in _regular_files(home):
        path = source.relative_to(home.root).as_posix()
        if _is_sqlite(source):
            copy = scratch / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            _copy_sqlite(source, copy)
            yield path, copy
        else:
            yield path, source


def _regular_files(home: Home) -> Iterator[Path]:
    for folder, names, files in os.walk(home.root):
        here = Path(folder)
        if here == home.root:
            # The catalog lists the files of the lake.
            names[:] = [name for name in names if name not in LEFT_OUT and name != home.lake.name]
        # Bytecode names the place where it was compiled, and a service compiles its own.
        names[:] = sorted(name for name in names if not name.startswith(f".{PREFIX}") and name != BYTECODE)
        for name in sorted(files):
            if here == home.root and name == home.state.name:
                continue
            # Counts belong to a running service; a copy of them would be counted as those of a killed one.
            if name.endswith((".lock", COUNTS_SUFFIX, *SQLITE_COMPANIONS)) or name.startswith("."):
                continue
            path = here / name
            if path == SigningKeys(home.signing_keys).private:
                continue  # a restored home makes a key of its own, and trusts this one's public key
            if path.is_file() and not path.is_symlink():
                yield path


def _is_sqlite(path: Path) -> bool:
    if path.suffix != ".db":
        return False
    with path.open("rb") as file:
        return file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC


def _copy_sqlite(source: Path, copy: Path) -> None:
    """Copy a database that may be in use, by SQLite's online backup."""
    with closing(sqlite3.connect(source, timeout=60)) as opened, closing(sqlite3.connect(copy)) as target:
        opened.backup(target)
    # The copy has the time of the original, so that an unchanged database is recognised.
    status = source.stat()
    os.utime(copy, ns=(status.st_mtime_ns, status.st_mtime_ns))
    copy.chmod(0o600)
