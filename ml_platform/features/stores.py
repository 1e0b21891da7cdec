"""Open the online store at an address: a folder of snapshot files, one with history, or a Valkey or Redis server.

Three processes must open the same store: the run that publishes, the smoke test of a bento, and the service.
"""

import os
from pathlib import Path

from ml_platform.errors import PlatformError, listed
from ml_platform.features.history_store import SCHEME as HISTORY_SCHEME
from ml_platform.features.history_store import HistoryStore
from ml_platform.features.online_store import OnlineStore
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.features.valkey_store import ValkeyStore

SCHEMES = ("redis", "rediss", "valkey", "valkeys")


class OnlineAddressError(PlatformError):
    """Raised for an address that belongs to no kind of online store."""


def open_store(location: str) -> OnlineStore:
    """Return the store at ``location``: a folder, or the address of a server (the store connects on first use).

    ``history://`` before the absolute path of a folder is the store that answers as of the prediction time. A `$`
    before the name of an environment variable stands for its value, so that a file needs no password.

    Raises :class:`OnlineAddressError` for an address with another scheme, or an empty one.

    >>> open_store("redis://127.0.0.1:6379/0").location
    'redis://127.0.0.1:6379/0'
    """
    if location.startswith("$"):
        location = os.environ[location.removeprefix("$")]
    scheme, separator, rest = location.partition("://")
    if separator and scheme in SCHEMES:
        return ValkeyStore(location)
    if separator and scheme == HISTORY_SCHEME and rest:
        return HistoryStore(Path(rest))
    if separator or not location:
        known = [*SCHEMES, HISTORY_SCHEME]
        raise OnlineAddressError(
            "Online store",
            expected=f"a folder, or an address that begins with {listed([f'{each}://' for each in known])}",
            found=f"'{location}'",
            fix="Correct ML_PLATFORM_ONLINE, or the resource online_store.",
        )
    return SnapshotStore(Path(location))
