"""Which online store an address means: a folder of snapshot files, or a Valkey or Redis server.

Apart because three processes must mean the same one: what publishes, what verifies a bento, and what serves it.
"""

from pathlib import Path

from ml_platform.errors import PlatformError, listed
from ml_platform.features.online_store import OnlineStore
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.features.valkey_store import ValkeyStore

SCHEMES = ("redis", "rediss", "valkey", "valkeys")


class OnlineAddressError(PlatformError):
    """Raised for an address that no online store answers to."""


def open_store(location: str) -> OnlineStore:
    """Return the store at ``location``: a folder, or the address of a server, which is connected to on first use.

    Raises :class:`OnlineAddressError` for an address of another kind, or none.

    >>> open_store("redis://127.0.0.1:6379/0").location
    'redis://127.0.0.1:6379/0'
    """
    scheme, separator, _ = location.partition("://")
    if separator and scheme in SCHEMES:
        return ValkeyStore(location)
    if separator or not location:
        raise OnlineAddressError(
            "Online store",
            expected=f"a folder, or an address that begins with {listed([f'{each}://' for each in SCHEMES])}",
            found=f"'{location}'",
            fix="Mend ML_PLATFORM_ONLINE, or the resource online_store.",
        )
    return SnapshotStore(Path(location))
