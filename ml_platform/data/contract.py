"""What a table promises, as settings, and what was found when the promise was checked, as values.

The checks themselves are in `schema.py` and `expectations.py`; this module is light enough to be read by a declaration.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError

ColumnType = Literal["string", "integer", "float", "boolean", "date", "timestamp"]

EXAMPLES_SHOWN = 5
"""How many failing rows a violation carries."""


class ColumnRule(Settings):
    """One column that a table promises."""

    name: str = Field(description="Name of the column.")
    type: ColumnType = Field(description="What its values are; a timestamp is in UTC with microseconds.")
    description: str = Field(description="What one value says, for somebody who sees the table for the first time.")
    unit: str | None = Field(default=None, description="Unit of its numbers, like minutes or miles.")
    nullable: bool = Field(default=False, description="Whether a value may be missing.")
    allowed: list[str | int] | None = Field(default=None, description="The only values that may occur.")
    minimum: float | None = Field(default=None, description="Smallest value that is possible.")
    maximum: float | None = Field(default=None, description="Largest value that is possible.")
    pii: bool = Field(default=False, description="Whether it identifies a person: its values are shown in no report.")


class Expectation(Settings):
    """One expectation of Great Expectations, by its own name."""

    expectation: str = Field(description="Its name in Great Expectations, like expect_column_values_to_match_regex.")
    arguments: dict[str, Any] = Field(default_factory=dict, description="Its arguments, like column and regex.")
    severity: Literal["error", "warning"] = Field(
        default="error", description="Whether a failure keeps the partition out of the lake, or is only reported."
    )


class Contract(Settings):
    """What a table promises: its columns, and what Great Expectations has to find true of them."""

    columns: list[ColumnRule] = Field(min_length=1, description="Every column of the table, in its order.")
    expectations: list[Expectation] = Field(default_factory=list, description="What must hold besides.")
    minimum_rows: int = Field(default=1, ge=0, description="Fewest rows that one partition may have.")

    @property
    def column_names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def pii_columns(self) -> list[str]:
        return [column.name for column in self.columns if column.pii]


@dataclass(frozen=True)
class Subject:
    """What is being checked, and where its promise is written: ``lines`` maps a column to `assets/…/defs.yaml:31`."""

    dataset: str
    partition: str | None = None
    lines: Mapping[str, str] = field(default_factory=dict)
    declared_at: str | None = None

    def __str__(self) -> str:
        return f"Dataset '{self.dataset}'" + (f", partition {self.partition}" if self.partition else "")

    def line(self, column: str | None) -> str:
        """Return where the rule of ``column`` is written, or how to find it where no file is known."""
        return self.lines.get(column or "") or self.declared_at or f"the contract of '{self.dataset}'"


@dataclass(frozen=True)
class Violation:
    """One broken rule: how many rows break it, and up to five of them as ``{"row": 17, …}`` (rows count from 1)."""

    column: str | None
    rule: str
    count: int
    examples: tuple[dict[str, Any], ...]
    message: str
    severity: Literal["error", "warning"] = "error"


@dataclass(frozen=True)
class ContractReport:
    """What one check of one partition found. ``checked_rules`` guards against passing because nothing was asked."""

    subject: Subject
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
    """Raised when data that broke its contract was about to be published."""

    def __init__(
        self, thing: str, *, expected: str, found: str, mend: str, reports: tuple[ContractReport, ...] = ()
    ) -> None:
        super().__init__(thing, expected=expected, found=found, mend=mend)
        self.reports = reports
