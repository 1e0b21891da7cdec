"""The declaration of a feature view: its entity, features, sources, function, and the greatest age of a value."""

from collections.abc import Mapping
from typing import Any, Literal, Self

import polars as pl
from pydantic import Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from ml_platform.data.arrival import Arrival
from ml_platform.data.canonical import value_digest
from ml_platform.data.names import FULL_NAME, short_name
from ml_platform.data.settings import Settings
from ml_platform.data.source_hash import source_hash
from ml_platform.errors import PlatformError
from ml_platform.features.feature import INSTANT as INSTANT
from ml_platform.features.feature import Feature as Feature
from ml_platform.features.key_types import KeyType

KNOWN_AT = "known_at"
"""Column of a change log: the instant at which a fact became known."""

AS_OF = "as_of"
"""Column of an example: the instant of its reads, the later of predict_at and the online store's watermark."""

PREDICT_AT = "predict_at"
"""Column of an example: the instant of its prediction."""

AGE = "age_minutes"
"""Suffix, after the view's name, of the column with the age of the fact that was read."""

TRANSFORMERS: Mapping[str, str] = {
    "image": "ml_platform.features.transformers.image:ImageComponents",
    "onnx": "ml_platform.features.transformers.onnx:OnnxEncoder",
    "pca": "ml_platform.features.transformers.pca:Pca",
    "text": "ml_platform.features.transformers.text:WordTerms",
}
"""The built-in transformers of fitted views."""

NOT_VERSIONED = {"name", "description", "owner", "code_version", "function", "age", "arrivals"}
"""Settings of a view that change no fact and no snapshot; the function counts by its code, the age by its column.

Arrivals change the reads of a training set, whose version covers them.
"""


class ViewError(PlatformError):
    """Raised when a feature view is used wrongly, or the result of its function does not match the declaration."""


class FeatureSource(Settings):
    """A dataset that a view reads, with its columns grouped by when their values become known."""

    dataset: str = Field(description="Name of the dataset; its table in the lake is datasets/<name>")
    known_upfront: list[str] = Field(
        default_factory=list, description="Columns known before the event, like a published schedule"
    )
    available_from: dict[str, list[str]] = Field(
        default_factory=dict,
        description="Time column → columns known from that time on; list the time column too if the view reads it",
    )
    available_after_minutes: int = Field(
        default=0, ge=0, description="Delay between those times and the availability of the values (minutes)"
    )
    columns: list[str] = Field(
        default_factory=list, description="Further columns, without a declaration of when they become known"
    )

    @property
    def visible_columns(self) -> list[str]:
        """Columns that the view's function gets; empty means all."""
        available_from = [column for columns in self.available_from.values() for column in columns]
        return list(dict.fromkeys([*self.known_upfront, *available_from, *self.columns]))


