"""The protocol of a source: a cheap fingerprint of one partition, and a read of its rows.

A source does not land what it reads; `landed_read.py` does, the same for all kinds.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import polars as pl

from ml_platform.errors import PlatformError, listed


class SourceError(PlatformError):
    """Raised when a source cannot be read; another attempt would fail in the same way."""


class SourceAwayError(SourceError):
    """Raised when a source does not answer; another attempt may succeed."""


class SourceChangedError(SourceError):
    """Raised when a source changed during each attempt to read it."""


class SourceEmptyError(SourceError):
    """Raised when a source has nothing for the requested partition."""


@dataclass(frozen=True)
class Slice:
    """The part of a source that is one partition; all fields are None for a dataset without partitions.

    ``start`` is the first instant of the partition and ``end`` the first one after it, in the zone of the dataset.
    """

    partition: str | None = None
    start: datetime | None = None
    end: datetime | None = None

    def __str__(self) -> str:
        return f"partition {self.partition}" if self.partition else "the whole table"


class Source(Protocol):
    """A kind of source, with its settings. Its methods raise subclasses of :class:`SourceError`."""

    def describe(self) -> str:
        """Return the source in words without credentials, for messages: ``the query of $SHOP_DATABASE``."""
        ...

    def fingerprint(self, part: Slice) -> str | None:
        """Return a text that changes when the rows of ``part`` change; None when there is nothing."""
        ...

    def read(self, part: Slice, columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
        """Return the rows of ``part``.

        ``columns`` are the declared columns; formats without types parse them, and other columns are left out. Without
        ``columns``, all columns are returned, and those of formats without types as text.
        """
        ...


def required_variable(name: str, used_for: str) -> str:
    """Return the value of the environment variable ``name``. Raises :class:`SourceError` when it is not set."""
    value = os.environ.get(name)
    if not value:
        raise SourceError(
            f"Environment variable {name}",
            expected=used_for,
            found="no value",
            fix=f"Set {name} where the platform runs.",
        )
    return value


def option_values(options: Mapping[str, str]) -> dict[str, str]:
    """Return the value of each option of an object store; raises :class:`SourceError` for a variable without one."""
    return {name: required_variable(variable, f"the option {name}") for name, variable in options.items()}


def without_secrets(text: str, secrets: list[str]) -> str:
    """Return the first line of ``text`` with each of ``secrets`` masked."""
    lines = text.strip().splitlines()
    shown = lines[0] if lines else ""
    for secret in filter(None, secrets):
        shown = shown.replace(secret, "***")
    return shown


def declared_of(frame: pl.DataFrame, columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Return the declared ``columns`` of ``frame``; the whole frame when one is absent, so that the check names it."""
    complete = bool(columns) and all(name in frame.columns for name in columns)
    return frame.select(list(columns)) if complete else frame


def require_partition_bounds(part: Slice, needs: list[str], subject: str) -> None:
    """Raise :class:`SourceError` when a source ``needs`` bounds (partition, start or end) that ``part`` lacks."""
    absent = [name for name in needs if getattr(part, name) is None]
    if absent:
        raise SourceError(
            subject,
            expected=f"a partition with {listed(absent)}",
            found=str(part),
            fix="Declare `partitions` of the dataset, or leave these names out of the source.",
        )
