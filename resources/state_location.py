"""Where the state store of a home is: a SQLite file in the home, or the Postgres database of ``ML_PLATFORM_STATE``."""

import os
from functools import lru_cache
from pathlib import Path

from ml_platform.state.store import StateStore
from resources.home import Home

STATE_VARIABLE = "ML_PLATFORM_STATE"
"""Environment variable with the address of a Postgres store, such as ``postgresql+psycopg://host/state``."""

STORES_REMEMBERED = 16
"""Number of stores that one process keeps open."""


def state_location(home: Home) -> str:
    """Return the address of the state store of ``home``, or the path of its SQLite file."""
    return os.environ.get(STATE_VARIABLE) or str(home.state)


@lru_cache(maxsize=STORES_REMEMBERED)
def state_at(location: str) -> StateStore:
    """Return the store at ``location``, a path or an address; each process opens a location once."""
    return StateStore(url=location) if "://" in location else StateStore(path=Path(location))
