"""Open the online store at an address: a folder of snapshot files, or a Valkey or Redis server.

Three processes must open the same store: the run that publishes, the smoke test of a bento, and the service.
"""

from pathlib import Path

from ml_platform.errors import PlatformError, listed
from ml_platform.features.online_store import OnlineStore
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.features.valkey_store import ValkeyStore

SCHEMES = ("redis", "rediss", "valkey", "valkeys")


class OnlineAddressError(PlatformError):
    """Raised for an address that belongs to no kind of online store."""


def open_store(location: str) -> OnlineStore:
    """Return the store at ``location``: a folder, or the address of a server (the store connects on first use).

    Raises :class:`OnlineAddressError` for an address with another scheme, or an empty one.

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
            fix="Correct ML_PLATFORM_ONLINE, or the resource online_store.",
        )
    return SnapshotStore(Path(location))
