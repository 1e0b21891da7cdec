"""Instants as whole microseconds since 1970 in UTC, and back; datetimes are aware."""

from datetime import UTC, datetime, timedelta

_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


def microseconds_of(instant: datetime) -> int:
    """Return ``instant`` in microseconds since 1970.

    >>> microseconds_of(datetime(1970, 1, 1, 0, 0, 2, tzinfo=UTC))
    2000000
    """
    return (instant - _EPOCH) // _MICROSECOND


def instant_of(microseconds: float) -> datetime:
    """Return the instant in UTC of ``microseconds`` since 1970, a whole number.

    >>> instant_of(2_000_000.0).isoformat()
    '1970-01-01T00:00:02+00:00'
    """
    return _EPOCH + timedelta(microseconds=int(microseconds))
