"""Dates, durations, decimals and bytes in JSON: from the value that a JSON reader gives to the exact value, and back.

Requests, their log and the requests that the platform sends itself use the same forms.
"""

import re
from base64 import b64decode, b64encode
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from ml_platform.data.durations import iso_text, microseconds

MAX_DECIMAL_DIGITS = 38
"""Number of digits that a decimal can have, those after the point included."""

SAFE_DIGITS = 15
"""Digits up to which a JSON number is exact: readers of JSON make a float64 of it."""

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DECIMAL = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")


def date_of(value: Any) -> date | None:
    """Return the date of text like ``2026-01-31``, or None for everything else."""
    if type(value) is not str or not _DATE.fullmatch(value):
        return None
    try:
        return date.fromisoformat(value)
    except ValueError:
        return None


def duration_of(value: Any) -> timedelta | None:
    """Return the duration of a number of seconds or of ISO 8601, or None for what is not exact in microseconds."""
    if type(value) not in (int, float, str):
        return None
    try:
        # A whole number can be too long for Python to write it out.
        found = microseconds(value if isinstance(value, str) else repr(value))
        return None if found is None else timedelta(microseconds=found)
    except (ValueError, OverflowError):
        return None


def decimal_of(value: Any, scale: int) -> Decimal | None:
    """Return the decimal of text or of a number, or None when it does not fit ``scale`` exactly.

    A number with a fraction of more than :data:`SAFE_DIGITS` digits is refused: only text keeps them.
    """
    if type(value) not in (int, float, str) or (type(value) is int and abs(value) >= 10**MAX_DECIMAL_DIGITS):
        return None
    text = value if isinstance(value, str) else repr(value)
    if len(text) > 2 * MAX_DECIMAL_DIGITS or not _DECIMAL.fullmatch(text):
        return None
    whole, _, fraction = text.lstrip("+-").partition(".")
    whole, fraction = whole.lstrip("0"), fraction.rstrip("0")
    too_long = len(fraction) > scale or len(whole) > MAX_DECIMAL_DIGITS - scale
    if too_long or (isinstance(value, float) and len(whole) + len(fraction) > SAFE_DIGITS):
        return None
    return Decimal(text)


def bytes_of(value: Any) -> bytes | None:
    """Return the bytes of base64 text (RFC 4648, padded), or None for everything else."""
    if type(value) is not str:
        return None
    try:
        return b64decode(value, validate=True)
    except ValueError:
        return None


def json_value(value: Any) -> Any:
    """Return ``value`` in the form in which a request carries it; times are ISO 8601 text.

    >>> json_value([Decimal("1.10"), timedelta(seconds=90), date(2026, 1, 31)])
    ['1.10', 'PT90S', '2026-01-31']
    """
    if isinstance(value, list):
        return [json_value(each) for each in value]
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return iso_text(value)
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return str(value) if isinstance(value, Decimal) else value
