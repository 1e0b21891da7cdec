"""Where the state store of a home is: a SQLite file in the home, or a Postgres database."""

from functools import lru_cache
from pathlib import Path

from ml_platform.state.store import StateStore
from resources.home import Home
from resources.profile import locations

STORES_REMEMBERED = 16
"""Number of stores that one process keeps open."""


def state_location(home: Home) -> str:
    """Return the address of the state store of ``home``, or the path of its SQLite file; raises as ``locations``."""
    return locations(home).state


@lru_cache(maxsize=STORES_REMEMBERED)
def state_at(location: str) -> StateStore:
    """Return the store at ``location``, a path or an address; each process opens a location once."""
    return StateStore(url=location) if "://" in location else StateStore(path=Path(location))
