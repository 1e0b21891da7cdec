"""Opens the lake of a home without Dagster, for the command line and for steps."""

from ml_platform.data.lake import Lake
from ml_platform.state.store import StateStore
from resources.home import Home
from resources.profile import locations
from resources.state import open_state


def open_lake(home: Home, state: StateStore | None = None) -> Lake:
    """Return the lake of ``home`` under the active profile, with the catalog in ``state``, or in its state store."""
    found = locations(home)
    return Lake(found.lake, state or open_state(home), found.lake_options or None)
