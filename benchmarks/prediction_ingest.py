"""Cost of ingesting logged predictions and joining their outcomes: speed, stored bytes and memory.

    python benchmarks/prediction_ingest.py [--megabytes 12 24 48] [--folder FOLDER]

Each size is ingested into a new lake in a process of its own. ``rows/s`` counts parsing, storing and the join with
labels; ``cpu`` is the same in seconds of processor time per 20,000 rows, which does not depend on other processes.
"""

import argparse
import json
import multiprocessing
import random
import resource
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from ml_platform.data.lake import Lake
from ml_platform.monitoring.outcome_join import LabelSource, record_outcomes
from ml_platform.monitoring.prediction_days import labelled_count
from ml_platform.monitoring.prediction_log import ingest_log_files, predictions_table

MODEL = "benchmark"
LABELS = "models/benchmark/training_set"
JUNE = datetime(2013, 6, 1, tzinfo=UTC)
FEATURES = 20
ORDERS = 40_000
ROWS_PER_UNIT = 20_000


def log_line(number: int, draw: random.Random) -> bytes:
    """Return a line as a service writes it: six request fields, twenty features, two feature views."""
    order = number % ORDERS
    due = JUNE + timedelta(minutes=order)
    logged = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(milliseconds=5 * number)
    line = {
        "prediction_id": f"{number:08x}-0000-7000-8000-{draw.getrandbits(48):012x}",
        "request_id": f"{draw.getrandbits(128):032x}",
        "model": MODEL,
        "version": "7",
        "role": "stable",
        "logged_at": logged.isoformat(),
        "watermarks": {"load": "2026-01-01T00:00:00+00:00", "weather": "2026-01-01T00:00:00+00:00"},
        "row": 0,
        "predict_at": due.isoformat(),
        "as_of": logged.isoformat(),
        "ages": {"load": draw.uniform(0, 600), "weather": None},
        "request": {
            "order": order, "place": draw.choice(["north", "south", "east"]), "kind": f"k{draw.randrange(40)}",
            "weight": draw.uniform(1, 90), "due": due.isoformat(), "note": None,
        },
        "features": {f"load__feature_{at}": draw.gauss(0, 1) for at in range(FEATURES)},
        "score": draw.random(),
        "label": 0,
    }  # fmt: skip
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


def write_log(path: Path, size_bytes: int) -> int:
    """Write about ``size_bytes`` of log and return the number of lines."""
    draw, count = random.Random(1), 0
    with path.open("wb") as file:
        while file.tell() < size_bytes:
            file.write(log_line(count, draw))
            count += 1
    return count


def land_labels(lake: Lake) -> None:
    """Write the labels of all orders."""
    orders = pl.int_range(ORDERS, eager=True)
    due = pl.Series([JUNE + timedelta(minutes=at) for at in range(ORDERS)], dtype=pl.Datetime("us", "UTC"))
    frame = pl.DataFrame({"order": orders, "predict_at": due, "label": (orders % 2).cast(pl.Int8)})
    lake.write(LABELS, frame.with_columns(label_known_at=pl.col("predict_at") + pl.duration(hours=2)), "2013-06")


def measured(folder: Path, lines: int) -> dict[str, float]:
    """Ingest and join the log in ``folder``, and return the measurements."""
    log_bytes = sum(file.stat().st_size for file in (folder / "logs").iterdir())
    lake = Lake.standalone(folder / "lake")
    land_labels(lake)
    # The memory of the libraries and of the labels is not that of the ingestion.
    before = resource.getrusage(resource.RUSAGE_SELF)
    started, cpu = time.perf_counter(), time.process_time()
    added = ingest_log_files(lake, MODEL, folder / "logs").added
    ingested = time.perf_counter()
    known_by = JUNE + timedelta(days=365)
    facts = record_outcomes(lake, MODEL, LabelSource(LABELS, ["order"]), known_by=known_by, now=datetime.now(UTC))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    after = resource.getrusage(resource.RUSAGE_SELF)
    if not added == lines == facts == labelled_count(lake.state, MODEL):
        raise SystemExit(f"{lines} lines became {added} predictions and {facts} outcomes")
    lake_bytes = sum(file.stat().st_size for file in (folder / "lake" / predictions_table(MODEL)).rglob("*.parquet"))
    return {
        "log_mb": log_bytes / 2**20,
        "rows": lines,
        "ingest_s": ingested - started,
        "join_s": seconds - (ingested - started),
        "rows_per_s": lines / seconds,
        "cpu_s": cpu / lines * ROWS_PER_UNIT,
        "lake_per_log": lake_bytes / log_bytes,
        "peak_mb": after.ru_maxrss / 1024,
        "added_peak_mb": (after.ru_maxrss - before.ru_maxrss) / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[12, 24, 48], help="sizes of the log")
    parser.add_argument("--folder", type=Path, help="folder for the lakes; default: a temporary one")
    arguments = parser.parse_args()
    found = []
    for megabytes in arguments.megabytes:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            folder = Path(name)
            (folder / "logs").mkdir()
            lines = write_log(folder / "logs" / "7.jsonl", megabytes * 2**20)
            # A new process, because the peak of memory is that of the whole process.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found.append(pool.apply(measured, (folder, lines)))
        print(json.dumps({name: round(value, 3) for name, value in found[-1].items()}), flush=True)
    first, last = found[0], found[-1]
    print(
        f"From {first['log_mb']:.0f} to {last['log_mb']:.0f} MB of log: "
        f"cpu per row × {last['cpu_s'] / first['cpu_s']:.2f}, "
        f"lake bytes per log byte × {last['lake_per_log'] / first['lake_per_log']:.2f}, "
        f"peak memory × {last['peak_mb'] / first['peak_mb']:.2f}"
    )


if __name__ == "__main__":
    main()
