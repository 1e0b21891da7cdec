"""Cost of the online store with all aviation views: one row, a thousand rows, and a swap under constant reads.

The snapshot files contain the latest facts at the end of June 2013. The lookups are for flights of July.
"""

import argparse
import json
import statistics
import tempfile
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

from assets.aviation.features.request import schedule
from benchmarks.features import FIELDS, LEAD, ZONE, declared_views, landed_sources
from ml_platform.data.partitions import PartitionScheme
from ml_platform.features.change_log import Window, build
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.online_store import Snapshot, latest_facts
from ml_platform.features.row_columns import call_with_table
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.features.view import PREDICT_AT

MONTHS = PartitionScheme(start="2013-01", time_zone=ZONE)
WINDOW = Window(MONTHS.bounds("2013-05")[0], MONTHS.bounds("2013-06")[1])
MANY = 1_000
SWAPPED_VIEW = "origin_carrier"


def measure(folder: Path, rounds: int, swap_seconds: float) -> dict[str, Any]:
    """Return the times of lookups in microseconds and milliseconds, and the reads while a view was swapped."""
    features = FeatureSet(declared_views())
    sources = landed_sources(folder / "landing")
    snapshots = {
        view.name: latest_facts(view, build(view, sources, WINDOW).frame.lazy(), WINDOW.end) for view in features.stored
    }
    store = SnapshotStore(folder / "online")
    sizes = {name: store.publish(snapshot).size_bytes for name, snapshot in snapshots.items()}
    requests = _requests(sources)
    keys = requests.select(sorted({key for view in features.stored for key in view.entity}))
    ones = [{name: [value] for name, value in row.items()} for row in keys.head(rounds).to_dicts()]
    many = {name: values.to_list() for name, values in keys.head(MANY).to_dict().items()}
    one = _microseconds(lambda key: store.lookup(features.stored, key, 1), ones)
    batch = _microseconds(lambda key: store.lookup(features.stored, key, MANY), [many] * 50)
    rows = requests.select(*FIELDS, PREDICT_AT)
    whole = _microseconds(lambda row: features.serve(row, store), [rows[place] for place in range(200)])
    return {
        "views": len(features.stored),
        "columns": sum(len(view.dtypes) for view in features.stored),
        "entities": sum(snapshot.frame.height for snapshot in snapshots.values()),
        "size_mb": round(sum(sizes.values()) / 1e6, 2),
        "one_row_median_us": round(statistics.median(one), 1),
        "one_row_p99_us": round(statistics.quantiles(one, n=100)[98], 1),
        "thousand_rows_median_ms": round(statistics.median(batch) / 1_000, 2),
        "all_features_of_one_row_median_us": round(statistics.median(whole), 1),
        **_swapped(features, store, snapshots[SWAPPED_VIEW], ones, swap_seconds),
    }


def _requests(sources: dict[str, pl.LazyFrame]) -> pl.DataFrame:
    start, end = MONTHS.bounds("2013-07")
    due = pl.col("scheduled_departure")
    flights = sources["flights"].filter((due >= start) & (due < end)).collect().sample(5_000, seed=0)
    derived = call_with_table(schedule, flights).select(pl.col("hour", "weekday", "departure_hour").cast(pl.Int64))
    rows = flights.select(*FIELDS, (pl.col("scheduled_departure") - LEAD).alias(PREDICT_AT))
    return rows.hstack(derived)


def _swapped(
    features: FeatureSet, store: SnapshotStore, snapshot: Snapshot, requests: list[dict[str, Any]], seconds: float
) -> dict[str, Any]:
    """Publish snapshots whose values are all equal, under constant reads; two numbers in a read mean a torn read."""
    view = snapshot.view
    reader = SnapshotStore(store.root, refresh_seconds=0.0)
    views = [view]
    counts = {"reads": 0, "torn": 0, "failed": 0}
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            for key in requests[:200]:
                try:
                    found = reader.lookup(views, key, 1)
                except OSError:
                    counts["failed"] += 1
                    continue
                known = found.values[0][found.values[0] == found.values[0]]
                counts["torn"] += bool(len(known)) and bool((known != known[0]).any())
                counts["reads"] += 1

    def numbered(number: int) -> Snapshot:
        frame = snapshot.frame.with_columns(
            pl.lit(float(number), dtype).alias(name) for name, dtype in view.dtypes.items()
        )
        return Snapshot(view, frame, snapshot.watermark + timedelta(seconds=number))

    store.publish(numbered(1))
    thread = threading.Thread(target=read)
    thread.start()
    number, started, published = 1, time.perf_counter(), []
    while time.perf_counter() - started < seconds:
        number += 1
        before = time.perf_counter()
        store.publish(numbered(number))
        published.append(time.perf_counter() - before)
    stop.set()
    thread.join()
    return {
        "swaps": number,
        "swap_median_ms": round(statistics.median(published) * 1_000, 1),
        "reads_during_swaps": counts["reads"],
        "torn_reads": counts["torn"],
        "failed_reads": counts["failed"],
    }


def _microseconds(action: Any, arguments: list[Any]) -> list[float]:
    for argument in arguments[:20]:
        action(argument)
    elapsed = []
    for argument in arguments:
        started = time.perf_counter_ns()
        action(argument)
        elapsed.append((time.perf_counter_ns() - started) / 1_000)
    return elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--rounds", type=int, default=3_000, help="number of lookups of one row")
    parser.add_argument("--swap-seconds", type=float, default=5.0, help="seconds of swaps under reads")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), arguments.rounds, arguments.swap_seconds)
    if arguments.json:
        print(json.dumps(result))
        return
    table = Table("measured", "value", title="Online store")
    for name, value in result.items():
        table.add_row(name.replace("_", " "), f"{value:,}")
    Console().print(table)


if __name__ == "__main__":
    main()
