"""The settings by which a table of another system is read partition by partition, the same for all such tables."""

from pydantic import Field, model_validator

from ml_platform.data.settings import Settings
from ml_platform.data.sources.source import Slice, SourceError, require_partition_bounds


class PartitionedTable(Settings):
    """A table whose rows are placed in partitions by one column: by its name or by its time."""

    partition_column: str | None = Field(default=None, description="Column with the name of the partition.")
    time_column: str | None = Field(
        default=None, description="Timestamp column that places a row in its partition, in place of partition_column."
    )

    @model_validator(mode="after")
    def _has_one_column(self) -> "PartitionedTable":
        if self.partition_column and self.time_column:
            raise ValueError("declare partition_column or time_column, not both")
        return self

    def require_time_column(self, part: Slice, subject: str) -> str:
        """Return the time column; raises :class:`SourceError` without one, and for a ``part`` without bounds."""
        if not self.time_column:
            raise SourceError(
                subject,
                expected="partition_column or time_column for a dataset with partitions",
                found="neither",
                fix="Declare one of them.",
            )
        require_partition_bounds(part, ["start", "end"], subject)
        return self.time_column
