"""Keeps the versions of an asset's many partitions in a file, so that a plan reads only newer events of Dagster's log.

The file is a copy. Each use compares it with the event log, and reads all from the log when it is lost or differs.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

import dagster as dg
import polars as pl

from ml_platform.data.atomic import write_bytes

CACHED_FROM = 5_000
"""Fewest partitions of a cached asset; fewer are read from the event log in milliseconds."""

ASSETS_CACHED = 200
"""Most files of the cache; the one that was written longest ago is deleted first."""

_COLUMNS = {"partition": pl.String, "storage_id": pl.Int64, "code_version": pl.String, "run_id": pl.String}


@dataclass(frozen=True)
class SeenEvents:
    """The materializations of an asset in the event log up to the one with the id ``last``.

    ``count`` is their number, earlier ones of a partition included. ``at`` (ISO 8601) and ``run_id`` are those of the
    last, because SQLite gives an id again once the last events were deleted. ``wiped_at`` is POSIX time in seconds.

    Ids grow, and none below ``last`` is given again as long as ``last`` is there. So if that event is the same and the
    number is the same, all are the same.
    """

    asset: str
    last: int
    at: str
    run_id: str
    count: int
    wiped_at: float | None


class VersionCache:
    """The files of the cache in ``folder``, one for each asset; the newest of them are kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, key: dg.AssetKey) -> tuple[SeenEvents, pl.DataFrame] | None:
        """Return what was written for ``key``; None without a file, or with one that is not as it was written."""
        try:
            header, body = self._path(key).read_bytes().split(b"\n", 1)
            stored = json.loads(header)
            if stored.pop("sha256") != hashlib.sha256(body).hexdigest():
                return None
            seen = SeenEvents(**stored)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        return (seen, pl.read_ipc(BytesIO(body))) if seen.asset == key.to_string() else None

    def write(self, key: dg.AssetKey, seen: SeenEvents, versions: pl.DataFrame) -> None:
        """Replace the file of ``key``, and delete the oldest file if there are too many; both are atomic."""
        buffer = BytesIO()
        versions.write_ipc(buffer, compression="lz4")
        body = buffer.getvalue()
        header = {**asdict(seen), "sha256": hashlib.sha256(body).hexdigest()}
        write_bytes(self._path(key), json.dumps(header).encode() + b"\n" + body)
        files = [(path.stat().st_mtime_ns, path) for path in self.folder.glob("*.ipc")]
        for _, path in sorted(files)[:-ASSETS_CACHED]:
            path.unlink(missing_ok=True)

    def _path(self, key: dg.AssetKey) -> Path:
        return self.folder / f"{hashlib.sha256(key.to_string().encode()).hexdigest()[:32]}.ipc"


def version_table(
    partitions: list[str | None], ids: list[int], code_versions: list[str | None], run_ids: list[str]
) -> pl.DataFrame:
    """Return the table of the cache: one row per partition."""
    return pl.DataFrame(
        {"partition": partitions, "storage_id": ids, "code_version": code_versions, "run_id": run_ids}, schema=_COLUMNS
    )
