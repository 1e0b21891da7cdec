"""A simulated life of three years: what a day costs at its end, compared with the first week.

    python benchmarks/lifetime.py [--days 1095] [--predictions 10000000] [--files 20000] [--models 5] [--json]

A small table has one partition per day. Each day lands files, writes the table and a change log, ingests the
predictions of every model, joins their outcomes, measures performance, records decisions and shows the status. The
first weeks of the first and of the last month are lived day by day and measured; the months between take one step per
month, with equal results: the same partitions, segments, files and records.

Ratios compare medians of processor time in the same run, because other processes on the machine disturb wall-clock
times; both are printed.
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from ml_platform.console.status import status
from ml_platform.data.contract_record import record_passed
from ml_platform.data.landing import Landing
from ml_platform.data.landing_index import FULL_COMPARISON_SECONDS, LandingIndex
from ml_platform.data.landing_requests import record_request
from ml_platform.features import change_log
from ml_platform.features.change_log import Window
from ml_platform.features.online_store import latest_facts
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.features.view import KNOWN_AT, FeatureView
from ml_platform.monitoring.fact_tables import compact_closed_days
from ml_platform.monitoring.outcome_join import LabelSource, record_outcomes
from ml_platform.monitoring.outcomes import outcomes_table
from ml_platform.monitoring.performance import PerformanceSettings
from ml_platform.monitoring.performance_periods import PerformanceMeasure, measured_periods
from ml_platform.monitoring.prediction_log import ingest_log_files, predictions_table
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import CHAMPION_KIND
from ml_platform.tasks.binary import BinaryTask
from resources.home import Home
from resources.home_lake import open_lake

FIRST_DAY = date(2020, 1, 1)
WEEK = 7
TABLE_ROWS = 500
ENTITIES = 200
VIEW = FeatureView(
    name="load",
    entity=["place"],
    features=[{"name": "mean", "description": "Mean of the day"}],  # type: ignore[list-item]
    function="benchmarks.lifetime:facts",
    key_types={"place": "string"},
    tolerance_minutes=3 * 24 * 60,
    code_version="1",
)
LIMITS = {"ratio": 1.3, "lake_ratio": 1.5, "rows_per_s": 20_000, "peak_mb": 1024, "tick_s": 1.0}


def facts(_sources: dict[str, pl.LazyFrame], window: Window) -> pl.LazyFrame:
    """Return one fact per entity at the start of the window."""
    return pl.LazyFrame(
        {
            "place": [f"place-{number}" for number in range(ENTITIES)],
            KNOWN_AT: [window.start] * ENTITIES,
            "mean": [float((number * 7 + window.start.day) % 50) for number in range(ENTITIES)],
        }
    )


class Life:
    """One home that grows older day by day; ``seconds`` has processor and wall-clock times by part."""

    def __init__(self, home: Home, *, models: int, predictions_per_day: int, files_per_day: float) -> None:
        self.home = home
        self.lake = open_lake(home)
        self.audit = AuditLog(self.lake.state)
        self.now = time.time()
        self.index = LandingIndex(Landing(home.landing), self.lake.state, lambda: self.now)
        self.online = SnapshotStore(home.online)
        self.models = [f"model_{number}" for number in range(models)]
        self.rows = max(1, predictions_per_day // models)
        self.files_per_day = files_per_day
        self.files = 0
        self.predictions = 0
        self.promotions = 0
        self.seconds: dict[str, list[tuple[float, float]]] = {}
        self.measures = False

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure the body as ``name``, in the measured weeks."""
        start, processor = time.perf_counter(), time.process_time()
        yield
        if self.measures:
            times = (time.process_time() - processor, time.perf_counter() - start)
            self.seconds.setdefault(name, []).append(times)

    def live(self, first: int, days: int) -> None:
        """Live ``days`` days from the day ``first``; facts of several days are ingested together."""
        for day in range(first, first + days):
            self._land(day)
            self._write_table(day)
            self._write_view(day)
            self._decide(day)
            for model in self.models:
                self._log_predictions(model, day)
        end = _instant(first + days)
        for model in self.models:
            with self.part("ingest"):
                added = ingest_log_files(self.lake, model, self.home.prediction_logs / model).added
                compact_closed_days(self.lake, predictions_table(model), end.date())
            self.predictions += added
            for day in range(first, first + days):
                self._write_labels(model, day)
            with self.part("outcomes"):
                labels = LabelSource(f"models/{model}/training_set", ["order"])
                joined = record_outcomes(self.lake, model, labels, known_by=end, now=end)
                compact_closed_days(self.lake, outcomes_table(model), end.date())
            if not added == joined == self.rows * days:
                raise SystemExit(f"{self.rows * days} lines became {added} predictions and {joined} outcomes")
            for log in (self.home.prediction_logs / model).iterdir():
                log.unlink()
            with self.part("performance"):
                measured_periods(self.lake, model, _measure(), known_by=end)
        with self.part("status"):
            status(self.home)

    def _land(self, day: int) -> None:
        folder = self.home.landing / "documents"
        folder.mkdir(parents=True, exist_ok=True)
        while self.files < self.files_per_day * (day + 1):
            name = f"d{self.files:06d}"
            (folder / f"{name}.csv").write_text(f"value\n{self.files}\n")
            # An age at which the modification time is trusted.
            os.utime(folder / f"{name}.csv", (1e9, 1e9 + self.files))
            self.files += 1
        with self.part("landing sensor, new files"):
            self._tick(day + 1, 60)
        with self.part("landing sensor, nothing new"):
            self._tick(day + 1, 60)
        with self.part("landing sensor, hourly comparison"):
            self._tick(day + 1, FULL_COMPARISON_SECONDS)

    def _tick(self, tick: int, seconds_later: float) -> None:
        self.now += seconds_later
        found = self.index.refresh("documents", lambda name: name.startswith("d"), confirmed_tick=tick)
        if found.due:
            record_request(self.index.state, "documents", dict.fromkeys(found.due, 1), tick, self.now, "1")
            self.index.mark_open("documents")

    def _write_table(self, day: int) -> None:
        frame = pl.DataFrame({"order": range(day * TABLE_ROWS, (day + 1) * TABLE_ROWS)}).with_columns(
            amount=pl.col("order") * 0.5, place=pl.format("place-{}", pl.col("order") % ENTITIES)
        )
        name = _name(day)
        with self.part("dataset"):
            self.lake.write(
                "datasets/orders",
                frame,
                name,
                lambda written: record_passed(
                    self.lake.state, "orders", name, content_digest=written.sha256, landed_sha256=written.sha256
                ),
            )

    def _write_view(self, day: int) -> None:
        window = Window(_instant(day), _instant(day + 1))
        with self.part("feature view"):
            change_log.write(VIEW, change_log.build(VIEW, {}, window), self.lake, _name(day))
            recent = [_name(each) for each in range(max(0, day - 3), day + 1)]
            self.online.publish(latest_facts(VIEW, change_log.read(VIEW, self.lake, partitions=recent), window.end))

    def _decide(self, day: int) -> None:
        with self.part("audit append"):
            self.audit.append("note", actor="benchmark", at=_instant(day), facts={"model": self.models[0], "day": day})
        if day % 11 == 0:
            self.promotions += 1
            model = self.models[self.promotions % len(self.models)]
            facts_of_champion = {
                "model": model,
                "version": self.promotions,
                "previous_version": None,
                "action": "promote",
                "reason": "All gates passed.",
                "content_digest": f"{self.promotions:064x}",
                "partition": _name(day),
                "manifest": {"training_set": f"{day:064x}", "tables": {"datasets/orders": day}},
                "verdict": None,
                "approved_by": [],
            }
            self.audit.append(CHAMPION_KIND, actor="benchmark", at=_instant(day), facts=facts_of_champion)

    def _log_predictions(self, model: str, day: int) -> None:
        folder = self.home.prediction_logs / model
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"1-{_name(day)}.jsonl").write_text("\n".join(_lines(model, day, self.rows)) + "\n")

    def _write_labels(self, model: str, day: int) -> None:
        start = _instant(day)
        frame = pl.DataFrame({"order": range(day * self.rows, (day + 1) * self.rows)}).with_columns(
            predict_at=pl.lit(start) + pl.duration(seconds=pl.col("order") % 80_000),
            label=(pl.col("order") % 3 == 0).cast(pl.Int8),
            label_known_at=pl.lit(start + timedelta(hours=23)),
        )
        self.lake.write(f"models/{model}/training_set", frame, _name(day))


