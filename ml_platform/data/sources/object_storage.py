"""Files in an object store as a source, by the library that the lake uses for S3."""

import fnmatch
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import polars as pl
from pydantic import Field, field_validator

from ml_platform.data.canonical import value_digest
from ml_platform.data.lake_files import s3_filesystem
from ml_platform.data.scratch import scratch_folder
from ml_platform.data.sources.files import checked_pattern, filled_pattern
from ml_platform.data.sources.source import Slice, SourceAwayError, option_values, without_secrets
from ml_platform.data.sources.tabular_files import FileFormat

if TYPE_CHECKING:
    import pyarrow.fs

ATTEMPTS = 4
"""Attempts of one request; sensors ask again at their next look, and steps are tried again by Dagster."""


class ObjectStorageSource(FileFormat):
    """Objects of an S3 bucket, read where they are."""

    type: Literal["object_storage"] = Field(description="Kind of the source.")
    path: str = Field(
        description="Address or pattern, like s3://bucket/orders/{partition}/*.parquet; one that ends with / means all "
        "objects below it.",
        pattern=r"^s3://[^/]+/.+",
    )
    options: dict[str, str] = Field(
        default_factory=dict,
        description="Option of the object store, like AWS_SECRET_ACCESS_KEY → environment variable with its value.",
    )

    @field_validator("path")
    @classmethod
    def _has_known_names(cls, value: str) -> str:
        return checked_pattern(value)

    def describe(self) -> str:
        return f"the objects {self.path}"

    def fingerprint(self, part: Slice) -> str | None:
        with self._answering():
            states = [(each.path, each.size, each.mtime_ns) for each in self._objects(self._filesystem(), part)]
        return value_digest(states) if states else None

    def read(self, part: Slice, columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
        with scratch_folder("objects") as folder:
            paths = []
            with self._answering():
                filesystem = self._filesystem()
                for number, each in enumerate(self._objects(filesystem, part)):
                    # The name of the object keeps its suffix, and the number makes it distinct.
                    path = Path(folder) / f"{number:06d}-{each.base_name}"
                    with filesystem.open_input_stream(each.path, compression=None) as stream:
                        path.write_bytes(stream.read())
                    paths.append(path)
            return self.read_files(paths, columns)

    def _filesystem(self) -> "pyarrow.fs.FileSystem":
        return s3_filesystem(option_values(self.options), attempts=ATTEMPTS)

    def _objects(self, filesystem: "pyarrow.fs.FileSystem", part: Slice) -> "list[pyarrow.fs.FileInfo]":
        import pyarrow.fs

        pattern = filled_pattern(self.path.removeprefix("s3://"), part)
        pattern += "*" if pattern.endswith("/") else ""
        fixed = pattern[: min(pattern.find(each) % (len(pattern) + 1) for each in "*?[")]
        selector = pyarrow.fs.FileSelector(fixed.rpartition("/")[0], allow_not_found=True, recursive=True)
        found = [each for each in filesystem.get_file_info(selector) if each.is_file]
        return sorted(
            (each for each in found if fnmatch.fnmatchcase(each.path, pattern)), key=lambda each: str(each.path)
        )

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SourceAwayError(
                f"Object store of {self.path}",
                expected="an answer",
                found=without_secrets(f"{type(error).__name__}: {error}", list(option_values(self.options).values())),
                fix="Check the address, the credentials and the network.",
            ) from None
