"""Many models and many partitions: what loading, planning, a sensor tick and `status` cost at scale.

    python benchmarks/domains.py [--models 200] [--hours 175320] [--parts load,tick,plan,status] [--json]
    python benchmarks/domains.py --domains aviation,bikes,penguins [--json]

`load` reads a generated project of small models over one dataset, and resolves all its definitions. `plan` finds the
stale partitions of a table of 20 years of hours and of a view over it; `plan_first` does so without the versions that
an earlier plan has kept. `tick` is a tick of its landing sensor: with nothing new, and with one new file. `status` is
`ml-platform status` on the same project and home.

`--domains` runs the demo of each domain in a home of its own, and shows the lines of code and declarations under its
folder, the wall time from the landed files to the served predictions, and the processor time of the whole command with
its services and its imports, which depends less on the load of the machine.

Each other figure is processor time in seconds, the median of three where it is short. The ratio compares it with the
same work at a twentieth of the size in the same process: 20 is linear growth.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import dagster as dg
import polars as pl
import sqlalchemy as sa
import yaml
from dagster._core.events import DagsterEvent, DagsterEventType, StepMaterializationData
from dagster._core.events.log import EventLogEntry
from dagster._serdes import serialize_value

from ml_platform.components.declaration import partitions_definition
from ml_platform.components.materializations import LANDED_DIGEST
from ml_platform.data.landing import Landing
from ml_platform.data.landing_index import LandingIndex
from ml_platform.data.landing_requests import record_request
from ml_platform.data.partitions import PartitionScheme
from ml_platform.state.schema import contract_results, lake_files, lake_segments
from ml_platform.state.store import now_text
from resources.home import Home
from resources.home_lake import open_lake

LIMITS = {"load": 10.0, "plan_first": None, "plan": 2.0, "tick_nothing_new": 1.0, "tick_new_file": 1.0, "status": 2.0}
"""Greatest processor time in seconds, at the default sizes; None: no limit."""

PROJECT = Path(__file__).resolve().parents[1]

SMALLER = 20
"""The baseline is this many times smaller."""

HOURS = {"cadence": "hour", "start": "2006-01-01-00:00", "time_zone": "UTC"}
DATASET = dg.AssetKey(["datasets", "readings"])
VIEW = dg.AssetKey(["features", "level"])
PER_DOMAIN = 10


def measure(root: Path, *, models: int, hours: int, parts: set[str]) -> dict[str, Any]:
    """Return seconds and ratios of each of ``parts``; ``root`` is an empty folder for projects and homes."""
    seconds: dict[str, float] = {}
    small: dict[str, float] = {}
    for found, name, models_, hours_ in (
        (small, "small", max(models // SMALLER, 1), max(hours // SMALLER, 48)),
        (seconds, "large", models, hours),
    ):
        (root / name).mkdir()
        found |= _measure(root / name, models_, hours_, parts)
    ratios = {part: round(seconds[part] / small[part], 1) for part in seconds}
    return {"models": models, "hours": hours, "seconds": seconds, "smaller": small, "ratio": ratios, "limits": LIMITS}


def _measure(root: Path, models: int, hours: int, parts: set[str]) -> dict[str, float]:
    from ml_platform.components.project import load_definitions_of

    project = write_project(root / "project", models)
    found: dict[str, float] = {}
    if "load" in parts:
        found["load"] = _processor_seconds(lambda: _resolved(load_definitions_of(project, _resources())))
    if parts & {"plan", "tick", "status"}:
        home = Home(root / "home")
        scheme = PartitionScheme.model_validate(HOURS)
        keys = [scheme.shift(scheme.first, place) for place in range(hours)]
        fill_home(home, keys)
        if "tick" in parts:
            found |= _tick(home, scheme, keys)
        if "plan" in parts:
            found["plan_first"] = _plan(home, keys)
            found["plan"] = _plan(home, keys)
        if "status" in parts:
            found["status"] = _status(home, project)
    return {part: round(value, 3) for part, value in found.items()}


def measure_domains(root: Path, names: list[str]) -> dict[str, dict[str, float]]:
    """Return lines and seconds of each domain; ``root`` is an empty folder for their homes."""
    found = {}
    for name in names:
        files = [file for file in (PROJECT / "assets" / name).rglob("*") if file.suffix in (".py", ".yaml")]
        demo = [str(Path(sys.executable).parent / "ml-platform"), "demo", name, "--json"]
        before = _processor_seconds_of_children()
        done = subprocess.run(
            demo,
            env={**os.environ, "ML_PLATFORM_HOME": str(root / name)},
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        stages = json.loads(done.stdout.strip().splitlines()[-1])["stages"]
        seconds = sum(value for stage, value in stages.items() if stage != "land")
        lines = sum(len(file.read_text().splitlines()) for file in files)
        found[name] = {
            "lines": lines,
            "landed_to_served_seconds": round(seconds, 1),
            "processor_seconds": round(_processor_seconds_of_children() - before, 1),
        }
    return found


def _tick(home: Home, scheme: PartitionScheme, keys: list[str]) -> dict[str, float]:
    from ml_platform.components.dataset.component import Dataset
    from ml_platform.components.dataset.landing_sensor import landing_sensor
    from resources.lake import LakeResource

    sensor = landing_sensor(Dataset.model_validate(_dataset() | {"loader": None, "source": None}))
    cursor, times = "1", []
    with dg.DagsterInstance.ephemeral() as instance:

        def tick() -> None:
            nonlocal cursor
            context = dg.build_sensor_context(
                instance=instance, cursor=cursor, resources={"lake": LakeResource.for_home(home)}
            )
            found = sensor(context)
            cursor = getattr(found, "cursor", None) or cursor

        tick()  # the first comparison of all files
        nothing = median(_processor_seconds(tick) for _ in range(3))
        for place in range(3):
            name = scheme.shift(keys[-1], place + 1)
            (home.landing / "readings" / f"{name}.csv").write_text(f"id,level\n{place},1\n")
            times.append(_processor_seconds(tick))
    return {"tick_nothing_new": nothing, "tick_new_file": median(times)}


def _plan(home: Home, keys: list[str]) -> float:
    from ml_platform.console.materialize import find_stale

    hours = partitions_definition(PartitionScheme.model_validate(HOURS))

    @dg.asset(key=DATASET, partitions_def=hours, code_version="1", metadata={"dagster/table_name": "datasets/readings"})
    def readings() -> None: ...

    @dg.asset(key=VIEW, deps=[DATASET], partitions_def=hours, code_version="1")
    def level() -> None: ...

    loaded = dg.Definitions(assets=[readings, level])
    with _instance(home) as instance:
        stale: list[Any] = []
        seconds = _processor_seconds(
            lambda: stale.extend(find_stale(loaded, instance, home, [DATASET, VIEW], f"{keys[0]}...{keys[-1]}"))
        )
    assert not stale, stale[:3]
    return seconds


def _status(home: Home, project: Path) -> float:
    from ml_platform import definitions
    from ml_platform.console.status import status

    before, definitions.PROJECT_ROOT = definitions.PROJECT_ROOT, project
    try:
        status(home)  # what is imported once
        return median(_processor_seconds(lambda: status(home)) for _ in range(3))
    finally:
        definitions.PROJECT_ROOT = before


def write_project(root: Path, models: int) -> Path:
    """Write a project of ``models`` small models in domains of ten, over one dataset, and return its folder."""
    package = f"bench_{root.parent.name}"
    (root / package / "data").mkdir(parents=True)
    (root / "pyproject.toml").write_text(
        f'[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "{package}"\n'
        f'defs_module = "{package}"\nregistry_modules = ["ml_platform"]\n'
    )
    (root / package / "__init__.py").touch()
    functions = f"{package}.data.functions"
    (root / package / "data" / "__init__.py").touch()
    (root / package / "data" / "functions.py").write_text(
        "".join(f"def {each}(*_): ...\n" for each in ("readings", "level", "hour", "examples"))
    )
    view = {
        "name": "level",
        "entity": ["id"],
        "function": f"{functions}:level",
        "sources": [{"dataset": "readings", "available_from": {"at": ["at", "id", "level"]}}],
        "features": [{"name": "last", "description": "Last level", "derived_from": ["readings.level"]}],
    }
    request = {
        "name": "clock",
        "kind": "request",
        "function": f"{functions}:hour",
        "fields": ["at"],
        "features": [{"name": "hour", "description": "Hour of the day"}],
    }
    data = [
        ("Dataset", _dataset() | {"loader": f"{functions}:readings"}),
        ("FeatureView", view),
        ("FeatureView", request),
    ]
    _write_declarations(root / package / "data" / "defs.yaml", data)
    for first in range(0, models, PER_DOMAIN):
        folder = root / package / f"team_{first // PER_DOMAIN:03}"
        folder.mkdir()
        declared = [("Model", _model(place, functions)) for place in range(first, min(first + PER_DOMAIN, models))]
        _write_declarations(folder / "defs.yaml", declared)
    sys.path.insert(0, str(root))
    return root


def _write_declarations(path: Path, declared: list[tuple[str, dict[str, Any]]]) -> None:
    path.write_text(
        "---\n".join(yaml.safe_dump({"type": f"ml_platform.{kind}", "attributes": each}) for kind, each in declared)
    )


def _dataset() -> dict[str, Any]:
    columns = [("id", "integer"), ("level", "float"), ("at", "timestamp")]
    return {
        "name": "readings",
        "description": "One row per reading",
        "keys": ["id", "at"],
        "partitions": HOURS,
        "event_time": "at",
        "owners": ["team:water"],
        "contract": {"columns": [{"name": n, "type": t, "description": n} for n, t in columns]},
    }


def _model(place: int, functions: str) -> dict[str, Any]:
    return {
        "name": f"model_{place:03}",
        "description": "Whether the level rises",
        "owners": ["team:water"],
        "target": "rises",
        "partitions": {"start": "2006-01", "time_zone": "UTC"},
        "examples": {"function": f"{functions}:examples", "sources": ["readings"]},
        "request": [{"name": "id", "type": "int"}, {"name": "at", "type": "datetime"}],
        "prediction_time": {"field": "at"},
        "features": ["level", "clock"],
        "trainers": {"lightgbm": {"trainer": "lightgbm", "settings": {"max_rounds": 30}}},
        "gates": [{"type": "paired_test", "metric": "log_loss", "margin": 0.0}, {"type": "leak"}, {"type": "contract"}],
    }


def fill_home(home: Home, keys: list[str]) -> None:
    """Land a file for each of ``keys``, and record that each was read, checked, published and materialized."""
    folder = home.landing / "readings"
    folder.mkdir(parents=True)
    for place, key in enumerate(keys):
        path = folder / f"{key}.csv"
        path.write_text(f"id,level\n{place},1\n")
        os.utime(path, (1e9, 1e9))  # an age at which the modification time is trusted
    lake = open_lake(home)
    lake.write("datasets/readings", pl.DataFrame({"id": [1], "level": [1.0]}), keys[0])
    index = LandingIndex(Landing(home.landing), lake.state)
    known = set(keys)
    landed = {each.partition: each for each in index.refresh("readings", known.__contains__).due}
    record_request(lake.state, "readings", dict.fromkeys(landed.values(), 1), 1, time.time(), "1")
    digests = {key: landed[key].sha256 for key in keys}
    with lake.state.write() as connection:
        segment = connection.execute(sa.select(lake_segments)).one()._asdict()
        rest = [{**segment, "partition": key, "id": None} for key in keys[1:]]
        connection.execute(sa.insert(lake_segments), [{k: v for k, v in each.items() if k != "id"} for each in rest])
        # All segments share one small file, so that the time of a stat counts for each.
        file = connection.execute(sa.select(lake_files)).one()._asdict()
        ids = connection.scalars(sa.select(lake_segments.c.id).where(lake_segments.c.id != segment["id"])).all()
        connection.execute(sa.insert(lake_files), [{**file, "segment_id": each} for each in ids])
        connection.execute(
            sa.insert(contract_results),
            [
                {
                    "dataset": "readings",
                    "partition": key,
                    "passed_digest": segment["digest"],
                    "passed_landed_sha256": digests[key],
                    "passed_at": now_text(),
                }
                for key in keys
            ],
        )
    with _instance(home) as instance:
        _insert_materializations(instance, DATASET, keys, digests)
        _insert_materializations(instance, VIEW, keys, {})


def _insert_materializations(
    instance: dg.DagsterInstance, asset: dg.AssetKey, keys: list[str], digests: Mapping[str, str]
) -> None:
    """Add the events of one materialization per partition; Dagster's own function takes 5 ms for each."""
    storage: Any = instance.event_log_storage
    at = time.time()

    def rows() -> Iterator[dict[str, Any]]:
        for key in keys:
            metadata = {LANDED_DIGEST: dg.TextMetadataValue(digests[key])} if digests else {}
            made = dg.AssetMaterialization(
                asset, partition=key, metadata=metadata, tags={"dagster/code_version": "1", "dagster/data_version": key}
            )
            event = DagsterEvent(
                event_type_value=DagsterEventType.ASSET_MATERIALIZATION.value,
                job_name="filled",
                event_specific_data=StepMaterializationData(made, []),
            )
            entry: Any = EventLogEntry(  # type: ignore[no-untyped-call]
                error_info=None, level="INFO", user_message="", run_id="filled", timestamp=at, dagster_event=event
            )
            yield {
                "run_id": "filled",
                "event": serialize_value(entry),
                "dagster_event_type": DagsterEventType.ASSET_MATERIALIZATION.value,
                "timestamp": datetime.fromtimestamp(at, UTC).replace(tzinfo=None),
                "asset_key": asset.to_string(),
                "partition": key,
            }

    from dagster._core.storage.event_log.schema import SqlEventLogStorageTable

    instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=keys[0]))
    with storage.index_connection() as connection:
        connection.execute(sa.insert(SqlEventLogStorageTable), list(rows()))


