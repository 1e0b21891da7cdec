"""What a team declares about a feature view: its entity, features, sources, function, and how old a value may be."""

from typing import Literal, Self

import polars as pl
from pydantic import Field, model_validator

from ml_platform.data.settings import Settings
from ml_platform.data.source_hash import source_hash
from ml_platform.errors import PlatformError

KNOWN_AT = "known_at"
"""The column of every change log that says when a fact became known."""

AS_OF = "as_of"
"""The instant as of which an example was read: predict_at, or the online store's watermark where that is later."""

PREDICT_AT = "predict_at"
"""The column of every example that says when its prediction is made."""

AGE = "age_minutes"
"""The column, after the view's name, that says how old the value read is."""

INSTANT = pl.Datetime("us", "UTC")
"""The one type of all instants: microseconds in UTC."""

FeatureType = Literal["float32", "float64", "int8", "int16", "int32", "int64", "boolean", "category", "datetime"]

DTYPES: dict[str, pl.DataType] = {
    "float32": pl.Float32(),
    "float64": pl.Float64(),
    "int8": pl.Int8(),
    "int16": pl.Int16(),
    "int32": pl.Int32(),
    "int64": pl.Int64(),
    "boolean": pl.Boolean(),
    "category": pl.String(),
    "datetime": INSTANT,
}


class ViewError(PlatformError):
    """Raised when a feature view, or what its function returned, is not what was declared."""


class Feature(Settings):
    """One column of a view."""

    name: str = Field(description="Column that the view's function returns", pattern=r"^[a-z][a-z0-9_]*$")
    description: str = Field(description="What the number says, in one line, for an analyst")
    type: FeatureType = Field(default="float32", description="Type in which it is stored and served")
    unit: str = Field(default="", description="Unit, for example minutes, share, °F; empty for categories and flags")
    hidden: bool = Field(
        default=False, description="Only an input of other views (or a key for them), never given to a model"
    )
    derived_from: list[str] = Field(
        default_factory=list,
        description="Source columns as 'dataset.column'; empty means every column of the view's sources",
    )

    @property
    def dtype(self) -> pl.DataType:
        return DTYPES[self.type]


class FeatureSource(Settings):
    """A dataset that a view reads: its columns, by when their values become known."""

    dataset: str = Field(description="Name of the dataset; its table in the lake is datasets/<name>")
    known_upfront: list[str] = Field(
        default_factory=list, description="Columns known before anything happens, like a published schedule"
    )
    available_from: dict[str, list[str]] = Field(
        default_factory=dict,
        description="Time column: the columns that are known from that time on (itself among them, where it is read)",
    )
    available_after_minutes: int = Field(
        default=0, ge=0, description="How long after those times the values are known (minutes)"
    )
    columns: list[str] = Field(
        default_factory=list, description="Further columns, of which it is not said when they are known"
    )

    @property
    def visible_columns(self) -> list[str]:
        """The columns that the view's function gets to see; empty means all."""
        available_from = [column for columns in self.available_from.values() for column in columns]
        return list(dict.fromkeys([*self.known_upfront, *available_from, *self.columns]))


class FeatureView(Settings):
    """Rows (entity…, known_at, values…): what became known when, about whom."""

    name: str = Field(description="Name of the view; its asset is features/<name>", pattern=r"^[a-z][a-z0-9_]*$")
    description: str = Field(default="", description="What one row of the view says, for an analyst")
    owner: str = Field(default="", description="Who answers for it: team:<name> or an e-mail address")
    kind: Literal["stored", "request"] = Field(
        default="stored",
        description="stored: a change log of facts. request: computed from the row that asks, in both reads alike",
    )
    entity: list[str] = Field(
        default_factory=list, description="Key columns of a stored view; empty means one entity, the whole system"
    )
    features: list[Feature] = Field(description="The columns of values", min_length=1)
    sources: list[FeatureSource] = Field(default_factory=list, description="Datasets that a stored view reads")
    function: str = Field(description="package.module:function that returns the rows")
    fields: list[str] = Field(
        default_factory=list, description="Fields of the request that a request view's function gets to see"
    )
    inputs: list[str] = Field(
        default_factory=list,
        description="Views whose values a request view needs; it then runs after the join instead of before it",
    )
    lookback_days: int = Field(
        default=0, ge=0, description="How many days before its partition the function gets to see (days)"
    )
    tolerance_minutes: int | None = Field(
        default=None, ge=0, description="How old a value may be and still be used (minutes); none: any age"
    )
    age: bool = Field(default=False, description="Whether the age of the value read is a feature too")
    code_version: str = Field(
        default="", description="Version of the function; empty: a hash of its source and of what that imports"
    )

    @property
    def dtypes(self) -> dict[str, pl.DataType]:
        """Types of the values, in the order declared."""
        return {feature.name: feature.dtype for feature in self.features}

    @property
    def age_column(self) -> str:
        return f"{self.name}__{AGE}"

    def column(self, feature: str) -> str:
        """Return the name under which ``feature`` appears beside those of other views."""
        return f"{self.name}__{feature}"

    @property
    def columns(self) -> dict[str, pl.DataType]:
        """Types of all columns that the view adds to an example, hidden ones and age included."""
        named: dict[str, pl.DataType] = {self.column(name): dtype for name, dtype in self.dtypes.items()}
        return named | ({self.age_column: pl.Float32()} if self.kind == "stored" else {})

    @property
    def feature_names(self) -> list[str]:
        """Names of the columns that a model gets to see."""
        visible = [self.column(feature.name) for feature in self.features if not feature.hidden]
        return visible + ([self.age_column] if self.age and self.kind == "stored" else [])

    @property
    def table(self) -> str:
        """Table of the change log, one for each version of the code: a model keeps the one it was trained on."""
        return f"features/{self.name}/{self.pinned().code_version}"

    def pinned(self) -> Self:
        """Return the view with its code version filled in."""
        return self if self.code_version else self.model_copy(update={"code_version": source_hash(self.function)})

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        names = [*self.entity, *(feature.name for feature in self.features)]
        repeated = sorted({name for name in names if names.count(name) > 1} | ({KNOWN_AT, AGE} & set(names)))
        if repeated:
            raise ValueError(f"view '{self.name}': {repeated} named twice, or reserved, among entity and features")
        if self.kind == "stored" and (self.inputs or self.fields):
            raise ValueError(f"view '{self.name}': only a request view takes 'inputs' and 'fields'; say kind: request")
        if self.kind == "request" and (self.entity or self.sources or self.lookback_days or self.age):
            raise ValueError(
                f"view '{self.name}': a request view sees the row itself: no entity, sources, lookback_days or age"
            )
        datasets = {source.dataset for source in self.sources}
        for feature in self.features:
            unknown_columns = [column for column in feature.derived_from if column.partition(".")[0] not in datasets]
            if unknown_columns:
                raise ValueError(
                    f"view '{self.name}', feature '{feature.name}': {unknown_columns} is in none of its sources"
                )
        return self
