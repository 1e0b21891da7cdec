"""Files of rows as tables: CSV, JSON lines, Parquet and Arrow, read faithfully or refused by name."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import Field, field_validator

from ml_platform.data.json_values import JsonNumber, written
from ml_platform.data.landed_bytes import LandedFileError, as_utf8, unpacked
from ml_platform.data.reading import SEPARATORS, csv_columns, read_csv
from ml_platform.data.settings import Settings
from ml_platform.data.sources.source import declared_of
from ml_platform.data.text_values import parsed
from ml_platform.errors import listed

Format = Literal["csv", "json_lines", "parquet", "arrow"]

_FORMATS: Mapping[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".jsonl": "json_lines",
    ".ndjson": "json_lines",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}


class FileFormat(Settings):
    """How the files of a source are read."""

    format: Format | None = Field(
        default=None, description="csv, json_lines, parquet or arrow; none: by the suffix of the name."
    )
    separator: str = Field(default=",", description="Separator of CSV: comma, semicolon, tab or bar.")
    decimal: Literal[".", ","] = Field(default=".", description="Decimal mark of numbers in CSV.")
    encoding: str | None = Field(
        default=None, description="Encoding of text, like windows-1252; none: UTF-8, or that of the byte order mark."
    )
    null_values: list[str] = Field(default_factory=lambda: [""], description="Words for a missing value in CSV.")

    @field_validator("separator")
    @classmethod
    def _is_separator(cls, value: str) -> str:
        if value not in SEPARATORS:
            raise ValueError(f"'{value}' separates no fields; write one of {listed(SEPARATORS)}")
        return value

    @field_validator("encoding")
    @classmethod
    def _is_encoding(cls, value: str | None) -> str | None:
        import codecs

        try:
            codecs.lookup(value or "utf-8")
        except LookupError:
            raise ValueError(f"'{value}' is no encoding; write for example windows-1252") from None
        return value

    def read_files(self, paths: Sequence[Path], columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
        """Return the rows of all ``paths``, in order.

        Raises :class:`LandedFileError` for a file that cannot be read, or whose columns are not those of the first one.
        """
        frames = [self._read(path, columns) for path in paths]
        for path, frame in zip(paths[1:], frames[1:], strict=True):
            if set(frame.columns) != set(frames[0].columns):
                different = sorted(set(frame.columns) ^ set(frames[0].columns))
                raise LandedFileError(
                    f"File {path}",
                    expected=f"the columns of {paths[0].name}",
                    found=f"a difference in {listed(different)}",
                    fix="Write all files of a partition with the same columns.",
                )
        # A file whose values do not parse has text; the contract then names the rows.
        return pl.concat([frame.select(frames[0].columns) for frame in frames], how="vertical_relaxed", rechunk=True)

    def _read(self, path: Path, columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
        kind = self.format or _format_of(path)
        if kind == "csv":
            return self._read_csv(path, columns)
        data = unpacked(path) if kind == "json_lines" else path.read_bytes()
        try:
            if kind == "json_lines":
                return _read_json_lines(path, as_utf8(path, data, self.encoding), columns)
            frame = _read_parquet(data) if kind == "parquet" else _read_arrow(data)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise LandedFileError(
                f"File {path}",
                expected=f"a whole file of format {kind}",
                found=f"{len(data)} bytes that cannot be read ({type(error).__name__})",
                fix="Write the file again; it is damaged, or of another format.",
            ) from error
        return declared_of(frame, columns)

    def _read_csv(self, path: Path, columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
        present = csv_columns(path, separator=self.separator, encoding=self.encoding)
        complete = bool(columns) and all(name in present for name in columns)
        types = {name: columns.get(name, pl.String()) for name in (columns if complete else present)}
        return read_csv(
            path,
            types,
            self.null_values,
            separator=self.separator,
            decimal=self.decimal,
            encoding=self.encoding,
        )


def _format_of(path: Path) -> Format:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in (".gz", ".zst", ".zstd")]
    found = _FORMATS.get(suffixes[-1]) if suffixes else None
    if found is None:
        raise LandedFileError(
            f"File {path}",
            expected=f"one of the suffixes {listed(_FORMATS, 20)}",
            found=f"'{path.name}'",
            fix="Declare the `format` of the source.",
        )
    return found


def _read_json_lines(path: Path, data: bytes, columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
    # Polars reads these through float64, or guesses their items: their JSON text is parsed instead.
    exact = [name for name, dtype in columns.items() if dtype.is_nested() or dtype.is_decimal() or dtype == pl.Duration]
    texts: dict[str, list[str | None]] = {name: [] for name in exact}
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            values = _object(path, number, line)
            for name in exact:
                texts[name].append(_text(values.get(name)))
    frame = pl.read_ndjson(io.BytesIO(data), infer_schema_length=None) if data.strip() else pl.DataFrame()
    found = [pl.Series(name, texts[name], pl.String) if name in exact else frame[name] for name in frame.columns]
    # JSON has no dates, times or decimals: their texts are parsed as in CSV.
    return declared_of(
        pl.DataFrame(
            [
                parsed(values, columns[values.name]) if values.name in columns and values.dtype == pl.String else values
                for values in found
            ]
        ),
        columns,
    )


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line, parse_float=JsonNumber, parse_int=JsonNumber)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise LandedFileError(
            f"File {path}", expected="a JSON object in every line", found=f"none in line {number}", fix="Fix the line."
        )
    return found


def _text(value: Any) -> str | None:
    """Return a text or number as it is written, null for null, and other values as JSON."""
    return value if value is None or isinstance(value, str) else written(value)


def _read_parquet(data: bytes) -> pl.DataFrame:
    return pl.read_parquet(io.BytesIO(data))


def _read_arrow(data: bytes) -> pl.DataFrame:
    # Arrow has two forms: a file with an index at its end, and a stream.
    read = pl.read_ipc if data.startswith(b"ARROW1") else pl.read_ipc_stream
    return read(io.BytesIO(data))
