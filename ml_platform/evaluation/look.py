"""One look of the repeated test of a candidate: the window that it added, its error, and what it measured.

A verdict lists its looks, so the rows, the levels and the estimates of all of them are on record.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from ml_platform.evaluation.evidence import Evidence
from ml_platform.evaluation.gate_result import GateResult

ESTIMATE = ("improvement", "low", "high")
"""Numbers of a gate that compares the candidate with another model."""


@dataclass(frozen=True)
class LookWindow:
    """The window that a look adds: its partition, its number of new rows, and its end as ISO 8601 in UTC."""

    partition: str
    rows: int
    until: str


class Look(BaseModel):
    """One look at the pooled evidence of a candidate; the first one is that at the candidate's own window.

    ``rows`` counts those that the window added; ``pooled_rows``, ``blocks`` and ``cases`` those of all windows so far.
    ``cases`` are rows of the rarer class. ``level`` is the one-sided level of the comparisons of this look, and
    ``spent`` the part of the error over all looks that it spends. ``estimates`` has, by gate, the improvement with its
    interval at this level.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int
    window: str
    until: str
    rows: int
    pooled_rows: int
    blocks: int
    cases: int | None
    level: float
    spent: float
    estimates: dict[str, dict[str, float]]


def next_look(
    earlier: Sequence[Look], window: LookWindow, evidence: Evidence, gates: Sequence[GateResult], error: float
) -> Look:
    """Return the look after ``earlier`` at the pooled ``evidence``; ``error`` is the one over all looks."""
    number = len(earlier) + 1
    estimates = {
        gate.name: {name: float(gate.numbers[name] or 0.0) for name in ESTIMATE}
        for gate in gates
        if set(ESTIMATE) <= set(gate.numbers)
    }
    return Look(
        number=number,
        window=window.partition,
        until=window.until,
        rows=window.rows,
        pooled_rows=len(evidence.label),
        blocks=len(np.unique(evidence.block)),
        cases=evidence.task.rarest_class_rows(evidence.label),
        level=(1 - evidence.settings.confidence) / 2,
        spent=error / 2**number,
        estimates=estimates,
    )


def windows_needed(labels_needed: int | None, rows: int, windows: int) -> int | None:
    """Return about how many more windows have ``labels_needed`` labels; ``rows`` are those of ``windows`` so far."""
    return math.ceil(labels_needed * windows / rows) if labels_needed and rows else None


def data_length(days: float) -> str:
    """Return a length of data in words, in a unit of which there are some.

    >>> print(*map(data_length, (0.4, 20, 120, 790, 4000)), sep=", ")
    about 10 hours, about 20 days, about 4 months, about 26 months, about 11 years
    """
    months = days / _DAYS_PER_MONTH
    for count, unit in ((24 * days, "hours"), (days, "days"), (months, "months"), (months / 12, "years")):
        if count < _COUNT_UNTIL[unit]:
            break
    return f"about {math.ceil(count):,} {unit if count > 1 else unit[:-1]}"


_DAYS_PER_MONTH = 365.25 / 12
_COUNT_UNTIL = {"hours": 48, "days": 60, "months": 36, "years": math.inf}
"""Number of each unit from which the next longer one is used."""


def labels_needed_text(labels: int, days: float | None) -> str:
    """Return how many ``labels`` would decide; ``days`` of data have as many at the rate so far, None: unknown.

    >>> labels_needed_text(729_350, 790)
    "About 729,350 more labels would decide: about 26 months of data at today's rate."
    """
    at_rate = "" if days is None else f": {data_length(days)} of data at today's rate"
    return f"About {labels:,} more labels would decide{at_rate}."


def waiting_text(number: int, maximum: int, needed: int | None) -> str:
    """Return what happens to a candidate on HOLD after look ``number``; ``needed`` is a number of windows.

    >>> waiting_text(1, 6, 3)
    'Look 1 of at most 6: it is judged again when the next window closes. About 3 more windows would decide.'
    """
    if number >= maximum:
        return f"Look {number} of {maximum} was the last: it is not judged again."
    estimate = f" About {needed} more window{'s' if needed > 1 else ''} would decide." if needed else ""
    return f"Look {number} of at most {maximum}: it is judged again when the next window closes.{estimate}"


def looks_table(looks: Sequence[Look]) -> list[dict[str, object]]:
    """Return one row per look with its window, counts, level and estimates, for the UI and the model card."""
    return [
        {
            "look": look.number,
            "window": look.window,
            "rows": look.pooled_rows,
            "blocks": look.blocks,
            "cases": look.cases,
            "level": f"{look.level:.4f}",
            **{
                gate: f"{numbers['improvement']:+.4f} ({numbers['low']:+.4f} to {numbers['high']:+.4f})"
                for gate, numbers in look.estimates.items()
            },
        }
        for look in looks
    ]
