"""Feature views of current delays: the last hours and today, by origin, carrier and destination, and overdue flights.

A flight that has not left on time is a fact too, and the earliest sign of a disruption. It becomes known in the minute
in which the flight is overdue.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from assets.aviation.features.movements import DAY, GIVEN_UP_MINUTES, movements
from assets.aviation.features.ticks import Ticks, ratio
from ml_platform.features.change_log import Window

NOT_YET = 2**31 - 1


@dataclass(frozen=True)
class Spans:
    """The windows of a view, in minutes before the tick, and the ``step`` between ticks in minutes."""

    step: int
    departures: tuple[int, ...]
    arrivals: tuple[int, ...]
    overdue: tuple[int, ...]
    given_up: tuple[int, ...]
    in_air: tuple[int, ...]
    backlog: tuple[int, ...] = ()
    today: bool = True
    active_days: int = 2


SYSTEM = Spans(10, (60, 180), (60, 180, 1440), (0, 30, 60), (720, 1440), (120, 720), backlog=(120,))
ORIGIN = Spans(
    10, (30, 60, 120, 240), (60, 180, 1440), (0, 15, 30, 60, 120), (360, 1440), (120, 360), backlog=(60, 180)
)
ORIGIN_CARRIER = Spans(20, (120, 360), (240, 1440), (0, 30), (720,), (240,))
CARRIER = Spans(20, (120,), (180, 1440), (0, 60), (1440,), (240,))
DESTINATION = Spans(60, (180, 720), (240, 1440), (0,), (720,), (240,), today=False, active_days=7)


def system(sources: dict[str, pl.LazyFrame], window: Window) -> pl.DataFrame:
    """Return the state of all three airports together, every ten minutes."""
    return _state(sources["flights"], [], window, SYSTEM)


def origin(sources: dict[str, pl.LazyFrame], window: Window) -> pl.DataFrame:
    """Return the state of each airport of departure, every ten minutes."""
    return _state(sources["flights"], ["origin"], window, ORIGIN)


def origin_carrier(sources: dict[str, pl.LazyFrame], window: Window) -> pl.DataFrame:
    """Return the state of each carrier at each airport of departure, every twenty minutes."""
    return _state(sources["flights"], ["origin", "carrier"], window, ORIGIN_CARRIER)


def carrier(sources: dict[str, pl.LazyFrame], window: Window) -> pl.DataFrame:
    """Return the state of each carrier at the three airports together, every twenty minutes."""
    return _state(sources["flights"], ["carrier"], window, CARRIER)


def destination(sources: dict[str, pl.LazyFrame], window: Window) -> pl.DataFrame:
    """Return the state of the flights to each destination, every hour."""
    return _state(sources["flights"], ["dest"], window, DESTINATION)


def _state(flights: pl.LazyFrame, entity: list[str], window: Window, spans: Spans) -> pl.DataFrame:
    rows = (
        movements(flights)
        .select(
            *entity,
            "due",
            "left",
            "landed",
            "departure_delay",
            "departure_late",
            "arrival_delay",
            "arrival_late",
            "lost_in_air",
        )
        .collect()
    )
    windows = (*spans.departures, *spans.arrivals, *spans.given_up, *spans.in_air, *spans.backlog)
    ticks = Ticks(rows, entity, window, step=spans.step, reach=max(*windows, DAY, spans.active_days * DAY))
    codes = ticks.codes(rows)
    due = ticks.total(codes, rows["due"].to_numpy())
    columns = _departures(ticks, rows, codes, due, spans) | _arrivals(ticks, rows, codes, spans)
    columns |= _overdue(ticks, rows, codes, spans)
    # An entity without a flight for days has no row, rather than a row of zeros.
    return ticks.facts(columns, ticks.within(due, spans.active_days * DAY) > 0)


def _departures(
    ticks: Ticks, rows: pl.DataFrame, codes: np.ndarray, due: np.ndarray, spans: Spans
) -> dict[str, np.ndarray]:
    happened = rows["left"].is_not_null()
    gone, code = rows.filter(happened), codes[happened.to_numpy()]
    at = gone["left"].to_numpy()
    count = ticks.total(code, at)
    delay = ticks.total(code, at, gone["departure_delay"].to_numpy())
    late = ticks.total(code, at, gone["departure_late"].to_numpy())
    columns: dict[str, np.ndarray] = {}
    for span in spans.departures:
        number = ticks.within(count, span)
        columns[f"departures_{span}m"] = number
        columns[f"departure_delay_{span}m"] = ratio(ticks.within(delay, span), number)
        columns[f"departures_late_{span}m"] = ratio(ticks.within(late, span), number)
    if spans.today:
        number = ticks.today(count)
        columns["departures_today"] = number
        columns["departure_delay_today"] = ratio(ticks.today(delay), number)
        columns["departures_late_today"] = ratio(ticks.today(late), number)
    return columns | {f"backlog_{span}m": ticks.within(due, span) - ticks.within(count, span) for span in spans.backlog}


def _arrivals(ticks: Ticks, rows: pl.DataFrame, codes: np.ndarray, spans: Spans) -> dict[str, np.ndarray]:
    happened = rows["landed"].is_not_null()
    down, code = rows.filter(happened), codes[happened.to_numpy()]
    at = down["landed"].to_numpy()
    count = ticks.total(code, at)
    delay = ticks.total(code, at, down["arrival_delay"].to_numpy())
    late = ticks.total(code, at, down["arrival_late"].to_numpy())
    lost = ticks.total(code, at, down["lost_in_air"].to_numpy())
    columns: dict[str, np.ndarray] = {}
    for span in spans.arrivals:
        number = ticks.within(count, span)
        columns[f"arrivals_{span}m"] = number
        columns[f"arrival_delay_{span}m"] = ratio(ticks.within(delay, span), number)
        columns[f"arrivals_late_{span}m"] = ratio(ticks.within(late, span), number)
    return columns | {f"lost_in_air_{s}m": ratio(ticks.within(lost, s), ticks.within(count, s)) for s in spans.in_air}


def _overdue(ticks: Ticks, rows: pl.DataFrame, codes: np.ndarray, spans: Spans) -> dict[str, np.ndarray]:
    due = rows["due"].to_numpy().astype(np.int64)
    left = rows["left"].fill_null(NOT_YET).to_numpy().astype(np.int64)
    until = np.minimum(left, due + GIVEN_UP_MINUTES)
    columns: dict[str, np.ndarray] = {}
    for minutes in spans.overdue:
        waits = until > due + minutes
        code, start, end = codes[waits], due[waits], until[waits]
        number = ticks.now(ticks.total(code, start + minutes) - ticks.total(code, end))
        columns[f"overdue_{minutes}m"] = number
        if minutes == spans.overdue[0]:
            # Waited minutes of all these flights = tick × number − sum of the minutes at which they were due.
            since = start - int(ticks.minutes[0, 0])
            dues = ticks.now(ticks.total(code, start + minutes, since) - ticks.total(code, end, since))
            columns["overdue_minutes"] = (ticks.minutes - ticks.minutes[0, 0]) * number - dues
    given_up = left > due + GIVEN_UP_MINUTES
    total = ticks.total(codes[given_up], due[given_up] + GIVEN_UP_MINUTES)
    return columns | {f"given_up_{span}m": ticks.within(total, span) for span in spans.given_up}
