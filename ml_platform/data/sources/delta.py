"""A Delta table of another system as a source; its files are immutable, so their names are the fingerprint."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import polars as pl
from pydantic import Field

from ml_platform.data.canonical import value_digest
from ml_platform.data.sources.partitioned_table import PartitionedTable
from ml_platform.data.sources.source import (
    Slice,
    SourceAwayError,
    SourceError,
    declared_of,
    option_values,
    without_secrets,
)

if TYPE_CHECKING:
    from deltalake import DeltaTable


class DeltaSource(PartitionedTable):
    """The rows of a Delta table, by partition."""

    type: Literal["delta"] = Field(description="Kind of the source.")
    path: str = Field(description="Folder or s3://bucket/prefix of the table.")
    options: dict[str, str] = Field(
        default_factory=dict,
        description="Option of the object store, like AWS_SECRET_ACCESS_KEY → environment variable with its value.",
    )

    def describe(self) -> str:
        return f"the Delta table {self.path}"

    def fingerprint(self, part: Slice) -> str | None:
        actions = pl.DataFrame(self._open().get_add_actions(flatten=True))
        if part.partition is not None and f"partition.{self.partition_column}" in actions.columns:
            actions = actions.filter(pl.col(f"partition.{self.partition_column}").cast(pl.String) == part.partition)
        lowest, highest = f"min.{self.time_column}", f"max.{self.time_column}"
        if part.start is not None and {lowest, highest} <= set(actions.columns):
            # A file without statistics may have rows of every partition.
            outside = (pl.col(lowest) >= part.end) | (pl.col(highest) < part.start)
            actions = actions.filter(~outside.fill_null(False))
        return value_digest(sorted(actions["path"].to_list())) if actions.height else None

    def read(self, part: Slice, columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
        rows = pl.scan_delta(self._open())
        if part.partition is not None:
            rows = rows.filter(self._is_in(part))
        try:
            return declared_of(rows.collect(), columns)
        except pl.exceptions.PolarsError as error:
            secrets = list(option_values(self.options).values())
            raise SourceError(
                f"Delta table {self.path}",
                expected="rows that can be read",
                found=f"{type(error).__name__}: {without_secrets(str(error), secrets)}",
                fix="Correct the column of the partitions, or repair the table.",
            ) from None

    def _is_in(self, part: Slice) -> pl.Expr:
        if self.partition_column:
            return pl.col(self.partition_column).cast(pl.String) == part.partition
        column = self.require_time_column(part, f"Delta table {self.path}")
        return (pl.col(column) >= part.start) & (pl.col(column) < part.end)

    def _open(self) -> "DeltaTable":
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        options = option_values(self.options)
        try:
            return DeltaTable(self.path, storage_options=options or None)
        except (TableNotFoundError, DeltaError, OSError) as error:
            raise SourceAwayError(
                f"Delta table {self.path}",
                expected="a Delta table",
                found=without_secrets(f"{type(error).__name__}: {error}", list(options.values())),
                fix="Check the path, the credentials and the network.",
            ) from None
