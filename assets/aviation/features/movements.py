"""Flights in whole minutes: when each was to leave, left, landed, and by how much it was late.

Apart because every view over flights counts the same things. Whole minutes since 1970 in UTC make every sum exact, so
that a value does not depend on the order in which facts are added.
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

    ``left`` and ``landed`` are null until they happen, and so is what follows from them: ``departure_delay``,
    ``arrival_delay`` and ``lost_in_air`` (what the delay grew by after the gate). Delays are clipped where a mean would
    otherwise be the story of one flight; ``…_late`` is 1 for more than 15 minutes.
    """
    due, left, landed = (_minutes(name) for name in ("scheduled_departure", "departed_at", "arrived_at"))
    block = _minutes("scheduled_arrival") - due
    departure_delay, arrival_delay = left - due, landed - due - block
    return flights.with_columns(
        due=due,
        left=left,
        # Known to have landed means known to have left: a few clocks of destinations disagree by an hour.
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
