"""Durations as text: a number of seconds, or ISO 8601 such as ``PT1H30M``; exact in microseconds, or refused.

Landed files and requests use the same rules, so this module needs only the standard library.
"""

import re
from datetime import timedelta
from decimal import Decimal

MICROSECONDS_PER_SECOND = 1_000_000

MAX_MICROSECONDS = 2**63 - 1
"""Longest duration, about 292,000 years: microseconds are stored in 64 bits."""

_SECONDS = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_ISO = re.compile(
    r"(?P<sign>[+-])?P(?=[0-9T])(?:(?P<weeks>[0-9]+)W)?(?:(?P<days>[0-9]+)D)?"
    r"(?:T(?=[0-9])(?:(?P<hours>[0-9]+)H)?(?:(?P<minutes>[0-9]+)M)?(?:(?P<seconds>[0-9]+(?:\.[0-9]+)?)S)?)?"
)
_SECONDS_OF = {"weeks": 604_800, "days": 86_400, "hours": 3_600, "minutes": 60, "seconds": 1}
_LONGEST_TEXT = 64
"""Characters of the longest text that is read; a longer one has no reason."""


def microseconds(text: str) -> int | None:
    """Return the duration that ``text`` describes, or None when it is none, or not exact in microseconds of 64 bits.

    A year and a month have no fixed length, so they are refused.

    >>> microseconds("90.5"), microseconds("PT1M30.5S"), microseconds("-P1DT2H"), microseconds("P1M")
    (90500000, 90500000, -93600000000, None)
    """
    if len(text) > _LONGEST_TEXT:
        return None
    if _SECONDS.fullmatch(text):
        return _exact(Decimal(text))
    found = _ISO.fullmatch(text)
    if found is None:
        return None
    seconds = sum(Decimal(found[unit] or 0) * length for unit, length in _SECONDS_OF.items())
    return _exact(-Decimal(seconds) if found["sign"] == "-" else Decimal(seconds))


def iso_text(duration: timedelta) -> str:
    """Return ``duration`` as ISO 8601 in seconds, which :func:`microseconds` reads back exactly.

    >>> iso_text(timedelta(hours=1, microseconds=500))
    'PT3600.0005S'
    """
    whole = duration // timedelta(microseconds=1)
    seconds, rest = divmod(abs(whole), MICROSECONDS_PER_SECOND)
    fraction = f".{rest:06d}".rstrip("0") if rest else ""
    return f"{'-' if whole < 0 else ''}PT{seconds}{fraction}S"


def _exact(seconds: Decimal) -> int | None:
    whole = seconds * MICROSECONDS_PER_SECOND
    # Without the bound, the comparison below would write out the digits of a huge exponent.
    if abs(whole) > MAX_MICROSECONDS or whole != whole.to_integral_value():
        return None
    return int(whole)
