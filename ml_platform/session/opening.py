"""Opens a home for reads alone: nothing in it is created, migrated or delivered."""

import os
from pathlib import Path

from ml_platform.errors import PlatformError
from ml_platform.state.read_only import ReadOnlyStateStore
from resources.home import DEFAULT_HOME, HOME_VARIABLE, Home


class SessionError(PlatformError):
    """Raised when a home cannot be read as it is, or has nothing of the given name."""


def readable_home(home: Path | str | None) -> Home:
    """Return the home in the folder ``home``; None: ``$ML_PLATFORM_HOME``, or ``.ml_platform`` here.

    Raises :class:`SessionError` when the folder has no home, or one of an earlier release; and
    :class:`~resources.home_version.HomeVersionError` for one of a later release.
    """
    from resources.home_version import HOME_VERSION, stored_version

    found = Home(Path(home or os.environ.get(HOME_VARIABLE, DEFAULT_HOME)).resolve())
    version = stored_version(found)
    if version is None:
        raise SessionError(
            f"Platform home {found.root}",
            expected="a home with data",
            found="an empty folder" if found.root.is_dir() else "no such folder",
            fix=f"Give the folder to open(), or set {HOME_VARIABLE}; `ml-platform demo` makes a first home.",
        )
    if version != HOME_VERSION:
        raise _earlier(found, f"version {version}", f"version {HOME_VERSION}")
    return found


def readable_state(home: Home) -> ReadOnlyStateStore:
    """Return the state store of ``home``: its SQLite file, or the Postgres database of ``$ML_PLATFORM_STATE``.

    Raises :class:`SessionError` when its schema is of an earlier release, and the errors of the store.
    """
    from ml_platform.state.migrate import HEAD, schema_revision
    from resources.state_location import state_location

    location = state_location(home)
    url = "://" in location
    state = ReadOnlyStateStore(url=location) if url else ReadOnlyStateStore(path=Path(location))
    revision = schema_revision(state)
    if revision is not None and revision < HEAD:
        raise _earlier(home, f"a state store of revision {revision}", f"revision {HEAD}")
    if revision != HEAD:
        from ml_platform.state.migrate import require_current_schema

        require_current_schema(state)
    return state


def _earlier(home: Home, found: str, expected: str) -> SessionError:
    return SessionError(
        f"Platform home {home.root}",
        expected=expected,
        found=f"{found}, written by an earlier release",
        fix="Run `ml-platform upgrade` once: a session that only reads does not migrate.",
    )
