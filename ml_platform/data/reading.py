"""Reading landed text files without guessing: declared columns, declared types, and no value lost on the way.

Apart because a reader that turns what it cannot parse into nulls hides the very rows that a contract is there to find.
"""

import gzip
import io
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from ml_platform.errors import PlatformError, did_you_mean, listed

TIMESTAMP_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
"""How a UTC timestamp is written in a landed file."""


Type = pl.DataType | type[pl.DataType]


class LandedFileError(PlatformError):
    """Raised when a landed file cannot be read at all: a truncated archive, no bytes, no text."""


class ColumnsMissingError(LandedFileError):
    """Raised when a landed file lacks columns; ``missing`` and ``present`` name them."""

    missing: tuple[str, ...] = ()
    present: tuple[str, ...] = ()


def read_csv(path: Path, columns: Mapping[str, Type], null_values: Sequence[str] = ("", "NA")) -> pl.DataFrame:
    """Return ``columns`` of the CSV file at ``path`` (``.gz`` is unpacked), in the order given; others are left out.

    A column gets its declared type when every value that is not null parses; else it stays text, so that the contract
    can say which rows are wrong. A UTC timestamp reads like 2013-01-01T10:00:00Z. Raises :class:`LandedFileError` when
    the file cannot be read and :class:`ColumnsMissingError` when columns are absent.
    """
    try:
        text = pl.read_csv(io.BytesIO(_unpacked(path)), infer_schema=False, null_values=list(null_values))
    except pl.exceptions.NoDataError as error:
        raise LandedFileError(
            f"Landed file {path}", expected="a line of column names", found="an empty file", mend="Land it again."
        ) from error
    except pl.exceptions.PolarsError as error:
        raise LandedFileError(
            f"Landed file {path}",
            expected="comma-separated text",
            found=str(error).splitlines()[0],
            mend="Land it again.",
        ) from error
    missing = [name for name in columns if name not in text.columns]
    if missing:
        raise _columns_missing(path, missing, text.columns, list(columns))
    return text.select(parsed(text[name], dtype) for name, dtype in columns.items())


def parsed(values: pl.Series, dtype: Type) -> pl.Series:
    """Return text ``values`` as ``dtype`` when every one that is not null parses, else unchanged."""
    typed = parsed_or_null(values, dtype)
    return typed if typed.null_count() == values.null_count() else values


def parsed_or_null(values: pl.Series, dtype: Type) -> pl.Series:
    """Return text ``values`` as ``dtype``, null where one does not parse."""
    if dtype.base_type() is pl.Datetime:
        return values.str.to_datetime(TIMESTAMP_FORMAT, time_unit="us", time_zone="UTC", strict=False)
    if dtype.base_type() is pl.Boolean:
        return values.replace_strict({"true": True, "false": False}, default=None, return_dtype=pl.Boolean)
    return values.cast(dtype, strict=False)


def _unpacked(path: Path) -> bytes:
    raw = path.read_bytes()
    if path.suffix != ".gz":
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise LandedFileError(
            f"Landed file {path}",
            expected="a whole gzip archive",
            found=f"{len(raw)} bytes that cannot be unpacked ({error})",
            mend="Transfer the file again: it was cut off or damaged on the way.",
        ) from error


def _columns_missing(path: Path, missing: list[str], present: list[str], wanted: list[str]) -> ColumnsMissingError:
    strange = [name for name in present if name not in wanted]
    error = ColumnsMissingError(
        f"Landed file {path}",
        expected=f"columns {listed(missing)}",
        found=f"{len(present)} columns without them; not known here: {listed(strange)}",
        mend="Mend the landed file." + "".join(did_you_mean(name, strange) for name in missing[:1]),
    )
    error.missing, error.present = tuple(missing), tuple(present)
    return error
