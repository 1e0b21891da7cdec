"""Reading landed text files with declared columns and types, without losing a value.

Values that do not parse stay text. A reader that turned them into nulls would hide the rows that the contract checks.
"""

import gzip
import io
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from ml_platform.errors import PlatformError, did_you_mean, listed

TIMESTAMP_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
"""Format of a UTC timestamp in a landed file."""

Type = pl.DataType | type[pl.DataType]


class LandedFileError(PlatformError):
    """Raised when a landed file cannot be read: a truncated archive, an empty file, no text."""


class ColumnsMissingError(LandedFileError):
    """Raised when a landed file lacks columns; ``missing`` and ``present`` name them."""

    missing: tuple[str, ...] = ()
    present: tuple[str, ...] = ()


def read_csv(path: Path, columns: Mapping[str, Type], null_values: Sequence[str] = ("", "NA")) -> pl.DataFrame:
    """Return ``columns`` of the CSV file at ``path`` (``.gz`` is unpacked), in the given order, without the others.

    A column gets its declared type when every value that is not null parses. Otherwise it stays text, so that the
    contract can report the wrong rows. A UTC timestamp is written like 2013-01-01T10:00:00Z. Raises
    :class:`LandedFileError` when the file cannot be read and :class:`ColumnsMissingError` when columns are absent.
    """
    try:
        text = pl.read_csv(io.BytesIO(_decompressed(path)), infer_schema=False, null_values=list(null_values))
    except pl.exceptions.NoDataError as error:
        raise LandedFileError(
            f"Landed file {path}", expected="a line of column names", found="an empty file", fix="Land the file again."
        ) from error
    except pl.exceptions.PolarsError as error:
        raise LandedFileError(
            f"Landed file {path}",
            expected="comma-separated text",
            found=str(error).splitlines()[0],
            fix="Land the file again.",
        ) from error
    missing = [name for name in columns if name not in text.columns]
    if missing:
        raise _missing_columns_error(path, missing, text.columns, list(columns))
    return text.select(parsed(text[name], dtype) for name, dtype in columns.items())


def parsed(values: pl.Series, dtype: Type) -> pl.Series:
    """Return text ``values`` as ``dtype`` if every value that is not null parses, otherwise unchanged."""
    typed = parsed_or_null(values, dtype)
    return typed if typed.null_count() == values.null_count() else values


def parsed_or_null(values: pl.Series, dtype: Type) -> pl.Series:
    """Return text ``values`` as ``dtype``, with null for each value that does not parse."""
    if dtype.base_type() is pl.Datetime:
        return values.str.to_datetime(TIMESTAMP_FORMAT, time_unit="us", time_zone="UTC", strict=False)
    if dtype.base_type() is pl.Boolean:
        return values.replace_strict({"true": True, "false": False}, default=None, return_dtype=pl.Boolean)
    return values.cast(dtype, strict=False)


def _decompressed(path: Path) -> bytes:
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
            fix="Transfer the file again; the transfer cut it off or damaged it.",
        ) from error


def _missing_columns_error(
    path: Path, missing: list[str], present: list[str], expected_columns: list[str]
) -> ColumnsMissingError:
    unknown_columns = [name for name in present if name not in expected_columns]
    error = ColumnsMissingError(
        f"Landed file {path}",
        expected=f"columns {listed(missing)}",
        found=f"{len(present)} columns without them; not known here: {listed(unknown_columns)}",
        fix="Fix the landed file." + "".join(did_you_mean(name, unknown_columns) for name in missing[:1]),
    )
    error.missing, error.present = tuple(missing), tuple(present)
    return error
