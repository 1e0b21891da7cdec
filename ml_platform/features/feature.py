"""One declared feature of a view: its type, and the columns in which it is stored and served.

A vector is stored as one float32 column per component, so that every part that handles numbers handles it too.
"""

from typing import Literal, Self

import polars as pl
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from ml_platform.data.settings import Settings

INSTANT = pl.Datetime("us", "UTC")
"""Type of all instants: microseconds in UTC."""

MAX_VECTOR_SIZE = 4_096
"""Largest number of components of a vector: each is a column of the view's table."""

FeatureType = Literal[
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "boolean",
    "category",
    "datetime",
    "date",
    "duration",
    "vector",
]

_STORED_AS: dict[str, pl.DataType] = {
    "float32": pl.Float32(),
    "float64": pl.Float64(),
    "int8": pl.Int8(),
    "int16": pl.Int16(),
    "int32": pl.Int32(),
    "int64": pl.Int64(),
    "boolean": pl.Boolean(),
    "category": pl.String(),
    "datetime": INSTANT,
    "date": pl.Int32(),
    "duration": pl.Int64(),
    "vector": pl.Float32(),
}

_UNITS = {"date": "days since 1970-01-01", "duration": "microseconds"}
"""Units of types that are stored as whole numbers."""


class Feature(Settings):
    """One value that a view's function returns."""

    name: str = Field(description="Column that the view's function returns", pattern=r"^[a-z][a-z0-9_]*$")
    description: str = Field(description="Meaning of the value, in one line, for an analyst")
    type: FeatureType = Field(
        default="float32",
        description="Type in which the value is stored and served; a vector is stored as one float32 column for each "
        "component, a date as whole days since 1970, a duration as whole microseconds",
    )
    size: int | None = Field(default=None, ge=1, le=MAX_VECTOR_SIZE, description="Number of components of a vector")
    unit: str = Field(default="", description="Unit, for example minutes, share, °F; empty for categories and flags")
    hidden: bool = Field(
        default=False, description="Whether the value is only an input or a key of other views, and no model gets it"
    )
    derived_from: list[str] = Field(
        default_factory=list,
        description="Source columns as 'dataset.column'; empty: all columns of the view's sources",
    )

    @property
    def columns(self) -> dict[str, pl.DataType]:
        """Type of each stored column: one of the feature's name, or ``<name>_000`` and so on for a vector.

        >>> list(Feature(name="topic", description="…", type="vector", size=2).columns)
        ['topic_000', 'topic_001']
        """
        stored = _STORED_AS[self.type]
        if self.size is None:
            return {self.name: stored}
        digits = max(3, len(str(self.size - 1)))
        return {f"{self.name}_{place:0{digits}d}": stored for place in range(self.size)}

    @property
    def full_type(self) -> str:
        """The type with the size of a vector, like ``vector[384]``."""
        return self.type if self.size is None else f"{self.type}[{self.size}]"

    @property
    def stored_unit(self) -> str:
        """The declared unit, or that of the whole numbers in which a date or a duration is stored."""
        return self.unit or _UNITS.get(self.type, "")

    @model_validator(mode="after")
    def _has_size(self) -> Self:
        if (self.size is not None) != (self.type == "vector"):
            action = "declare" if self.type == "vector" else "remove"
            raise ValueError(f"feature '{self.name}' of type {self.type}: {action} 'size'")
        return self

    @model_serializer(mode="wrap")
    def _without_absent_size(self, serialize: SerializerFunctionWrapHandler) -> dict[str, object]:
        # A feature set without vectors is written as before vectors existed, so that its digest stays.
        return {name: value for name, value in serialize(self).items() if name != "size" or value is not None}
