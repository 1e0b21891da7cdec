"""False alarms and detection of the drift check on synthetic windows of 30 features.

Each trial draws a reference and a current window with a seed of its own, and measures the drift. A false alarm is a
window without any change in which the decision is neither `steady` nor `not evaluated`. A detection is a window in
which exactly the changed columns must be named.

`--large ROWS` measures time and peak memory of one window of a table of so many rows, in a fresh process. `--trials N`
compares the verdict on a sample with that on all rows, N times.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from ml_platform.data.lake import PARTITION
from ml_platform.monitoring.drift import DriftSettings, measure_drift
from ml_platform.monitoring.drift_report import DriftReport
from ml_platform.monitoring.drift_rows import read_drift_rows

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


PARTITIONS = [f"{month:02}" for month in range(1, 14)]
"""Twelve references and the window, as by default."""

WINDOW = PARTITIONS[-1]
TRIAL_ROWS, TRIAL_SHARE = 1_300_000, 0.1
"""Rows of a trial, and the share of them that the sample has."""


@dataclass(frozen=True)
class LargeWindow:
    """One window of a large table; ``peak_bytes`` is that of the whole process, with its libraries."""

    rows: int
    columns: int
    compared_rows: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    decision: str


@dataclass(frozen=True)
class Agreement:
    """Trials in which the sample and all rows gave the same decision and the same drifted columns."""

    case: str
    trials: int
    same: int
    drifted: int
    """Trials in which all rows drifted."""


def large_window(rows: int, folder: Path) -> LargeWindow:
    """Write a table of ``rows`` rows into ``folder``, and measure the drift of its last partition in a new process."""
    for at, partition in enumerate(PARTITIONS):
        table = _drawn(np.random.default_rng(at), partition, rows // len(PARTITIONS))
        table.write_parquet(folder / f"{partition}.parquet")
        del table
    # A forked process would begin with the peak of this one.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure_large, (folder,))


def _measure_large(folder: Path) -> LargeWindow:
    start, used = time.perf_counter(), time.process_time()
    report = _drift_of(pl.scan_parquet(folder / "*.parquet"), DriftSettings())
    return LargeWindow(
        rows=report.rows_reference + report.rows_current,
        columns=len(report.columns),
        compared_rows=report.compared_reference + report.compared_current,
        seconds=round(time.perf_counter() - start, 2),
        cpu_seconds=round(time.process_time() - used, 2),
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        decision=report.decision,
    )


def agreement(case: str, change: Callable[[Array, np.random.Generator], Array] | None, trials: int) -> Agreement:
    """Return how often the sample of a table gives the verdict on all its rows."""
    same = drifted = 0
    whole, sampled = (DriftSettings(read_rows=int(TRIAL_ROWS * share)) for share in (1.0, TRIAL_SHARE))
    for seed in range(trials):
        random = np.random.default_rng(seed)
        parts = [_drawn(random, partition, TRIAL_ROWS // len(PARTITIONS)) for partition in PARTITIONS]
        if change:
            values = change(parts[-1].select(NAMES[:CHANGED]).to_numpy(), random)
            parts[-1] = parts[-1].with_columns(
                pl.Series(name, values[:, at]) for at, name in enumerate(NAMES[:CHANGED])
            )
        table = pl.concat(parts).lazy()
        expected, found = (_drift_of(table, settings) for settings in (whole, sampled))
        same += (expected.decision, sorted(expected.drifted)) == (found.decision, sorted(found.drifted))
        drifted += bool(expected.drifted)
    return Agreement(case, trials, same, drifted)


def _drawn(random: np.random.Generator, partition: str, rows: int) -> pl.DataFrame:
    """Return the rows of a partition: features of all distributions in turn, in order of time."""
    drawn = list(DISTRIBUTIONS.values())
    features = {name: drawn[at % len(drawn)](random, (rows, 1))[:, 0] for at, name in enumerate(NAMES)}
    features |= {name: random.normal(size=rows) for name in NAMES[:CHANGED]}
    return pl.DataFrame(
        {PARTITION: [partition] * rows, "at": np.arange(rows) + rows * PARTITIONS.index(partition), **features}
    ).with_columns(example_id=pl.col("at").cast(pl.String))


def _drift_of(table: pl.LazyFrame, settings: DriftSettings) -> DriftReport:
    """Return the drift of the last partition, as the step of the asset measures it."""
    found = read_drift_rows(
        table,
        window=WINDOW,
        key="example_id",
        columns=NAMES,
        limit=settings.read_rows,
        window_limit=settings.windows * settings.sample_rows,
        seed=settings.seed,
    )
    earlier = found.totals_of(PARTITIONS[:-1])
    return measure_drift(
        found.rows.filter(pl.col(PARTITION) != WINDOW),
        found.rows.filter(pl.col(PARTITION) == WINDOW),
        features=NAMES,
        settings=settings,
        time="at",
        expected_rows=earlier.rows / (len(PARTITIONS) - 1),
        further_references={"last partition": found.rows.filter(pl.col(PARTITION) == PARTITIONS[-2])},
        reference_totals=earlier,
        current_totals=found.totals_of([WINDOW]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[500, 5_000, 100_000], help="Rows of a window.")
    parser.add_argument("--windows", type=int, default=300, help="Windows of each case.")
    parser.add_argument("--large", type=int, default=0, help="Rows of a large table; measures nothing else.")
    parser.add_argument("--trials", type=int, default=0, help="Comparisons of a sample with all rows; nothing else.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")
    options = parser.parse_args()
    if options.large or options.trials:
        _print_large(options.large, options.trials)
        return
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


def _print_large(rows: int, trials: int) -> None:
    """Print one JSON object with the results for a large table and for the trials."""
    found: dict[str, object] = {}
    if rows:
        with tempfile.TemporaryDirectory() as folder:
            found["large"] = asdict(large_window(rows, Path(folder)))
    if trials:
        cases: dict[str, Callable[[Array, np.random.Generator], Array] | None] = {"no change": None}
        cases |= {name: change for name, (distribution, change) in CHANGES.items() if distribution == "normal"}
        count = len(cases)
        shares = [trials * (at + 1) // count - trials * at // count for at in range(count)]
        found["agreement"] = [
            asdict(agreement(name, change, share)) for (name, change), share in zip(cases.items(), shares, strict=True)
        ]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