class FeatureView(Settings):
    """A view of kind stored (facts: entity…, known_at, values…) or request (values computed from the request)."""

    name: str = Field(description="Name of the view; its asset is features/<name>", pattern=FULL_NAME)
    description: str = Field(default="", description="Meaning of one row of the view, for an analyst")
    owner: str = Field(default="", description="Owner of the view: team:<name> or an e-mail address")
    kind: Literal["stored", "request"] = Field(
        default="stored",
        description="stored: a change log of facts. request: computed from the row of the request, in both reads",
    )
    entity: list[str] = Field(
        default_factory=list, description="Key columns of a stored view; empty: one entity, the whole system"
    )
    key_types: dict[str, KeyType] = Field(
        default_factory=dict,
        description="Type of each key (string, int or bool), the same in training, serving and requests; a key without "
        "an entry has the type of the column of that name in the sources",
    )
    features: list[Feature] = Field(description="Value columns of the view", min_length=1)
    sources: list[FeatureSource] = Field(default_factory=list, description="Datasets that a stored view reads")
    function: str = Field(default="", description="package.module:function that returns the rows")
    takes: Literal["table", "arrays"] = Field(
        default="table",
        description="Form in which the function of a request view takes and returns columns: a Polars table, or a "
        "mapping from column to NumPy array, which a service computes several times as fast (numbers, flags and times "
        "in microseconds as float64 with NaN for null; text as objects)",
    )
    fitted: str | None = Field(
        default=None,
        description="In place of a function: package.module:Class of a transformer, or image, onnx, pca or text. It is "
        "fitted with each candidate, on the candidate's train rows, and saved with the model; for a request view",
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="Parameters of the transformer that `fitted` names"
    )
    fields: list[str] = Field(default_factory=list, description="Request fields that a request view's function gets")
    inputs: list[str] = Field(
        default_factory=list,
        description="Views whose values a request view needs; it then runs after the reads of stored views, not before",
    )
    pii_columns: list[str] = Field(
        default_factory=list,
        exclude=True,
        description="Columns that identify a person, besides the PII columns of the sources; reports hide the keys and "
        "features of these names, and the features derived from these columns",
    )
    lookback_days: int = Field(
        default=0, ge=0, description="How far before its partition the function gets source data (days)"
    )
    tolerance_minutes: int | None = Field(
        default=None, ge=0, description="Greatest age at which a fact is still used (minutes); none: any age"
    )
    age: bool = Field(default=False, description="Whether the age of the fact that was read is a feature too")
    arrivals: SkipJsonSchema[list[Arrival]] = Field(
        default_factory=list,
        description="How the sources arrive, as their datasets declare it; a fact is usable when the slowest has "
        "arrived, and without entries from known_at on",
    )
    code_version: str = Field(
        default="",
        description="Version of the function; empty: a hash of the code that it uses. A digest of the declaration is "
        "added, so that a changed entity, type, source, lookback or tolerance is a new version too",
    )

    @property
    def dtypes(self) -> dict[str, pl.DataType]:
        """Types of the stored values, in the order declared; a vector has one for each component."""
        return {name: dtype for feature in self.features for name, dtype in feature.columns.items()}

    @property
    def returned_columns(self) -> list[str]:
        """Columns of values that the view's function returns, in the order declared."""
        return [feature.name for feature in self.features]

    @property
    def code(self) -> str:
        """The function or class that computes the values, as ``package.module:name``."""
        return self.function if self.fitted is None else TRANSFORMERS.get(self.fitted, self.fitted)

    @property
    def age_column(self) -> str:
        return self.column(AGE)

    @property
    def pii_names(self) -> set[str]:
        """Keys and features of a stored view whose values identify a person.

        A feature without ``derived_from`` is derived from all columns that the view reads.
        """
        pii = set(self.pii_columns)
        read = {column for source in self.sources for column in source.visible_columns}
        # A source without declared columns is read as a whole.
        reads_pii = bool(pii & read) or (bool(pii) and any(not source.visible_columns for source in self.sources))
        derived = {
            column
            for feature in self.features
            for column in feature.columns
            if feature.name in pii
            or (pii & {column.partition(".")[2] for column in feature.derived_from})
            or (reads_pii and not feature.derived_from)
        }
        return derived | (pii & {*self.entity, *self.dtypes})

    def column(self, feature: str) -> str:
        """Return the name of ``feature`` in a table with several views: ``<view>__<feature>``, without the domain."""
        return f"{short_name(self.name)}__{feature}"

    @property
    def columns(self) -> dict[str, pl.DataType]:
        """Types of all columns that the view adds to an example, including hidden ones and the age."""
        named: dict[str, pl.DataType] = {self.column(name): dtype for name, dtype in self.dtypes.items()}
        return named | ({self.age_column: pl.Float32()} if self.kind == "stored" else {})

    @property
    def feature_names(self) -> list[str]:
        """Names of the columns that a model gets."""
        visible = [self.column(name) for feature in self.features if not feature.hidden for name in feature.columns]
        return visible + ([self.age_column] if self.age and self.kind == "stored" else [])

    @property
    def table(self) -> str:
        """Table of the change log; each code version has its own, so a model keeps the one that it was trained on."""
        return f"features/{self.name}/{self.pinned().code_version}"

    def pinned(self) -> Self:
        """Return the view with its code version filled in; a view that has one, as in features.json, is unchanged."""
        return self if self.code_version else self.versioned()

    def versioned(self) -> Self:
        """Return a declared view with the code version ``<version of the function>-<digest of the declaration>``.

        Settings that are not declared are not in the digest, so a later release may add some.
        """
        version = f"{self.code_version or source_hash(self.code)}-{value_digest(self.versioned_settings())[:8]}"
        return self.model_copy(update={"code_version": version})

    def versioned_settings(self) -> dict[str, Any]:
        """Return the declared settings that the code version covers."""
        declared = self.model_dump(mode="json", exclude=NOT_VERSIONED | {"features"}, exclude_defaults=True)
        return {**declared, "features": [[feature.name, feature.full_type] for feature in self.features]}

    @model_validator(mode="after")
    def _validate_consistency(self) -> Self:
        # The name of a vector is no column, but two features must not share it either.
        vectors = [feature.name for feature in self.features if feature.size is not None]
        names = [*self.entity, *vectors, *(name for feature in self.features for name in feature.columns)]
        repeated = sorted({name for name in names if names.count(name) > 1} | ({KNOWN_AT, AGE} & set(names)))
        if repeated:
            raise ValueError(
                f"view '{self.name}': {repeated} named twice, or reserved, among entity and features; rename them"
            )
        if self.kind == "stored" and (self.inputs or self.fields):
            raise ValueError(f"view '{self.name}': only a request view takes 'inputs' and 'fields'; set kind: request")
        if self.kind == "request" and (self.entity or self.sources or self.lookback_days or self.age):
            raise ValueError(
                f"view '{self.name}': a request view takes no entity, sources, lookback_days or age; remove them"
            )
        if (self.fitted is None) != bool(self.function):
            raise ValueError(f"view '{self.name}': declare 'function' or 'fitted'")
        if self.fitted is not None and (self.kind == "stored" or not (self.fields or self.inputs)):
            raise ValueError(
                f"view '{self.name}': 'fitted' needs kind: request, and 'fields' or 'inputs' that the transformer reads"
            )
        if self.parameters and self.fitted is None:
            raise ValueError(f"view '{self.name}': only a view with 'fitted' takes 'parameters'; remove them")
        if self.takes == "arrays":
            if self.kind == "stored" or self.fitted is not None:
                raise ValueError(
                    f"view '{self.name}': only a request view with a function takes arrays; remove 'takes'"
                )
            others = [feature.name for feature in self.features if feature.type in ("vector", "date", "duration")]
            if others:
                raise ValueError(
                    f"view '{self.name}': features {others} of type vector, date or duration; a view that takes arrays "
                    "returns numbers, flags, categories and times: set takes: table"
                )
        undeclared = [name for name in self.key_types if name not in self.entity]
        if undeclared:
            raise ValueError(
                f"view '{self.name}': key_types has {undeclared}, which is not in entity {self.entity}; correct it"
            )
        datasets = {source.dataset for source in self.sources}
        for feature in self.features:
            unknown_columns = [column for column in feature.derived_from if column.partition(".")[0] not in datasets]
            if unknown_columns:
                raise ValueError(
                    f"view '{self.name}', feature '{feature.name}': {unknown_columns} is in none of its sources; "
                    "correct derived_from"
                )
        return self
