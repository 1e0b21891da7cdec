"""Creates the state store and migrates its schema with Alembic; a store of a later release is refused."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import sqlalchemy as sa

from ml_platform.errors import PlatformError
from ml_platform.state.sqlite_file import StateStoreError, connect_sqlite

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).parent / "migrations"
HEAD = "0008"
"""Revision of the schema that this code reads and writes; a test compares it with the migrations."""

VERSION_TABLE = "alembic_version"


class Store(Protocol):
    """The part of a state store that a migration uses."""

    path: Path | None

    @property
    def location(self) -> str: ...

    def read(self) -> contextlib.AbstractContextManager[sa.Connection]: ...

    def write(self) -> contextlib.AbstractContextManager[sa.Connection]: ...

    def lock(self, name: str) -> contextlib.AbstractContextManager[None]: ...


class StateVersionError(PlatformError):
    """Raised when a later release wrote the store."""


def schema_revision(store: Store) -> str | None:
    """Return the revision of the store's schema, or None when the store does not exist yet; nothing is created."""
    if store.path is not None and not store.path.exists():
        return None
    with store.read() as connection:
        if not sa.inspect(connection).has_table(VERSION_TABLE):
            return None
        revision = connection.scalar(sa.text(f"SELECT version_num FROM {VERSION_TABLE}"))
        return None if revision is None else str(revision)


def require_current_schema(store: Store) -> None:
    """Raise :class:`StateVersionError` unless the store has the schema of this release."""
    revision = schema_revision(store)
    if revision != HEAD:
        raise _version_error(store, revision)


def migrate(store: Store) -> list[str]:
    """Create the store or migrate it to :data:`HEAD`, in one transaction; return the applied revisions."""
    revision = schema_revision(store)
    if revision == HEAD:
        return []
    from alembic import command
    from alembic.script import ScriptDirectory

    with store.lock("migration") if store.path is not None else contextlib.nullcontext():
        if store.path is not None and not store.path.exists():
            _create_sqlite(store)
        revision = schema_revision(store)
        config = _config()
        scripts = ScriptDirectory.from_config(config)
        known = [script.revision for script in reversed(list(scripts.walk_revisions()))]
        if revision is not None and revision not in known:
            raise _version_error(store, revision)
        pending = known if revision is None else known[known.index(revision) + 1 :]
        if pending:
            with store.write() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        return pending


def _config() -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _create_sqlite(store: Store) -> None:
    assert store.path is not None
    store.path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(connect_sqlite(store.path, mode="rwc")) as connection:
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        store.path.unlink()
        raise StateStoreError(
            f"State store {store.location}",
            expected="a file system with locks and shared memory",
            found=f"journal mode '{mode}' in place of 'wal'",
            fix="Set ML_PLATFORM_HOME to a local disk, or use a Postgres store.",
        )
    store.path.chmod(0o600)


def _version_error(store: Store, revision: str | None) -> StateVersionError:
    return StateVersionError(
        f"State store {store.location}",
        expected=f"schema revision {HEAD} or earlier",
        found=f"revision {revision}, written by a later release" if revision else "no schema",
        fix="Upgrade ml-platform, or set ML_PLATFORM_HOME to another folder."
        if revision
        else "Run `ml-platform upgrade`.",
    )
