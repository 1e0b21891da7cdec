"""Data contracts: the settings that declare a table's columns and rules, and the reports of their checks.

The checks are in `schema.py` and `expectations.py`. This module imports neither, so declarations load quickly.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from ml_platform.data.exact_json import MAX_DECIMAL_DIGITS as MAX_DECIMAL_DIGITS
from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError

ItemType = Literal["string", "integer", "float", "boolean", "date", "timestamp"]
"""Types of the items of a list."""

ColumnType = Literal[ItemType, "decimal", "duration", "vector", "list", "binary"]

MAX_VECTOR_SIZE = 65_536
"""Largest number of components of a vector."""

_SHAPE_OF_TYPE = {"decimal": "scale", "vector": "size", "list": "items", "binary": "max_bytes"}
"""The attribute that completes a type: no default of it would be right."""

EXAMPLES_SHOWN = 5
"""Largest number of failing rows in a violation."""


class ColumnRule(Settings):
    """One column of a table, with its type and its rules."""

    name: str = Field(description="Name of the column.")
    type: ColumnType = Field(
        description="Type of the values; a timestamp is in UTC with microseconds, a vector has `size` numbers of "
        "32 bits, a decimal is exact with `scale` digits after the point, a list has any number of `items`, and a "
        "binary, such as an image, has at most `max_bytes`."
    )
    description: str = Field(description="Meaning of one value, for a person who sees the table for the first time.")
    unit: str | None = Field(default=None, description="Unit of the numbers, like minutes or miles.")
    nullable: bool = Field(default=False, description="Whether a value may be missing.")
    allowed: list[str | int] | None = Field(default=None, description="The only values that may occur.")
    minimum: float | None = Field(default=None, description="Smallest valid value; seconds for a duration.")
    maximum: float | None = Field(default=None, description="Largest valid value; seconds for a duration.")
    pii: bool = Field(
        default=False, description="Whether the column identifies a person; reports then hide its values."
    )
    scale: int | None = Field(
        default=None, ge=0, le=MAX_DECIMAL_DIGITS, description="Digits of a decimal after the point."
    )
    size: int | None = Field(default=None, ge=1, le=MAX_VECTOR_SIZE, description="Number of components of a vector.")
    items: ItemType | None = Field(default=None, description="Type of the items of a list; none of them may be null.")
    max_bytes: int | None = Field(default=None, ge=1, description="Greatest size of a binary value (bytes).")

    @property
    def is_nested(self) -> bool:
        """Whether a value has components or items."""
        return self.type in ("vector", "list")

    @property
    def has_order(self) -> bool:
        """Whether values compare, so that they have limits and can be keys."""
        return not self.is_nested and self.type != "binary"

    @model_serializer(mode="wrap")
    def _without_other_types(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # The digest of a contract stays what it was before the types with attributes existed.
        unused = {attribute for attribute in _SHAPE_OF_TYPE.values() if getattr(self, attribute) is None}
        return {name: value for name, value in serialize(self).items() if name not in unused}

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        needed = _SHAPE_OF_TYPE.get(self.type)
        for attribute in _SHAPE_OF_TYPE.values():
            declared = getattr(self, attribute) is not None
            if declared != (attribute == needed):
                action = "declare" if attribute == needed else "remove"
                raise ValueError(f"column '{self.name}' of type {self.type}: {action} '{attribute}'")
        if self.allowed is not None and self.type in ("decimal", "duration", "vector", "list", "binary"):
            raise ValueError(
                f"column '{self.name}' of type {self.type}: remove 'allowed', which compares text and numbers"
            )
        if not self.has_order and (self.minimum is not None or self.maximum is not None):
            raise ValueError(f"column '{self.name}' of type {self.type}: remove 'minimum' and 'maximum'")
        return self


class Expectation(Settings):
    """One expectation of Great Expectations."""

    expectation: str = Field(description="Name in Great Expectations, like expect_column_values_to_match_regex.")
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of the expectation, like column and regex."
    )
    severity: Literal["error", "warning"] = Field(
        default="error",
        description="error: a failure keeps the partition out of the lake. warning: it is only reported.",
    )


class Contract(Settings):
    """The columns of a table, and the expectations that each of its partitions must meet."""

    columns: list[ColumnRule] = Field(min_length=1, description="All columns of the table, in order.")
    expectations: list[Expectation] = Field(
        default_factory=list, description="Further expectations of Great Expectations."
    )
    minimum_rows: int = Field(default=1, ge=0, description="Fewest rows that one partition may have.")

    @property
    def column_names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def pii_columns(self) -> list[str]:
        return [column.name for column in self.columns if column.pii]


@dataclass(frozen=True)
class ContractSubject:
    """The checked partition, and where its contract is declared: ``lines`` maps a column to `assets/…/defs.yaml:31`."""

    dataset: str
    partition: str | None = None
    lines: Mapping[str, str] = field(default_factory=dict)
    declared_at: str | None = None

    def __str__(self) -> str:
        return f"Dataset '{self.dataset}'" + (f", partition {self.partition}" if self.partition else "")

    def line(self, column: str | None) -> str:
        """Return the file and line of the rule of ``column``; without one, those of the dataset or its name."""
        return self.lines.get(column or "") or self.declared_at or f"the contract of '{self.dataset}'"


@dataclass(frozen=True)
class Violation:
    """One broken rule: the number of rows that break it, and up to five of them as ``{"row": 17, …}``.

    Rows count from 1.
    """

    column: str | None
    rule: str
    count: int
    examples: tuple[dict[str, Any], ...]
    message: str
    severity: Literal["error", "warning"] = "error"


@dataclass(frozen=True)
class ContractReport:
    """Result of one check of one partition.

    ``checked_rules`` is the number of rules evaluated; zero means that a pass proves nothing.
    """

    subject: ContractSubject
    check: Literal["landed", "schema", "expectations"]
    rows: int
    checked_rules: int
    violations: tuple[Violation, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no rule of severity error is broken."""
        return not self.errors

    @property
    def errors(self) -> tuple[Violation, ...]:
        return tuple(violation for violation in self.violations if violation.severity == "error")


class ContractViolatedError(PlatformError):
    """Raised instead of publishing data that break their contract; ``reports`` has the result of every check."""

    def __init__(
        self, subject: str, *, expected: str, found: str, fix: str, reports: tuple[ContractReport, ...] = ()
    ) -> None:
        super().__init__(subject, expected=expected, found=found, fix=fix)
        self.reports = reports
