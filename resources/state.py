"""Opens the state store of a home."""

from ml_platform.state.store import StateStore
from resources.home import Home
from resources.home_version import prepare_home
from resources.state_location import state_at, state_location


def open_state(home: Home) -> StateStore:
    """Return the state store of ``home``. A home that is new or of an earlier release is prepared first.

    Raises :class:`~ml_platform.state.store.StateStoreError` when the database was deleted,
    :class:`~ml_platform.state.migrate.StateVersionError` when its schema is not that of this code, and
    :class:`~resources.home_version.HomeVersionError` when the home cannot be migrated.
    """
    prepare_home(home)
    return state_at(state_location(home))
