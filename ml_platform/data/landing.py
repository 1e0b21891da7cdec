"""The landing zone: files as they arrived from outside, one per partition, never changed in place.

Loaders read landed files and nothing else. How a file arrives (an export, a transfer, a copy) does not matter to them.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ml_platform.data import atomic
from ml_platform.data.canonical import file_digest
from ml_platform.data.partitions import WHOLE, file_stem, partition_of_stem
from ml_platform.errors import PlatformError, did_you_mean, listed

IGNORED_SUFFIXES = frozenset(
    {
        # unfinished transfers
        *("part", "partial", "tmp", "temp", "crdownload", "filepart", "download", "swp", "lock", "bak"),
        # files about files
        *("md5", "sha1", "sha256", "sha512", "crc", "asc", "sig", "sum", "ok", "done", "success", "ready"),
    }
)
"""Last suffixes of files that are not data: unfinished transfers, and checksums and markers beside data."""


class LandingError(PlatformError):
    """Raised when a requested file has not landed, or has landed twice."""


@dataclass(frozen=True)
class LandedFile:
    """One file from outside; ``partition`` is None for a dataset without partitions.

    ``fingerprint`` is that of the source that was read; None for a file that another system placed.
    """

    path: Path
    dataset: str
    partition: str | None
    sha256: str
    size_bytes: int
    fingerprint: str | None = None


@dataclass(frozen=True)
class LandingListing:
    """The files of one dataset: ``files`` by partition (``whole`` without partitions), and names of stray files.

    A stray file is not data of a declared partition. Loading ignores it, and the sensor names it.
    """

    files: dict[str, list[os.DirEntry[str]]]
    strays: list[str]


class Landing:
    """Files under ``root/<dataset>/<partition>.<suffix>``. The constructor does not touch the disk.

    The file name of an hour has ``_`` in place of the colon, like ``2013-06-01-09_00.csv``; a colon is read too.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def land(self, dataset: str, partition: str | None, source: Path, suffix: str) -> LandedFile:
        """Copy ``source`` to the landing zone as the file of ``partition`` and return it; equal bytes change nothing.

        ``suffix`` is for example ``csv.gz``. A file of the same partition with another suffix is replaced.
        """
        return self.land_bytes(dataset, partition, source.read_bytes(), suffix)

    def land_bytes(self, dataset: str, partition: str | None, data: bytes, suffix: str) -> LandedFile:
        """Write ``data`` as the file of ``partition`` and return it; equal bytes change nothing."""
        path = self.root / dataset / f"{file_stem(partition or WHOLE)}.{suffix.lstrip('.')}"
        digest = hashlib.sha256(data).hexdigest()
        if not path.exists() or file_digest(path) != digest:
            atomic.write_bytes(path, data)
        for other in self._files(dataset, partition):
            if other != path:
                other.unlink()
        return LandedFile(path, dataset, partition, digest, len(data))

    def find(self, dataset: str, partition: str | None) -> LandedFile:
        """Return the landed file. Raises :class:`LandingError` when there is none, or more than one."""
        files = self._files(dataset, partition)
        subject = f"Dataset '{dataset}', " + (f"partition {partition}" if partition else "whole file")
        if not files:
            landed = self.partitions(dataset)
            raise LandingError(
                subject,
                expected=f"a file {self.root / dataset / file_stem(partition or WHOLE)}.*",
                found=f"{len(landed)} other partitions: {listed(landed)}"
                if landed
                else f"nothing landed for this dataset.{did_you_mean(dataset, self.datasets())}".rstrip("."),
                fix="Land the file first: `ml-platform land <domain> --through <partition>`.",
            )
        if len(files) > 1:
            raise LandingError(
                subject,
                expected="one file",
                found=listed(file.name for file in files),
                fix="Delete the outdated files.",
            )
        path = files[0]
        return LandedFile(path, dataset, partition, file_digest(path), path.stat().st_size)

    def listing(self, dataset: str, is_partition: Callable[[str], bool]) -> LandingListing:
        """Return the files of ``dataset`` by partition, and the strays, from one pass over its folder.

        ``is_partition`` tells whether the part of a name before its first dot names a declared partition; for a dataset
        without partitions, only ``whole`` does. Names with a leading dot are unfinished writes and are left out.
        """
        files: dict[str, list[os.DirEntry[str]]] = {}
        strays: list[str] = []
        for entry in self._entries(dataset):
            partition = partition_of_file(entry.name, is_partition)
            if partition is not None:
                files.setdefault(partition, []).append(entry)
            else:
                strays.append(entry.name)
        return LandingListing(files, sorted(strays))

    def entries(self, dataset: str) -> dict[str, "os.DirEntry[str]"]:
        """Return what is in the folder of ``dataset`` by name, without unfinished writes and without looking at it."""
        try:
            with os.scandir(self.root / dataset) as found:
                return {entry.name: entry for entry in found if entry.name[0] != "."}
        except FileNotFoundError:
            return {}

    def latest_partition(self, dataset: str, is_partition: Callable[[str], bool]) -> str | None:
        """Return the latest landed partition of time that ``is_partition`` accepts, or None.

        Keys of time are in order as text, so only the latest names are looked at.
        """
        for stem, name in sorted(((_stem(name), name) for name in self.entries(dataset)), reverse=True):
            if _is_data(name) and is_partition(partition_of_stem(stem)):
                return partition_of_stem(stem)
        return None

    def partitions(self, dataset: str) -> list[str]:
        """Return the partitions that have landed, sorted; empty for a dataset without partitions."""
        names = {partition_of_stem(_stem(entry.name)) for entry in self._entries(dataset) if _is_data(entry.name)}
        return sorted(names - {WHOLE})

    def datasets(self) -> list[str]:
        """Return the datasets that have at least one landed file, sorted."""
        if not self.root.exists():
            return []
        folders = [folder.name for folder in self.root.iterdir() if folder.is_dir() and folder.name[0] != "."]
        return sorted(name for name in folders if self._entries(name))

    def _files(self, dataset: str, partition: str | None) -> list[Path]:
        wanted = partition or WHOLE
        return sorted(
            Path(entry.path)
            for entry in self._entries(dataset)
            if partition_of_stem(_stem(entry.name)) == wanted and _is_data(entry.name)
        )

    def _entries(self, dataset: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.root / dataset) as entries:
                # A name that starts with a dot belongs to a file that is still being written.
                return [entry for entry in entries if not entry.name.startswith(".") and entry.is_file()]
        except FileNotFoundError:
            return []


def partition_of_file(name: str, is_partition: Callable[[str], bool]) -> str | None:
    """Return the partition of the file ``name`` if it is data of one that ``is_partition`` accepts, else None."""
    partition = partition_of_stem(_stem(name))
    return partition if is_partition(partition) and _is_data(name) else None


def _stem(name: str) -> str:
    return name.split(".", 1)[0]


def _is_data(name: str) -> bool:
    return name.rpartition(".")[2].lower() not in IGNORED_SUFFIXES
