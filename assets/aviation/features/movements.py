"""Flights in whole minutes: scheduled departure, departure, landing and delays, shared by every view over flights.

Whole minutes since 1970 in UTC make every sum exact, so a value does not depend on the order of the rows.
"""

import polars as pl

HOUR = 60
DAY = 24 * HOUR
GIVEN_UP_MINUTES = 4 * HOUR
"""A flight that has waited so long past its schedule counts as given up: it is overdue no longer."""

NIGHT_UTC = 8 * HOUR
"""08:00 UTC, three or four in the morning in New York: where a day of flights begins."""

LATE_MINUTES = 15

MINUTES = pl.Int32()


def movements(flights: pl.LazyFrame) -> pl.LazyFrame:
    """Return one row per flight with minutes since 1970 (``due``, ``left``, ``landed``) and minutes of duration.

    ``block`` is the planned duration from gate to gate. ``left`` and ``landed`` are null for events that did not
    happen, and so are the columns computed from them. ``lost_in_air`` is the growth of the delay after the gate.
    Delays are clipped, so that one flight does not dominate a mean. ``…_late`` is 1 for more than 15 minutes.
    """
    due, left, landed = (_minutes(name) for name in ("scheduled_departure", "departed_at", "arrived_at"))
    block = _minutes("scheduled_arrival") - due
    departure_delay, arrival_delay = left - due, landed - due - block
    return flights.with_columns(
        due=due,
        left=left,
        # A landing is never before the departure; a few clock times of destinations are wrong by an hour.
        landed=pl.when(left.is_not_null() & landed.is_not_null()).then(pl.max_horizontal(landed, left)),
        block=block,
        departure_delay=departure_delay.clip(-15, 180),
        departure_late=(departure_delay > LATE_MINUTES).cast(MINUTES),
        arrival_delay=arrival_delay.clip(-40, 180),
        arrival_late=(arrival_delay > LATE_MINUTES).cast(MINUTES),
        lost_in_air=(arrival_delay - departure_delay).clip(-60, 90),
    )


def instants(minutes: pl.Expr) -> pl.Expr:
    """Return minutes since 1970 as instants in UTC."""
    return (minutes.cast(pl.Int64) * 60_000_000).cast(pl.Datetime("us", "UTC"))


def _minutes(column: str) -> pl.Expr:
    return (pl.col(column).dt.epoch("us") // 60_000_000).cast(MINUTES)
