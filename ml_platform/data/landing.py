"""The landing zone: files as they arrived from outside, one per partition, never changed in place.

Loaders read landed files and nothing else. How a file arrives (an export, a transfer, a copy) does not matter to them.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ml_platform.data import atomic
from ml_platform.errors import PlatformError, did_you_mean, listed

WHOLE = "whole"
"""File name of a dataset without partitions, in place of the partition."""


class LandingError(PlatformError):
    """Raised when a requested file has not landed, or has landed twice."""


@dataclass(frozen=True)
class LandedFile:
    """One file from outside; ``partition`` is None for a dataset without partitions."""

    path: Path
    dataset: str
    partition: str | None
    sha256: str
    size_bytes: int


class Landing:
    """Files under ``root/<dataset>/<partition>.<suffix>``. The constructor does not touch the disk."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def land(self, dataset: str, partition: str | None, source: Path, suffix: str) -> LandedFile:
        """Copy ``source`` to the landing zone as the file of ``partition`` and return it; equal bytes change nothing.

        ``suffix`` is for example ``csv.gz``. A file of the same partition with another suffix is replaced.
        """
        return self.land_bytes(dataset, partition, source.read_bytes(), suffix)

    def land_bytes(self, dataset: str, partition: str | None, data: bytes, suffix: str) -> LandedFile:
        """Write ``data`` as the file of ``partition`` and return it; equal bytes change nothing."""
        path = self.root / dataset / f"{partition or WHOLE}.{suffix.lstrip('.')}"
        digest = hashlib.sha256(data).hexdigest()
        if not path.exists() or _sha256(path) != digest:
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
                expected=f"a file {self.root / dataset / (partition or WHOLE)}.*",
                found=f"{len(landed)} other partitions: {listed(landed)}"
                if landed
                else f"nothing landed for this dataset.{did_you_mean(dataset, self.datasets())}".rstrip("."),
                fix="Land the file first: `ml-platform land <domain> --through <month>`.",
            )
        if len(files) > 1:
            raise LandingError(
                subject,
                expected="one file",
                found=listed(file.name for file in files),
                fix="Delete the outdated files.",
            )
        path = files[0]
        return LandedFile(path, dataset, partition, _sha256(path), path.stat().st_size)

    def landed(self, dataset: str) -> list[LandedFile]:
        """Return all landed files of ``dataset``, sorted by partition; empty if nothing has landed."""
        names = sorted({_stem(file) for file in self._all(dataset)})
        return [self.find(dataset, None if name == WHOLE else name) for name in names]

    def partitions(self, dataset: str) -> list[str]:
        """Return the partitions that have landed, sorted; empty for a dataset without partitions."""
        return sorted({name for file in self._all(dataset) if (name := _stem(file)) != WHOLE})

    def datasets(self) -> list[str]:
        """Return the datasets that have at least one landed file, sorted."""
        if not self.root.exists():
            return []
        return sorted(folder.name for folder in self.root.iterdir() if folder.name[0] != "." and self._all(folder.name))

    def _files(self, dataset: str, partition: str | None) -> list[Path]:
        return [file for file in self._all(dataset) if _stem(file) == (partition or WHOLE)]

    def _all(self, dataset: str) -> list[Path]:
        folder = self.root / dataset
        # A name that starts with a dot belongs to a file that is still being written.
        return sorted(file for file in folder.glob("*") if file.is_file() and not file.name.startswith("."))


def _stem(path: Path) -> str:
    return path.name.split(".", 1)[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
