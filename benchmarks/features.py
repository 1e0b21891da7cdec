"""Cost of a year of aviation features, compared with hand-written Polars, pandas and DuckDB, and as the tables grow.

The benchmark measures three ratios, each within one run:

- All views of a year and the point-in-time join of its labelled flights, against the same functions and joins by hand.
- The join alone, against pandas `merge_asof` and DuckDB `ASOF JOIN`.
- With `--tiles 1 10 100`: time and peak memory for 1, 10 and 100 copies of the year.
"""

import argparse
import inspect
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from rich.console import Console
from rich.table import Table

from assets.aviation.datasets import loaders
from assets.aviation.landing import land
from ml_platform.data.landing import Landing
from ml_platform.data.partitions import PartitionScheme
from ml_platform.data.references import load_function
from ml_platform.features.change_log import Window, build
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.row_columns import call_with_table
from ml_platform.features.view import KNOWN_AT, PREDICT_AT, FeatureView

ZONE = "America/New_York"
MONTHS = PartitionScheme(start="2013-01", time_zone=ZONE)
YEAR = Window(MONTHS.bounds("2013-01")[0], MONTHS.bounds("2013-12")[1])
TILE = timedelta(days=364)
"""Length of one copy of the year: whole weeks, so that every copy has the same weekdays."""

LOOKBACK = timedelta(days=36)
FIELDS = ["carrier", "flight", "tailnum", "origin", "dest", "scheduled_departure", "scheduled_arrival"]
LEAD = timedelta(hours=2)
DECLARATIONS = Path(__file__).parents[1] / "assets" / "aviation" / "features" / "defs.yaml"

Sources = dict[str, pl.LazyFrame]


def declared_views() -> list[FeatureView]:
    """Return the aviation views as their defs.yaml declares them."""
    documents = yaml.safe_load_all(DECLARATIONS.read_text(encoding="utf-8"))
    fields = set(FeatureView.model_fields)
    return [
        FeatureView.model_validate({name: value for name, value in each["attributes"].items() if name in fields})
        for each in documents
    ]


def landed_sources(folder: Path) -> Sources:
    """Land and load the year as the platform does; its time is not measured."""
    landing = Landing(folder)
    land(landing, "2013-12")
    airports = loaders.airports(landing.find("airports", None).path)
    months = landing.partitions("flights")
    flights = pl.concat([loaders.flights(landing.find("flights", month).path, airports) for month in months])
    weather = pl.concat([loaders.weather(landing.find("weather", month).path) for month in months])
    planes = loaders.planes(landing.find("planes", None).path)
    return {"flights": flights.lazy(), "weather": weather.lazy(), "planes": planes.lazy()}


def labelled(sources: Sources) -> pl.LazyFrame:
    """Return the flights with an outcome as examples."""
    flights = sources["flights"].filter(pl.col("arr_delay").is_not_null())
    return flights.select(*FIELDS, "arr_delay", (pl.col("scheduled_departure") - LEAD).alias(PREDICT_AT))


def by_the_engine(views: list[FeatureView], sources: Sources, examples: pl.LazyFrame) -> pl.DataFrame:
    """Build every change log with all its checks, and join the logs to ``examples``."""
    features = FeatureSet(views)
    logs = {view.name: build(view, sources, YEAR).frame.lazy() for view in features.stored}
    return features.as_of(examples, logs).collect()


def by_hand(views: list[FeatureView], sources: Sources, examples: pl.LazyFrame) -> pl.DataFrame:
    """Return the same table without the engine: the functions, a sort, one join per view, and no checks."""
    rows = examples.collect().sort(PREDICT_AT, maintain_order=True)
    requests = [view for view in views if view.kind == "request"]
    for view in (each for each in requests if not each.inputs):
        rows = rows.hstack(load_function(view.function)(rows).rename(view.column))
    rows = rows.with_columns(
        hour="schedule__hour", weekday="schedule__weekday", departure_hour="schedule__departure_hour"
    )
    for view in (each for each in views if each.kind == "stored"):
        facts = _plain_facts(view, sources).rename({name: view.column(name) for name in view.dtypes})
        keys = [pl.col(key).cast(facts.schema[key]) for key in view.entity]
        tolerance = None if view.tolerance_minutes is None else timedelta(minutes=view.tolerance_minutes)
        rows = rows.with_columns(keys).join_asof(
            facts,
            left_on=PREDICT_AT,
            right_on=KNOWN_AT,
            by=view.entity or None,
            tolerance=tolerance,
            check_sortedness=False,
        )
        rows = rows.drop(KNOWN_AT, strict=False)
    for view in (each for each in requests if each.inputs):
        rows = rows.hstack(load_function(view.function)(rows.with_columns(as_of=PREDICT_AT)).rename(view.column))
    return rows


