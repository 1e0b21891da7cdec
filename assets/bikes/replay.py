"""The replay of the bikes: how the days of a week arrive, the hours that are forecast in it, and planted incidents."""

from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from assets.bikes.demand import REQUEST_FIELDS, hours
from assets.bikes.landing import DAYS, land
from ml_platform.console.replay.incidents import Incident
from ml_platform.data.landing import Landing
from ml_platform.data.partitions import PartitionScheme

MODEL = "bike_demand"
ROW_NOUN = "hours"
POLICY = {"new_data": {"every_windows": 4}, "loss": {"tolerance": 1000}, "drift": {"severity": "alert"}}
"""Retraining policy of the replay, in place of the declared training on each week; the loss is in squared riders."""

WEEKS = PartitionScheme(cadence="week", start="2011-01-02", end="2011-12-25", time_zone=DAYS.time_zone)


def land_before(landing: Landing, window: str) -> None:
    """Land all days before the week ``window``."""
    land(landing, DAYS.shift(partitions_of(window)[0], -1))


def land_arriving(landing: Landing, window: str) -> None:
    """Land all days of the week but the last, whose counts arrive after all forecasts of the week were made."""
    land(landing, partitions_of(window)[-2])


def land_closed(landing: Landing, window: str) -> None:
    """Land the week as a whole."""
    land(landing, partitions_of(window)[-1])


def request_rows(scratch: Path, window: str) -> pl.DataFrame:
    """Return the request fields of all hours with riders of the week."""
    days = partitions_of(window)
    landed = land(Landing(scratch), days[-1])
    rows = [hours(file.path) for file in landed if file.partition in days]
    return pl.concat(rows).select(REQUEST_FIELDS)


def partitions_of(window: str) -> list[str]:
    """Return the days of the week ``window``."""
    return DAYS.covering(*WEEKS.bounds(window))


def _with_counts(change: Callable[[Sequence[int]], Sequence[int]]) -> Callable[[str, bytes], bytes]:
    """Return a function that changes the counts of riders in the file of a day."""

    def altered(_: str, data: bytes) -> bytes:
        header, *lines = data.splitlines(keepends=True)
        at = header.strip().replace(b'"', b"").split(b",").index(b"bikers")
        cells = [line.rstrip(b"\r\n").split(b",") for line in lines]
        counts = change([int(each[at]) for each in cells])
        changed = [
            b",".join([*each[:at], b"%d" % count, *each[at + 1 :]]) for each, count in zip(cells, counts, strict=True)
        ]
        return header + b"".join(line + b"\n" for line in changed)

    return altered


INCIDENTS = {
    "broken_sensor": Incident(
        "The counter is stuck: each hour has the count of the first hour of its day. Repaired after a week.",
        _with_counts(lambda counts: [counts[0]] * len(counts)),
    ),
    "schema_change": Incident(
        "The export renames the column 'bikers' to 'rentals'. Undone after a week.",
        lambda _, data: data.replace(b'"bikers"', b'"rentals"', 1),
    ),
    "concept_shift": Incident(
        "From this week on, 60 % more people ride in each hour than before.",
        _with_counts(lambda counts: [round(1.6 * each) for each in counts]),
        windows=None,
        repaired=False,
    ),
}
"""Incidents that `--plant NAME=WEEK` plants."""
