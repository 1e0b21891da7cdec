"""Landing what a source has: each read becomes an immutable file with its fingerprint, before anything else uses it.

The landing zone has the latest read of each partition in the place of a landed file. The folder ``reads`` keeps it and
the reads before it, so that a result can be made again after the source changed.
"""

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import polars as pl

from ml_platform.data import atomic
from ml_platform.data.landing import LandedFile, Landing
from ml_platform.data.partitions import WHOLE, file_stem
from ml_platform.data.sources.source import Slice, Source, SourceChangedError, SourceEmptyError

READS = "reads"
"""Folder below that of a dataset with the files of all kept reads, by partition."""

READS_KEPT = 10
"""Number of latest reads of a partition that are kept."""

ATTEMPTS = 3
"""Number of attempts to read a source that changes meanwhile."""

FINGERPRINT = "source_fingerprint"
"""Key of the fingerprint in the metadata of a landed Parquet file."""


def land_read(
    source: Source, dataset: str, part: Slice, landing: Landing, columns: Mapping[str, pl.DataType]
) -> LandedFile:
    """Read ``part`` of ``source``, land it as the Parquet file of its partition, and return the file.

    A read counts only when the fingerprint before and after it is the same. Raises :class:`SourceChangedError` when it
    differs at each of three attempts, :class:`SourceEmptyError` when the source has nothing for ``part``, and the
    errors of the source. Nothing is landed then.
    """
    for _ in range(ATTEMPTS):
        fingerprint = source.fingerprint(part)
        if fingerprint is None:
            raise SourceEmptyError(
                f"Dataset '{dataset}', {part}",
                expected=f"rows in {source.describe()}",
                found="none",
                fix="Wait until the source has them, or correct the declared source.",
            )
        rows = source.read(part, columns)
        if source.fingerprint(part) == fingerprint:
            return _landed(rows, fingerprint, dataset, part, landing)
    raise SourceChangedError(
        f"Dataset '{dataset}', {part}",
        expected=f"no change of {source.describe()} during one of {ATTEMPTS} reads",
        found="another fingerprint after each read",
        fix="Read it when nothing writes there, or give the source an end before the rows that still change.",
    )


def read_landed(path: Path) -> pl.DataFrame:
    """Return the rows of a landed read: the loader of a dataset that declares a source and no loader."""
    return pl.read_parquet(path)


def _landed(rows: pl.DataFrame, fingerprint: str, dataset: str, part: Slice, landing: Landing) -> LandedFile:
    buffer = io.BytesIO()
    rows.write_parquet(buffer, metadata={FINGERPRINT: fingerprint})
    data = buffer.getvalue()
    landed = landing.land_bytes(dataset, part.partition, data, "parquet")
    _keep(data, landed.sha256, landing.root / dataset / READS / file_stem(part.partition or WHOLE))
    return replace(landed, fingerprint=fingerprint)


def _keep(data: bytes, digest: str, folder: Path) -> None:
    """Keep ``data`` in ``folder`` under its digest, and the latest :data:`READS_KEPT` files only."""
    path = folder / f"{digest}.parquet"
    if not path.exists():
        atomic.write_bytes(path, data)
    path.touch()
    kept = sorted(folder.glob("*.parquet"), key=lambda each: each.stat().st_mtime_ns, reverse=True)
    for outdated in kept[READS_KEPT:]:
        outdated.unlink(missing_ok=True)