def joined_by_pandas(views: list[FeatureView], logs: dict[str, pl.DataFrame], rows: pl.DataFrame) -> int:
    """Join all stored views with `merge_asof` and return the number of rows of the result."""
    import pandas as pd

    frame = rows.sort(PREDICT_AT).to_pandas()
    tables = {name: log.to_pandas() for name, log in logs.items()}
    started = time.perf_counter()
    for view in views:
        values = tables[view.name].rename(columns=view.column)
        values = values.rename(columns={view.column(name): name for name in [*view.entity, KNOWN_AT]})
        tolerance = None if view.tolerance_minutes is None else pd.Timedelta(minutes=view.tolerance_minutes)
        frame = pd.merge_asof(
            frame, values, left_on=PREDICT_AT, right_on=KNOWN_AT, by=view.entity or None, tolerance=tolerance
        ).drop(columns=KNOWN_AT)
    _ELAPSED["pandas"] = time.perf_counter() - started
    return len(frame)


def joined_by_duckdb(views: list[FeatureView], logs: dict[str, pl.DataFrame], rows: pl.DataFrame) -> int:
    """Join all stored views in one query of ASOF joins on two threads and return the number of rows of the result."""
    import duckdb

    connection = duckdb.connect(config={"threads": 2})
    connection.register("examples", rows.to_arrow())
    joins, columns = [], []
    for view in views:
        connection.register(f"log_{view.name}", logs[view.name].to_arrow())
        on = [f"e.{key} = {view.name}.{key}" for key in view.entity] + [f"e.{PREDICT_AT} >= {view.name}.{KNOWN_AT}"]
        joins.append(f"ASOF LEFT JOIN log_{view.name} AS {view.name} ON {' AND '.join(on)}")
        columns += [f"{view.name}.{name} AS {view.column(name)}" for name in view.dtypes]
    started = time.perf_counter()
    query = f"CREATE TABLE joined AS SELECT e.*, {', '.join(columns)} FROM examples AS e {' '.join(joins)}"
    connection.execute(query)
    _ELAPSED["duckdb"] = time.perf_counter() - started
    return int(connection.execute("SELECT count(*) FROM joined").fetchall()[0][0])


_ELAPSED: dict[str, float] = {}


def compare(repeats: int) -> dict[str, Any]:
    """Return the seconds of each method, fastest of ``repeats``, and their ratios."""
    views = declared_views()
    stored = [view for view in views if view.kind == "stored"]
    with tempfile.TemporaryDirectory() as folder:
        sources = landed_sources(Path(folder))
        examples = labelled(sources).collect().lazy()
    by_the_engine(views, sources, examples.head(1_000))
    # Alternate the two, so that other load on the machine affects both.
    turns = [
        (_seconds(lambda: by_the_engine(views, sources, examples)), _seconds(lambda: by_hand(views, sources, examples)))
        for _ in range(repeats)
    ]
    engine, hand = (min(seconds) for seconds in zip(*turns, strict=True))
    features = FeatureSet(views)
    logs = {view.name: build(view, sources, YEAR).frame for view in stored}
    lazy = {name: log.lazy() for name, log in logs.items()}
    join_only = FeatureSet([*(view for view in views if view.name == "schedule"), *stored])
    join = _best(lambda: join_only.as_of(examples, lazy).collect(), repeats)
    rows = examples.collect().with_columns(
        call_with_table(load_function("assets.aviation.features.request:schedule"), examples.collect()).select(
            pl.col("hour").cast(pl.Int64), pl.col("departure_hour").cast(pl.Int32), pl.col("weekday").cast(pl.Int8)
        )
    )
    heights = {joined_by_duckdb(stored, logs, rows), joined_by_pandas(stored, logs, rows), rows.height}
    if len(heights) != 1:
        raise AssertionError(f"the joins differ in their numbers of rows: {heights}")
    return {
        "flights": rows.height,
        "features": len(features.feature_names),
        "facts": sum(log.height for log in logs.values()),
        "seconds": round(engine, 2),
        "by_hand_seconds": round(hand, 2),
        "ratio_to_by_hand": round(engine / hand, 2),
        "join_seconds": round(join, 2),
        "pandas_join_seconds": round(_ELAPSED["pandas"], 2),
        "duckdb_join_seconds": round(_ELAPSED["duckdb"], 2),
        "times_faster_than_pandas": round(_ELAPSED["pandas"] / join, 2),
        "times_faster_than_duckdb": round(_ELAPSED["duckdb"] / join, 2),
    }


