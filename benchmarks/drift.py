"""False alarms and detection of the drift check on synthetic windows of 30 features.

Each trial draws a reference and a current window with a seed of its own, and measures the drift. A false alarm is a
window without any change in which the decision is neither `steady` nor `not evaluated`. A detection is a window in
which exactly the changed columns must be named.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from ml_platform.monitoring.drift import DriftSettings, measure_drift

FEATURES, CHANGED = 30, 3
NAMES = [f"feature_{at}" for at in range(FEATURES)]
REFERENCE_FACTOR = 6
"""Rows of the reference for each row of the current window."""

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Array]

DISTRIBUTIONS: dict[str, Draw] = {
    "normal": lambda random, shape: random.normal(size=shape),
    "discrete": lambda random, shape: random.poisson(3, shape).astype(float),
    "heavy-tailed": lambda random, shape: random.standard_cauchy(shape),
    "half null": lambda random, shape: np.where(random.uniform(size=shape) < 0.5, np.nan, random.normal(size=shape)),
}

CHANGES: dict[str, tuple[str, Callable[[Array, np.random.Generator], Array]]] = {
    "shift of 0.3 σ": ("normal", lambda values, _: values + 0.3),
    "scale × 2, heavy tails": ("heavy-tailed", lambda values, _: values * 2),
    "nulls 0 to 15 %": (
        "normal",
        lambda values, random: np.where(random.uniform(size=values.shape) < 0.15, np.nan, values),
    ),
}


@dataclass(frozen=True)
class Rate:
    """The share of windows with a result."""

    case: str
    rows: int
    windows: int
    alarms: int
    """Windows in which at least one unchanged column was named."""
    detected: int | None
    """Windows in which at least one changed column was named; None without a change."""
    all_detected: int | None
    """Windows in which all changed columns were named; None without a change."""
    seconds: float
    """Mean time of one window."""


def measure(case: str, rows: int, windows: int, distribution: str, change: str | None) -> Rate:
    """Return the rates of ``windows`` windows of ``rows`` rows."""
    changed = set(NAMES[:CHANGED]) if change else set()
    alarms = detected = complete = 0
    seconds = 0.0
    for seed in range(windows):
        random = np.random.default_rng([seed, rows])
        values = DISTRIBUTIONS[distribution](random, (rows * (REFERENCE_FACTOR + 1), FEATURES))
        reference, current = values[rows:], values[:rows]
        if change:
            current[:, :CHANGED] = CHANGES[change][1](current[:, :CHANGED], random)
        tables = [pl.DataFrame(side, schema=NAMES) for side in (reference, current)]
        start = time.perf_counter()
        report = measure_drift(*tables, features=NAMES, settings=DriftSettings())
        seconds += time.perf_counter() - start
        named = set(report.drifted)
        alarms += bool(named - changed)
        detected += bool(named & changed)
        complete += named >= changed
    return Rate(
        case=case,
        rows=rows,
        windows=windows,
        alarms=alarms,
        detected=detected if change else None,
        all_detected=complete if change else None,
        seconds=round(seconds / windows, 3),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[500, 5_000, 100_000], help="Rows of a window.")
    parser.add_argument("--windows", type=int, default=300, help="Windows of each case.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")
    options = parser.parse_args()
    found = []
    for rows in options.rows:
        found += [measure(name, rows, options.windows, name, None) for name in DISTRIBUTIONS]
        found += [measure(name, rows, options.windows, drawn, name) for name, (drawn, _) in CHANGES.items()]
    if options.json:
        print(json.dumps({"rates": [asdict(each) for each in found]}))
        return
    table = Table("case", "rows", "windows", "false alarms", "detected", "all detected", "s per window")
    for each in found:
        shown = [each.case, each.rows, each.windows, each.alarms, each.detected, each.all_detected, each.seconds]
        table.add_row(*("" if value is None else f"{value}" for value in shown))
    Console().print(table)


if __name__ == "__main__":
    main()
