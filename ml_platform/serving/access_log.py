"""Rotates the access log of the gateway while Envoy writes it.

The file is renamed, and Envoy opens a new one on request (`POST /reopen_logs` on its admin page). So no line is lost or
cut, as it would be by copying and truncating the file.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from ml_platform.data.leftovers import Leftover, old_files
from ml_platform.serving.gateway import ACCESS_LOG_FILE
from ml_platform.serving.gateway_admin import query_gateway

ACCESS_LOGS = "access logs of the gateway"
MAX_BYTES = 64 * 2**20
"""Size from which the access log is rotated."""

ADMIN_SECONDS = 5.0


def access_logs(folder: Path, limit: datetime | None, now: datetime, max_bytes: int = MAX_BYTES) -> Iterator[Leftover]:
    """Yield the access log in ``folder`` if it must be rotated, and rotated ones unchanged since ``limit``."""
    log = folder / ACCESS_LOG_FILE
    if log.exists() and log.stat().st_size >= max_bytes:
        yield Leftover(ACCESS_LOGS, [f"{log.name} (rotated)"], 0, None, _rotation(folder, now))
    rotated = f"{log.stem}-*{log.suffix}"
    yield from old_files(ACCESS_LOGS, folder, limit, rotated)


def rotate(folder: Path, now: datetime) -> Path:
    """Rename the access log in ``folder``, let a running Envoy open a new one, and return the new name.

    An Envoy that cannot be reached writes to the renamed file until its next start, so no line is lost.
    """
    log = folder / ACCESS_LOG_FILE
    rotated = log.with_name(f"{log.stem}-{now.astimezone(UTC):%Y%m%dT%H%M%S%fZ}{log.suffix}")
    log.rename(rotated)
    # Envoy would create the file readable for all.
    log.touch(mode=0o600)
    # When no gateway runs, its next start opens the new file.
    with suppress(OSError):
        query_gateway(folder, "/reopen_logs", seconds=ADMIN_SECONDS, method="POST")
    return rotated


def _rotation(folder: Path, now: datetime) -> Callable[[], None]:
    def remove() -> None:
        rotate(folder, now)

    return remove