def grow(tiles: int, folder: Path) -> dict[str, Any]:
    """Build the views of ``tiles`` years, a year at a time, and join all their flights in one stream to a file.

    The result includes processor seconds, which other load on the machine does not affect.
    """
    views = declared_views()
    features = FeatureSet(views)
    sources = landed_sources(folder / "landing")
    used, started = _processor_seconds(), time.perf_counter()
    for tile in range(tiles):
        _build_year(features, sources, tile, tiles, folder)
    built = time.perf_counter() - started
    logs = {view.name: pl.scan_parquet(folder / view.name / "*.parquet") for view in features.stored}
    examples = pl.scan_parquet(folder / "examples" / "*.parquet")
    features.as_of(examples, logs).sink_parquet(folder / "joined.parquet", compression="lz4", lazy=False)
    elapsed, used = time.perf_counter() - started, _processor_seconds() - used
    rows = pl.scan_parquet(folder / "joined.parquet").select(pl.len()).collect().item()
    return {
        "tiles": tiles,
        "flights": rows,
        "seconds": round(elapsed, 1),
        "build_seconds": round(built, 1),
        "join_seconds": round(elapsed - built, 1),
        "seconds_per_million_flights": round(elapsed / rows * 1e6, 2),
        "processor_seconds_per_million_flights": round(used / rows * 1e6, 2),
        "peak_memory_gb": round(_peak_memory_bytes() / 1e9, 2),
    }


def _peak_memory_bytes() -> int:
    # Do not use getrusage: there a new process starts with the peak of its parent.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _build_year(features: FeatureSet, sources: Sources, tile: int, tiles: int, folder: Path) -> None:
    end = YEAR.end if tile == tiles - 1 else YEAR.start + TILE
    window = Window(YEAR.start + tile * TILE, end + tile * TILE)
    sources_by_name = {name: _tiled(frame, tile) for name, frame in sources.items()}
    for view in features.stored:
        if view.sources[0].dataset == "planes" and tile:
            continue
        (folder / view.name).mkdir(exist_ok=True)
        log = build(view, sources_by_name, window).frame
        log.write_parquet(folder / view.name / f"{tile:03}.parquet", compression="lz4")
    (folder / "examples").mkdir(exist_ok=True)
    inside = (pl.col("scheduled_departure") >= window.start) & (pl.col("scheduled_departure") < window.end)
    labelled(sources_by_name).filter(inside).collect().write_parquet(folder / "examples" / f"{tile:03}.parquet")


def _tiled(frame: pl.LazyFrame, tile: int) -> pl.LazyFrame:
    """Return copy ``tile`` of the year and, before it, the last weeks of the previous copy."""
    clock = next((name for name in ("scheduled_departure", "observed_at") if name in frame.collect_schema()), None)
    if clock is None:
        return frame
    times = [name for name, dtype in frame.collect_schema().items() if dtype == pl.Datetime("us", "UTC")]
    own = frame.with_columns(pl.col(times) + tile * TILE)
    if not tile:
        return own
    end: datetime = YEAR.start + TILE
    last_weeks = frame.filter((pl.col(clock) >= end - LOOKBACK) & (pl.col(clock) < end))
    return pl.concat([last_weeks.with_columns(pl.col(times) + (tile - 1) * TILE), own])


def _plain_facts(view: FeatureView, sources: Sources) -> pl.DataFrame:
    function = load_function(view.function)
    given = {source.dataset: sources[source.dataset] for source in view.sources}
    found = function(given, YEAR) if len(inspect.signature(function).parameters) > 1 else function(given)
    facts: pl.DataFrame = found.lazy().collect().with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None))
    return facts.with_columns(pl.col(name).cast(dtype) for name, dtype in view.dtypes.items()).sort(KNOWN_AT)


def _best(action: Callable[[], object], repeats: int) -> float:
    return min(_seconds(action) for _ in range(repeats))


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _processor_seconds() -> float:
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return spent.ru_utime + spent.ru_stime


def _in_a_process_of_its_own(tiles: int, folder: Path | None) -> dict[str, Any]:
    # Peak memory belongs to a process, so each size runs in a new one.
    command = [sys.executable, __file__, "--grow-once", str(tiles), *(["--folder", str(folder)] if folder else [])]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def _table(title: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--repeats", type=int, default=3, help="number of runs; the fastest counts")
    parser.add_argument(
        "--tiles", type=int, nargs="*", default=[], help="numbers of copies of the year, such as 1 10 100"
    )
    parser.add_argument("--folder", type=Path, help="folder for the copies of the year; 0.4 GB per copy")
    parser.add_argument("--grow-once", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.grow_once:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            print(json.dumps(grow(arguments.grow_once, Path(folder))))
        return
    result: dict[str, Any] = compare(arguments.repeats)
    growth = [_in_a_process_of_its_own(tiles, arguments.folder) for tiles in arguments.tiles]
    if arguments.json:
        print(json.dumps(result | ({"growth": growth} if growth else {})))
        return
    console = Console()
    console.print(_table("A year of features", [result]))
    if growth:
        console.print(_table("Growth", growth))


if __name__ == "__main__":
    main()
