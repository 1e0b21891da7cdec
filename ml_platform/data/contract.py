"""Data contracts: the settings that declare a table's columns and rules, and the reports of their checks.

The checks are in `schema.py` and `expectations.py`. This module imports neither, so declarations load quickly.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError

ColumnType = Literal["string", "integer", "float", "boolean", "date", "timestamp"]

EXAMPLES_SHOWN = 5
"""Largest number of failing rows in a violation."""


class ColumnRule(Settings):
    """One column of a table, with its type and its rules."""

    name: str = Field(description="Name of the column.")
    type: ColumnType = Field(description="Type of the values; a timestamp is in UTC with microseconds.")
    description: str = Field(description="Meaning of one value, for a person who sees the table for the first time.")
    unit: str | None = Field(default=None, description="Unit of the numbers, like minutes or miles.")
    nullable: bool = Field(default=False, description="Whether a value may be missing.")
    allowed: list[str | int] | None = Field(default=None, description="The only values that may occur.")
    minimum: float | None = Field(default=None, description="Smallest valid value.")
    maximum: float | None = Field(default=None, description="Largest valid value.")
    pii: bool = Field(
        default=False, description="Whether the column identifies a person; reports then hide its values."
    )


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
