"""Reading landed CSV files with declared columns and types: faithfully, or not at all.

A file whose rows do not have the form of CSV is an error that names the place. Values that do not parse stay text. A
reader that turned them into nulls would hide the rows that the contract checks. No message quotes a value, because it
may identify a person.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from ml_platform.data.landed_bytes import LandedFileError, as_utf8, unpacked
from ml_platform.data.text_values import Type, parsed
from ml_platform.errors import did_you_mean, listed

_QUOTE, _LINE_FEED, _CARRIAGE_RETURN = b'"\n\r'

SEPARATORS = (",", ";", "\t", "|")
"""The separators of fields that a declaration may name."""


class ColumnsMissingError(LandedFileError):
    """Raised when a landed file lacks columns; ``missing`` and ``present`` name them."""

    missing: tuple[str, ...] = ()
    present: tuple[str, ...] = ()


@dataclass(frozen=True)
class EarlierColumns:
    """How a file that landed before a change of its contract differs: earlier names by column, and added columns."""

    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    added: frozenset[str] = frozenset()

    def find(self, column: str, present: Sequence[str]) -> str | None:
        """Return the name of ``column`` among those ``present``; None if it is absent."""
        return next((name for name in (column, *self.names.get(column, ())) if name in present), None)


_EARLIER: ContextVar[EarlierColumns | None] = ContextVar("earlier_columns", default=None)


@contextmanager
def reading_earlier(columns: EarlierColumns) -> Iterator[None]:
    """Let :func:`read_csv` in the body find renamed columns under earlier names, and read added ones as nulls."""
    token = _EARLIER.set(columns)
    try:
        yield
    finally:
        _EARLIER.reset(token)


def read_csv(
    path: Path,
    columns: Mapping[str, Type],
    null_values: Sequence[str] = ("",),
    *,
    separator: str = ",",
    decimal: str = ".",
    encoding: str | None = None,
) -> pl.DataFrame:
    """Return ``columns`` of the CSV file at ``path`` (gzip and zstd are unpacked), in the given order only.

    A field that equals one of ``null_values`` is null, quoted or not; an empty field without quotes is always null. All
    other words for missing values are text. A column gets its declared type when every value that is not null parses
    exactly, see :func:`ml_platform.data.text_values.parsed_or_null`. Otherwise it stays text, so that the contract can
    report the wrong rows. With ``decimal`` ``","``, a number is written ``2,5``, and ``2.5`` does not parse.

    The file is UTF-8, has the ``encoding``, or has the byte order mark of UTF-16 or UTF-32. It is CSV as RFC 4180
    defines it, with one of :data:`SEPARATORS`, and with line ends of any system that has a line feed. Raises
    :class:`LandedFileError` with the row and line for everything else: a row with fewer or more fields than the header,
    an empty line, a quote that does not enclose a whole field, a repeated or empty column name. Raises
    :class:`ColumnsMissingError` when columns are absent. Rows count from 1 below the header.
    """
    text = _opened(path, separator, encoding)
    header = text.header()
    earlier = _EARLIER.get() or EarlierColumns()
    names = {name: earlier.find(name, header) for name in columns}
    missing = [name for name, found in names.items() if found is None and name not in earlier.added]
    if missing:
        raise _missing_columns_error(path, missing, header, list(columns))
    text.require_distinct_names()
    values = _values(text, sorted(header.index(name) for name in {*names.values()} if name is not None), null_values)
    absent = pl.Series([None] * (len(text.row_ends) - 1), dtype=pl.String)
    read = {name: absent if found is None else values[found] for name, found in names.items()}
    return pl.DataFrame([parsed(read[name].alias(name), dtype, decimal) for name, dtype in columns.items()])


def csv_columns(path: Path, *, separator: str = ",", encoding: str | None = None) -> list[str]:
    """Return the names of the columns of the CSV file at ``path``; raises like :func:`read_csv`."""
    text = _opened(path, separator, encoding)
    text.require_distinct_names()
    return text.header()


def _opened(path: Path, separator: str, encoding: str | None) -> "_Text":
    text = _Text(path, as_utf8(path, unpacked(path), encoding), separator)
    text.require_form()
    return text


@dataclass(frozen=True)
class _Text:
    """The UTF-8 of one CSV file, and the places of its rows and fields.

    A separator or line feed counts when an even number of quotes precedes it: RFC 4180 doubles a quote within a quoted
    field, so quotes inside a field come in pairs.
    """

    path: Path
    data: bytes
    separator: str = ","

    @cached_property
    def _bytes(self) -> np.ndarray:
        return np.frombuffer(self.data, np.uint8)

    @cached_property
    def _quotes(self) -> np.ndarray:
        return np.flatnonzero(self._bytes == _QUOTE)

    @cached_property
    def _separators(self) -> np.ndarray:
        return self._outside_quotes(np.flatnonzero(self._bytes == ord(self.separator)))

    @cached_property
    def row_ends(self) -> np.ndarray:
        """Return the position after the last byte of each row, header first; the last line feed is optional."""
        ends = self._outside_quotes(np.flatnonzero(self._bytes == _LINE_FEED))
        return ends if self.data.endswith(b"\n") and len(ends) else np.append(ends, len(self.data))

    def _outside_quotes(self, positions: np.ndarray) -> np.ndarray:
        if not len(self._quotes):
            return positions
        outside: np.ndarray = positions[np.searchsorted(self._quotes, positions) % 2 == 0]
        return outside

    def require_form(self) -> None:
        """Raise :class:`LandedFileError` at the first place where the file is not CSV."""
        if not self.data:
            raise self._error("a line of column names", "an empty file")
        if b"\0" in self.data:
            raise self._error("text", f"a zero byte in {self._line(self.data.index(0))}")
        self._require_separator()
        self._require_whole_quotes()
        self._require_line_feeds()
        self._require_equal_rows()

    def header(self) -> list[str]:
        """Return the fields of the first row."""
        first_row = io.StringIO(self.data[: self.row_ends[0]].decode(), newline="")
        return next(csv.reader(first_row, delimiter=self.separator, strict=True), [])

    def require_distinct_names(self) -> None:
        """Raise :class:`LandedFileError` when the name of a column is empty or occurs twice."""
        names = self.header()
        if not all(name.strip() for name in names):
            place = next(place for place, name in enumerate(names, 1) if not name.strip())
            raise self._error("a name for each column", f"none for column {place} of {len(names)}")
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise self._error("each column once", f"repeated columns {listed(repeated)}")

    def _require_separator(self) -> None:
        """Raise when the first line has another separator, and not this one: decimal commas would look like fields."""
        first_line = self.data[: (self.data + b"\n").index(b"\n")].decode()
        if self.separator in first_line:
            return
        others = [each for each in SEPARATORS if each in first_line and each != self.separator]
        if others:
            raise LandedFileError(
                f"Landed file {self.path}",
                expected=f"column names separated by {_named(self.separator)}",
                found=f"a first line with {_named(others[0])}",
                fix=f"Declare separator {others[0]!r}.",
            )

    def _require_whole_quotes(self) -> None:
        if not len(self._quotes):
            return
        # A separator stands in for the byte before the file and for the one after it.
        around = np.concatenate([[_LINE_FEED], self._bytes, [_LINE_FEED]])
        opening, closing = self._quotes[::2], self._quotes[1::2]
        before, after = around[opening], around[closing + 2]
        wrong = np.concatenate(
            [
                opening[~np.isin(before, [_QUOTE, ord(self.separator), _LINE_FEED])],
                closing[~np.isin(after, [_QUOTE, ord(self.separator), _LINE_FEED, _CARRIAGE_RETURN])],
            ]
        )
        if len(wrong):
            raise self._error(
                "quotes around whole fields, and doubled within them", f"another quote in {self._place(wrong.min())}"
            )
        if len(opening) > len(closing):
            raise self._error("a closing quote for each opening one", f"none for {self._place(opening[-1])}")

    def _require_line_feeds(self) -> None:
        returns = self._outside_quotes(np.flatnonzero(self._bytes == _CARRIAGE_RETURN))
        following = np.append(self._bytes, 0)[returns + 1]
        lonely = returns[following != _LINE_FEED]
        if len(lonely):
            raise self._error(
                "lines that end with a line feed", f"a carriage return without one in {self._place(lonely[0])}"
            )

    def _require_equal_rows(self) -> None:
        starts = np.concatenate([[0], self.row_ends[:-1] + 1])
        empty = (self.row_ends == starts) | (
            (self.row_ends == starts + 1) & (np.append(self._bytes, 0)[starts] == _CARRIAGE_RETURN)
        )
        if empty.any():
            raise self._error("a row in every line", f"an empty line at {self._place(starts[int(empty.argmax())])}")
        fields = np.diff(np.searchsorted(self._separators, self.row_ends), prepend=0) + 1
        ragged = np.flatnonzero(fields != fields[0])
        if len(ragged):
            first = int(ragged[0])
            raise self._error(
                f"{fields[0]} fields in every row, as in the header",
                f"{len(ragged)} rows with fewer or more, the first with {fields[first]}: "
                f"{self._row(first)} ({self._line(int(starts[first]))})",
            )

    def _place(self, position: int) -> str:
        """Return row, line and column of the byte at ``position``; only bytes before it must have the form of CSV."""
        position = int(position)
        row = int(np.searchsorted(self.row_ends, position))
        start = int(self.row_ends[row - 1]) + 1 if row else 0
        field = int(np.searchsorted(self._separators, position) - np.searchsorted(self._separators, start)) + 1
        return f"{self._row(row)} ({self._line(position)}), field {field}"

    def _row(self, row: int) -> str:
        return f"row {row}" if row else "the header"

    def _line(self, position: int) -> str:
        return f"line {self.data.count(_LINE_FEED, 0, position) + 1}"

    def _error(self, expected: str, found: str) -> LandedFileError:
        fix = "Land the file again, whole and in this form."
        return LandedFileError(f"Landed file {self.path}", expected=expected, found=found, fix=fix)


def _values(text: _Text, places: list[int], null_values: Sequence[str]) -> pl.DataFrame:
    """Return the columns at ``places`` as text, under the names of the header."""
    names = text.header()
    selected = [names[place] for place in places]
    body = text.data[int(text.row_ends[0]) + 1 :]
    if not body:
        return pl.DataFrame(schema=dict.fromkeys(selected, pl.String))
    values = pl.read_csv(
        io.BytesIO(body),
        has_header=False,
        columns=places,
        separator=text.separator,
        infer_schema=False,
        null_values=[word for word in null_values if word] or None,
    )
    values.columns = selected
    if "" in null_values:
        values = values.with_columns(pl.all().replace("", None))
    if values.height != len(text.row_ends) - 1:
        raise LandedFileError(
            f"Landed file {text.path}",
            expected=f"{len(text.row_ends) - 1} rows",
            found=f"{values.height} read ones",
            fix="Report the file: its form is right, and the reader is wrong.",
        )
    return values


def _named(separator: str) -> str:
    return {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}.get(separator, repr(separator))


def _missing_columns_error(
    path: Path, missing: list[str], present: list[str], expected_columns: list[str]
) -> ColumnsMissingError:
    unknown_columns = [name for name in present if name not in expected_columns]
    # Without any known name, the first row can be one of values, which no message quotes.
    has_names = len(unknown_columns) < len(present) or any(did_you_mean(name, present) for name in missing)
    error = ColumnsMissingError(
        f"Landed file {path}",
        expected=f"columns {listed(missing)}",
        found=f"{len(present)} columns without them; not known here: {listed(unknown_columns)}"
        if has_names
        else f"{len(present)} other columns, or a file without a line of column names",
        fix="Fix the landed file." + "".join(did_you_mean(name, unknown_columns) for name in missing[:1]),
    )
    error.missing, error.present = tuple(missing), tuple(present)
    return error
