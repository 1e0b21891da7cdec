"""Hiding values that identify a person from reports, messages and metadata.

Contracts declare the PII columns. Each place that shows values of a table, to a person or in a log, calls this module.
"""

import traceback
from collections.abc import Collection
from pathlib import Path

import polars as pl

MASK = "•••"
"""Text in place of a hidden value."""


def shown(value: object, columns: str | Collection[str], pii_columns: Collection[str]) -> object:
    """Return ``value``, or :data:`MASK` if it was computed from one of ``pii_columns``; ``columns`` are its sources.

    >>> shown("a@b.org", "email", ["email"]), shown(7, "hour", ["email"]), shown(2, ["hour", "email"], ["email"])
    ('•••', 7, '•••')
    """
    names = [columns] if isinstance(columns, str) else columns
    return MASK if any(name in pii_columns for name in names) else value


def shown_rows(rows: pl.DataFrame, pii_columns: Collection[str]) -> list[dict[str, object]]:
    """Return ``rows`` as dictionaries in which the values of ``pii_columns`` are masked."""
    return [{name: shown(value, name, pii_columns) for name, value in row.items()} for row in rows.to_dicts()]


def shown_error(error: BaseException, pii_columns: Collection[str]) -> str:
    """Return type, place and message of an error of custom code, which may quote any value of its table.

    With ``pii_columns`` the message is masked. The caller then also drops the error as the cause of its own.
    """
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    message = shown(" ".join(str(error).split()), pii_columns, pii_columns)
    return f"{type(error).__name__}{place}: {message}"


def without_pii(rows: pl.DataFrame, pii_columns: Collection[str]) -> pl.DataFrame:
    """Return ``rows`` with nulls in place of the values of ``pii_columns``; the types of the columns stay."""
    return rows.with_columns(
        pl.lit(None, dtype).alias(name) for name, dtype in rows.schema.items() if name in pii_columns
    )