def measure(folder: Path, *, days: int, predictions: int, files: int, models: int) -> dict[str, Any]:
    """Live a life in ``folder`` and return the costs of a day at its beginning and its end."""
    life = Life(
        Home(folder / "home"), models=models, predictions_per_day=predictions // days, files_per_day=files / days
    )
    first = _measured_week(life, 0)
    started, before = time.perf_counter(), life.predictions
    day, last_month = WEEK, _start_of_last_month(days)
    while day < last_month:
        step = min(30, last_month - day)
        life.live(day, step)
        day += step
    middle = time.perf_counter() - started
    ingested = life.predictions - before
    last = _measured_week(life, last_month)
    live_bytes, stored_bytes = _lake_bytes(life)
    return {
        "days": last_month + WEEK,
        "predictions": life.predictions,
        "files": life.files,
        "table_versions": (life.lake.version("datasets/orders") or 0) + 1,
        "promotions": life.promotions,
        "first_week_ms": {name: [round(each * 1e3, 2) for each in times] for name, times in first.items()},
        "last_week_ms": {name: [round(each * 1e3, 2) for each in times] for name, times in last.items()},
        "ratio": {name: round(last[name][0] / first[name][0], 2) for name in first},
        "rows_per_s_all_included": round(ingested / middle),
        "lake_bytes_per_live_byte": round(stored_bytes / live_bytes, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "state_mb": round(life.home.state.stat().st_size / 1e6, 1),
    }


def _start_of_last_month(days: int) -> int:
    """Return the first day of the last month that has a whole week within ``days``."""
    last = FIRST_DAY + timedelta(days=days - WEEK)
    return (last.replace(day=1) - FIRST_DAY).days


def _measured_week(life: Life, first: int) -> dict[str, tuple[float, float]]:
    """Return the median processor and wall-clock times (seconds) of a day in the week from the day ``first``."""
    life.seconds, life.measures = {}, True
    for day in range(first, first + WEEK):
        life.live(day, 1)
    life.measures = False
    return {
        name: (statistics.median(times[0] for times in measured), statistics.median(times[1] for times in measured))
        for name, measured in life.seconds.items()
    }


def _lake_bytes(life: Life) -> tuple[int, int]:
    live = sum(
        segment.size_bytes
        for table in life.lake.catalog.tables()
        for segment in life.lake.catalog.segments(table, with_files=False)
    )
    stored = sum(file.stat().st_size for file in life.home.lake.rglob("*") if file.is_file())
    return live, stored


def _measure() -> PerformanceMeasure:
    return PerformanceMeasure({"order": pl.Int64()}, BinaryTask().realised_metrics, "binary", PerformanceSettings())


def _lines(model: str, day: int, rows: int) -> list[str]:
    start = _instant(day)
    frame = pl.DataFrame({"order": range(day * rows, (day + 1) * rows)}).with_columns(
        at=(pl.lit(start) + pl.duration(seconds=pl.col("order") % 80_000)).dt.strftime("%Y-%m-%dT%H:%M:%S+00:00"),
        logged=(pl.lit(start) + pl.duration(seconds=pl.col("order") % 80_000 + 5)).dt.strftime(
            "%Y-%m-%dT%H:%M:%S+00:00"
        ),
        score=((pl.col("order") * 37) % 1000) / 1000,
    )
    line = (
        '{"prediction_id":"' + model + '-{}","request_id":"r{}","row":0,"model":"' + model + '","version":"1",'
        '"role":"stable","predict_at":"{}","as_of":"{}","logged_at":"{}","watermarks":{"load":"{}"},'
        '"ages":{"load":60.0},"request":{"order":{},"place":"place-{}"},"features":{"load__mean":{}},'
        '"score":{},"label":0}'
    )
    parts = line.split("{}")
    columns = ["order", "order", "at", "at", "logged", "at", "order", "order", "score", "score"]
    pieces: list[pl.Expr] = []
    for text, column in zip(parts, [*columns, None], strict=True):
        pieces.append(pl.lit(text))
        if column is not None:
            pieces.append(pl.col(column).cast(pl.String))
    return frame.select(pl.concat_str(pieces)).to_series().to_list()


def _instant(day: int) -> datetime:
    start = FIRST_DAY + timedelta(days=day)
    return datetime(start.year, start.month, start.day, tzinfo=UTC)


def _name(day: int) -> str:
    return (FIRST_DAY + timedelta(days=day)).isoformat()


def _print(found: dict[str, Any], show: Callable[[str], None]) -> None:
    show(
        f"{found['days']} days, {found['predictions']:,} predictions, {found['files']:,} landed files, "
        f"{found['table_versions']:,} table versions, {found['promotions']} promotions"
    )
    title = "part of a day (processor/wall ms)"
    show(f"{title:36}{'first week':>18}{'last week':>18}{'ratio':>8}   limit {LIMITS['ratio']}")
    for name, ratio in found["ratio"].items():
        before, after = ("{:.1f}/{:.1f}".format(*found[week][name]) for week in ("first_week_ms", "last_week_ms"))
        show(f"{name:36}{before:>18}{after:>18}{ratio:>8.2f}")
    show(f"stored lake bytes per live byte: {found['lake_bytes_per_live_byte']} (limit {LIMITS['lake_ratio']})")
    show(f"predictions per second, everything of the day included: {found['rows_per_s_all_included']:,}")
    show(f"peak memory: {found['peak_mb']} MB (limit {LIMITS['peak_mb']}); state store: {found['state_mb']} MB")


def main() -> None:
    """Run the benchmark and print its table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=1095)
    parser.add_argument("--predictions", type=int, default=10_000_000)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--models", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print the measurements as one JSON object")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(
            Path(folder),
            days=arguments.days,
            predictions=arguments.predictions,
            files=arguments.files,
            models=arguments.models,
        )
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        _print(found, print)


if __name__ == "__main__":
    main()
