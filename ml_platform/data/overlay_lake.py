"""A lake in a temporary folder over another one: new tables go to the folder, and all others are read from below."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from ml_platform.data.lake import STANDALONE_FOLDER, Lake
from ml_platform.state.store import StateStore


class OverlayLake(Lake):
    """The tables that were written to the folder ``root``, and beside them those of ``base``, which is only read."""

    def __init__(self, root: Path, base: Lake) -> None:
        super().__init__(str(root), StateStore.in_folder(root / STANDALONE_FOLDER))
        self.base = base

    def scan(self, table: str, version: int | None = None, partitions: Sequence[str] | None = None) -> pl.LazyFrame:
        """Return ``table`` from the folder if it has it, else from below; see :meth:`Lake.scan`."""
        return (
            super().scan(table, version, partitions) if self._has(table) else self.base.scan(table, version, partitions)
        )

    def exists(self, table: str) -> bool:
        """Return whether ``table`` has at least one version, here or below."""
        return self._has(table) or self.base.exists(table)

    def version(self, table: str) -> int | None:
        """Return the latest version of ``table``, or None if it does not exist."""
        return super().version(table) if self._has(table) else self.base.version(table)

    def partitions(self, table: str, version: int | None = None) -> list[str]:
        """Return the partitions of ``table``; see :meth:`Lake.partitions`."""
        return super().partitions(table, version) if self._has(table) else self.base.partitions(table, version)

    def digests(self, table: str, partitions: Sequence[str] | None = None) -> dict[str | None, str]:
        """Return the content digest of each partition; see :meth:`Lake.digests`."""
        return super().digests(table, partitions) if self._has(table) else self.base.digests(table, partitions)

    def _has(self, table: str) -> bool:
        return self.catalog.table(table) is not None
