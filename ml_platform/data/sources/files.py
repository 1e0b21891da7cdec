"""Files in folders as a source: one or many per partition, named by a pattern."""

import glob
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import Field, field_validator

from ml_platform.data.canonical import value_digest
from ml_platform.data.sources.source import Slice, SourceAwayError, require_partition_bounds
from ml_platform.data.sources.tabular_files import FileFormat


class FilesSource(FileFormat):
    """Files that another system writes to a folder, read where they are."""

    type: Literal["files"] = Field(description="Kind of the source.")
    path: str = Field(
        description="Path or glob, like /exports/orders/{partition}/*.csv or {start:%Y/%m}/**/*.parquet; a folder "
        "means all its files. $NAME is an environment variable."
    )

    @field_validator("path")
    @classmethod
    def _has_known_names(cls, value: str) -> str:
        return checked_pattern(value)

    def describe(self) -> str:
        return f"the files {self.path}"

    def fingerprint(self, part: Slice) -> str | None:
        found = self._files(part)
        states = [(str(path), status.st_size, status.st_mtime_ns, status.st_ino) for path, status in found]
        return value_digest(states) if states else None

    def read(self, part: Slice, columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
        try:
            return self.read_files([path for path, _ in self._files(part)], columns)
        except FileNotFoundError as error:
            raise SourceAwayError(
                f"File {error.filename}", expected="the file that was listed", found="none", fix="Read again."
            ) from error

    def _files(self, part: Slice) -> list[tuple[Path, os.stat_result]]:
        pattern = filled_pattern(os.path.expandvars(self.path), part)
        if Path(pattern).is_dir():
            pattern = str(Path(glob.escape(pattern)) / "*")
        found = []
        # Path.glob takes no absolute pattern.
        for path in map(Path, sorted(glob.glob(pattern, recursive=True))):  # noqa: PTH207
            # The other system may remove a file between both calls.
            with suppress(FileNotFoundError):
                if path.is_file():
                    found.append((path, path.stat()))
        return found


def checked_pattern(pattern: str) -> str:
    """Return ``pattern``; raises ValueError when it has other names in braces than partition, start and end."""
    try:
        pattern.format(partition="", start=datetime.now(UTC), end=datetime.now(UTC))
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"'{pattern}' has braces around {error}; write {{partition}}, {{start:%Y-%m}} or {{end:%Y-%m}}"
        ) from None
    return pattern


def filled_pattern(pattern: str, part: Slice) -> str:
    """Return ``pattern`` with the names of ``part``. Raises :class:`SourceError` when ``part`` lacks one of them."""
    needs = [name for name in ("partition", "start", "end") if f"{{{name}" in pattern]
    require_partition_bounds(part, needs, f"Pattern '{pattern}'")
    return pattern.format(partition=part.partition, start=part.start, end=part.end)
