"""An Iceberg table of another system as a source; its files are immutable, so their names are the fingerprint."""

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
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.table import DataScan


class IcebergSource(PartitionedTable):
    """The rows of an Iceberg table in a catalog, by partition. Needs the extra `iceberg`."""

    type: Literal["iceberg"] = Field(description="Kind of the source.")
    table: str = Field(description="Namespace and name of the table in its catalog, like shop.orders.")
    catalog: dict[str, str] = Field(
        description="Properties of the catalog as PyIceberg names them, like name, type: rest and uri: https://…; "
        "without secrets."
    )
    options: dict[str, str] = Field(
        default_factory=dict,
        description="Property of the catalog with a secret, like token → environment variable with its value.",
    )

    def describe(self) -> str:
        return f"the Iceberg table {self.table}"

    def fingerprint(self, part: Slice) -> str | None:
        # The statistics of the files leave out those without a row of the partition.
        scan = self._scan(part)
        try:
            tasks = list(scan.plan_files())
        except (ValueError, TypeError, OSError) as error:
            raise self._unreadable(error) from None
        paths = {file.file_path for task in tasks for file in (task.file, *task.delete_files)}
        return value_digest(sorted(paths)) if paths else None

    def read(self, part: Slice, columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
        scan = self._scan(part)
        try:
            rows = pl.DataFrame(scan.to_arrow())
        except (ValueError, TypeError, OSError) as error:
            raise self._unreadable(error) from None
        return declared_of(rows, columns)

    def _scan(self, part: Slice) -> "DataScan":
        from pyiceberg.catalog import load_catalog
        from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError, RESTError, ServiceUnavailableError
        from pyiceberg.expressions import AlwaysTrue
        from sqlalchemy.exc import SQLAlchemyError

        secrets = option_values(self.options)
        properties = {"name": "default", **self.catalog, **secrets}
        try:
            table = load_catalog(**properties).load_table(self.table)
        except (
            *(NoSuchTableError, NoSuchNamespaceError, RESTError, ServiceUnavailableError),
            *(SQLAlchemyError, OSError, ValueError),
        ) as error:
            raise SourceAwayError(
                f"Iceberg table {self.table}",
                expected="a table of the catalog",
                found=without_secrets(f"{type(error).__name__}: {error}", list(secrets.values())),
                fix="Check the name, the catalog, the credentials and the network.",
            ) from None
        return table.scan(row_filter=AlwaysTrue() if part.partition is None else self._is_in(part))

    def _is_in(self, part: Slice) -> "BooleanExpression":
        from pyiceberg.expressions import And, EqualTo, GreaterThanOrEqual, LessThan

        if self.partition_column:
            return EqualTo(self.partition_column, part.partition)  # type: ignore[call-arg, arg-type]
        column = self.require_time_column(part, f"Iceberg table {self.table}")
        begins = GreaterThanOrEqual(column, part.start)  # type: ignore[call-arg, arg-type]
        return And(begins, LessThan(column, part.end))  # type: ignore[call-arg, arg-type]

    def _unreadable(self, error: Exception) -> SourceError:
        return SourceError(
            f"Iceberg table {self.table}",
            expected="rows that can be read, and a column of the partitions with text or with times of a zone",
            found=without_secrets(f"{type(error).__name__}: {error}", list(option_values(self.options).values())),
            fix="Correct the column of the partitions, or repair the table.",
        )