def _instance(home: Home) -> dg.DagsterInstance:
    home.dagster.mkdir(parents=True, exist_ok=True)
    return dg.DagsterInstance.from_config(str(home.dagster))


def _resources() -> dg.Definitions:
    from resources.profiles import resources_of_profile

    return dg.Definitions(resources=resources_of_profile())


def _resolved(loaded: Any) -> None:
    project, definitions = loaded
    project.require_all()
    definitions.get_repository_def()


def _processor_seconds_of_children() -> float:
    """Return the processor time of all children that have ended, and of those that they waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _processor_seconds(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def _print(found: dict[str, Any]) -> None:
    print(f"{found['models']} models, {found['hours']:,} hourly partitions")
    print(f"{'part':20}{'seconds':>10}{'limit':>8}{'smaller':>10}{'ratio':>8}")
    for part, value in found["seconds"].items():
        print(
            f"{part:20}{value:>10.2f}{LIMITS[part] or '-':>8}{found['smaller'][part]:>10.2f}{found['ratio'][part]:>8}"
        )


def _domain_table(found: Mapping[str, Mapping[str, float]]) -> str:
    rows = [
        f"{name:12}{each['lines']:>8}{each['landed_to_served_seconds']:>10}{each['processor_seconds']:>11}"
        for name, each in found.items()
    ]
    return "\n".join([f"{'domain':12}{'lines':>8}{'seconds':>10}{'processor':>11}", *rows])


def main() -> None:
    """Run the benchmark and print its table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--hours", type=int, default=175_320)
    parser.add_argument("--parts", default="load,tick,plan,status", help="parts to measure, with commas")
    parser.add_argument(
        "--domains", default="", help="domains whose demos are measured, with commas, in place of these"
    )
    parser.add_argument("--json", action="store_true", help="print the measurements as one JSON object")
    arguments = parser.parse_args()
    if arguments.domains:
        with tempfile.TemporaryDirectory() as folder:
            of_domains = measure_domains(Path(folder), arguments.domains.split(","))
        print(json.dumps(of_domains, indent=2) if arguments.json else _domain_table(of_domains))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ML_PLATFORM_HOME"] = str(Path(folder) / "unused")
        found = measure(
            Path(folder), models=arguments.models, hours=arguments.hours, parts=set(arguments.parts.split(","))
        )
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        _print(found)


if __name__ == "__main__":
    main()
