"""Opens the lake of a home without Dagster, for the command line and for steps."""

from ml_platform.data.lake import Lake
from resources.home import Home
from resources.state import open_state


def open_lake(home: Home) -> Lake:
    """Return the lake of ``home``, with the catalog in its state store."""
    return Lake(str(home.lake), open_state(home))
