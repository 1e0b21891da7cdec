"""Turning text into typed values, for columns of landed files: a value is exact, or it stays text.

No value is guessed: a word for a missing value is not a number, and a number keeps all its digits.
"""

import sys
from decimal import Decimal
from typing import cast

import polars as pl

from ml_platform.data import durations, json_values
from ml_platform.data.exact_json import bytes_of
from ml_platform.data.json_values import Type as Type
from ml_platform.errors import PlatformError

BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
"""The spellings of truth values."""

_DATE = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_INSTANT = rf"^{_DATE}[T ][0-9]{{2}}:[0-9]{{2}}:[0-5][0-9](\.[0-9]{{1,6}})?(Z|[+-]([01][0-9]|2[0-3]):?[0-5][0-9])$"
_DECIMAL = r"^[+-]?[0-9]+(\.[0-9]+)?$"
_FIRST_YEAR, _LAST_YEAR = 1, 9999
"""The years that Python's own dates can hold."""

_ALWAYS_KEPT_DIGITS: dict[Type, int] = {pl.Float64: 15, pl.Float32: 6}
"""Number of significant decimal digits that a float keeps whatever the number."""

_SMALLEST_NORMAL: dict[Type, float] = {pl.Float64: sys.float_info.min, pl.Float32: 2.0**-126}
"""Smaller numbers keep fewer digits."""


class UnsupportedTypeError(PlatformError):
    """Raised when text cannot be read as the requested type at all."""


def parsed(values: pl.Series, dtype: Type, decimal: str = ".") -> pl.Series:
    """Return text ``values`` as ``dtype`` if every value that is not null parses, otherwise unchanged.

    ``decimal`` is the decimal mark of floats and decimals: with a comma, a value with a point does not parse.
    """
    fractional = dtype.is_float() or dtype.is_decimal()
    typed = parsed_or_null(_with_points(values) if fractional and decimal == "," else values, dtype)
    return typed if typed.null_count() == values.null_count() else values


def parsed_or_null(values: pl.Series, dtype: Type) -> pl.Series:
    """Return text ``values`` as ``dtype``, with null for each value that does not parse exactly.

    An integer has digits and a sign only, and fits its type. A float is finite and keeps all digits of the text:
    ``9007199254740993``, ``1e400`` and ``nan`` do not parse. A date is written ``2013-01-31``. A timestamp has a zone,
    like ``2013-01-31T10:00:00Z``, ``2013-01-31 12:00:00.5+02:00`` or, as Polars writes it, ``…+0200``. It is returned
    in UTC microseconds. Spaces around a value are not removed. :data:`BOOLEANS` lists the truth values. A decimal has
    no more digits than its type. A duration is a number of seconds or ISO 8601, see :mod:`.durations`. A list is a JSON
    array; so is a vector, whose text becomes a list of float64, because its length is checked by the contract. A binary
    is base64.

    Raises :class:`UnsupportedTypeError` for other types.
    """
    kind = dtype.base_type()
    if kind is pl.String:
        return values
    if kind is pl.Boolean:
        return values.replace_strict(BOOLEANS, default=None, return_dtype=pl.Boolean)
    if kind is pl.Date:
        return _within_years(_only(values, f"^{_DATE}$").str.to_date("%Y-%m-%d", strict=False))
    if kind is pl.Datetime and getattr(dtype, "time_zone", "UTC") == "UTC":
        # One spelling of the zone makes one format do for all.
        zoned = _only(values, _INSTANT).str.replace("Z$", "+00:00").str.replace(" ", "T", literal=True)
        zoned = zoned.str.replace(r"([+-]\d\d)(\d\d)$", "${1}:${2}")
        instants = zoned.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", time_unit="us", time_zone="UTC", strict=False)
        return _within_years(instants)
    if kind.is_integer():
        return values.cast(dtype, strict=False)
    if kind in _ALWAYS_KEPT_DIGITS:
        return _floats(values, kind)
    if isinstance(dtype, pl.Decimal):
        return _decimals(values, dtype)
    if kind is pl.Duration:
        return _durations(values)
    if kind is pl.Binary:
        return pl.Series(values.name, [bytes_of(text) for text in values.to_list()], pl.Binary)
    if isinstance(dtype, pl.Array) and dtype.inner == pl.Float32:
        return json_values.vectors(values)
    if isinstance(dtype, pl.List):
        return json_values.lists(values, cast("Type", dtype.inner), parsed_or_null)
    raise UnsupportedTypeError(
        f"Column '{values.name}'",
        expected="a type that a contract can declare",
        found=str(dtype),
        fix="Read the column as one of these types and convert it in the loader.",
    )


def _with_points(values: pl.Series) -> pl.Series:
    """Return numbers with a decimal comma as numbers with a point; null for those that have a point already."""
    return values.set(values.str.contains(".", literal=True), None).str.replace(",", ".", literal=True)


def _only(values: pl.Series, pattern: str) -> pl.Series:
    return values.set(~values.str.contains(pattern), None)


def _within_years(values: pl.Series) -> pl.Series:
    return values.set(~values.dt.year().is_between(_FIRST_YEAR, _LAST_YEAR), None)


def _decimals(values: pl.Series, dtype: pl.Decimal) -> pl.Series:
    # A cast would cut digits after the point in silence.
    plain = _only(values, _DECIMAL)
    written = plain.str.extract(r"\.([0-9]*?)0*$").str.len_bytes().fill_null(0)
    return plain.set(written > dtype.scale, None).cast(dtype, strict=False)


def _durations(values: pl.Series) -> pl.Series:
    texts = values.drop_nulls().unique()
    found = [durations.microseconds(text) for text in texts.to_list()]
    known = pl.Series(found, dtype=pl.Int64)
    return values.replace_strict(texts, known, default=None, return_dtype=pl.Int64).cast(pl.Duration("us"))


def _floats(values: pl.Series, kind: Type) -> pl.Series:
    typed = values.cast(kind, strict=False)
    typed = typed.set(~typed.is_finite(), None)
    # The exact comparison is slow, so it sees only the texts that could lose digits, and each of them once.
    doubtful = (values.str.len_bytes() > _ALWAYS_KEPT_DIGITS[kind]) | (typed.abs() < _SMALLEST_NORMAL[kind])
    candidates = pl.DataFrame({"text": values, "number": typed}).filter(doubtful & typed.is_not_null()).unique()
    lost = [text for text, number in candidates.iter_rows() if not _keeps_digits(text, number)]
    return typed.set(values.is_in(lost), None) if lost else typed


def _keeps_digits(text: str, number: float) -> bool:
    """Return whether ``number``, written with as many significant digits as ``text`` has, equals ``text``."""
    exact = Decimal(text)
    digits = "".join(map(str, exact.as_tuple().digits)).rstrip("0")
    return Decimal(f"{number:.{max(len(digits) - 1, 0)}e}") == exact
