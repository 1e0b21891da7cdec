"""Migration of a home from version 2 to 3: state moves from files, commit notes and absolute paths to the state store.

Every step may run again after a kill. The old files stay beside the store, with the suffix `.imported`.
"""

import sqlite3
import urllib.parse
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ml_platform.errors import listed
from ml_platform.state.schema import WHOLE
from resources.home import ARTIFACT_ROOT, Home
from resources.private_files import restrict_access
from resources.state_location import state_at, state_location

if TYPE_CHECKING:
    from ml_platform.data.lake import Lake

IMPORTED_SUFFIX = ".imported"
DATASET_PREFIX, MODEL_PREFIX = "datasets/", "models/"
ARTIFACT_FOLDERS = "/mlflow/artifacts"
"""The end of the absolute address of the artifacts of a home, before version 3."""

MLFLOW_ADDRESSES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "model_versions": ("source", "storage_location"),
    "logged_models": ("artifact_location",),
}
"""Columns of MLflow's database that contain addresses of artifacts, by table."""

DEFAULT_EXPERIMENT = 0
"""Id of the experiment that MLflow makes for itself, in the working directory of that time."""


@dataclass(frozen=True)
class Changes:
    """The changes of a step of the migration, and the items that it could not take over; one text each."""

    made: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def __add__(self, other: "Changes") -> "Changes":
        return Changes([*self.made, *other.made], [*self.left_out, *other.left_out])


def make_private(home: Home) -> Changes:
    """Let only the owner of the home read it, or also the declared group."""
    return Changes(restrict_access(home.root))


def save_database(home: Home) -> Changes:
    """Copy MLflow's database before it is changed; the first copy is kept."""
    source, target = home.mlflow / "mlflow.db", home.upgrade(2, 3) / "mlflow.db"
    if not source.exists() or target.exists():
        return Changes()
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    with closing(_connect(source)) as opened, closing(sqlite3.connect(unfinished)) as copy:
        opened.backup(copy)
    unfinished.replace(target)
    return Changes([f"copied {source.name} to {target.relative_to(home.root)}"])


def create_state(home: Home) -> Changes:
    """Create the state store, or bring its schema to the version of this code."""
    revisions = state_at(state_location(home)).migrate()
    return Changes([f"brought the state store to revision {revisions[-1]}"] if revisions else [])


def import_lake(home: Home) -> Changes:
    """Add the Delta tables to the catalog, and record that the published partitions of datasets passed their checks.

    Earlier releases published a partition only after its checks had passed.
    """
    from ml_platform.data.lake import Lake
    from ml_platform.data.lake_adoption import adopt_delta_tables

    state = state_at(state_location(home))
    lake = Lake(str(home.lake), state)
    report = adopt_delta_tables(lake)
    for table in lake.catalog.tables():
        if table.startswith(DATASET_PREFIX):
            _record_published(lake, table)
    made = [f"added {len(report.tables)} tables of the lake to the catalog"] if report.tables else []
    return Changes(made, [f"table '{table}': {reason}" for table, reason in report.failed.items()])


def _record_published(lake: "Lake", table: str) -> None:
    from ml_platform.data.contract_record import await_adoption, published_files, record_passed

    dataset = table.removeprefix(DATASET_PREFIX)
    with lake.state.write():
        known = published_files(lake.state, dataset)
        unknown = {name: digest for name, digest in lake.digests(table).items() if (name or WHOLE) not in known}
        for partition, digest in unknown.items():
            record_passed(lake.state, dataset, partition, content_digest=digest, landed_sha256=None)
        if unknown:
            await_adoption(lake.state, dataset)


def import_decisions(home: Home) -> Changes:
    """Add the audit log, the verdicts, the verified bentos and the desired states to the store."""
    from ml_platform.registry.audit import AuditLog
    from ml_platform.registry.verdict_record import import_verdict_files
    from ml_platform.serving.desired_state import import_desired_states
    from ml_platform.serving.verified_bentos import import_verified_bentos

    state = state_at(state_location(home))
    audit = AuditLog(state)
    old_log, old_verdicts = home.records / "audit.jsonl", home.records / "verdicts"
    old_metrics, old_bentos = home.records / "metrics", home.records / "bentos"
    records = audit.import_jsonl(old_log) if old_log.exists() else 0
    verdicts, missing_verdicts = import_verdict_files(audit, old_verdicts, old_metrics)
    bentos, unreadable_bentos = import_verified_bentos(state, old_bentos)
    models = import_desired_states(state, home.serving, home.bentos)
    made = [
        *_counted(records, "records of the audit log"),
        *_counted(verdicts, "verdicts"),
        *_counted(bentos, "verified bentos"),
        *([f"added the desired states of {listed(models)}"] if models else []),
    ]
    left_out = [*(f"verdict: {each}" for each in missing_verdicts), *(f"bento {each}" for each in unreadable_bentos)]
    for path in (old_log, old_log.with_name(f"{old_log.name}.head"), old_verdicts, old_metrics, old_bentos):
        _set_aside(path)
    for path in home.serving.glob("*/desired_state.json"):
        _set_aside(path)
    return Changes(made, left_out)


def import_predictions(home: Home) -> Changes:
    """Split the logged predictions and their outcomes into days, and take over the positions in the log files."""
    from ml_platform.data.lake import Lake

    lake = Lake(str(home.lake), state_at(state_location(home)))
    folders = {path.name for path in home.serving.glob("*") if path.is_dir() and path != home.prediction_logs}
    models = {table.split("/")[1] for table in lake.catalog.tables() if table.startswith(MODEL_PREFIX)}
    if not folders | models:
        return Changes()
    from ml_platform.monitoring.month_tables import import_predictions_by_month

    made = []
    for model in sorted(folders | models):
        cursor = home.serving / model / "ingested.json"
        made += import_predictions_by_month(lake, model, cursor)
        _set_aside(cursor)
    return Changes(made)


def relocate_artifacts(home: Home) -> Changes:
    """Replace the absolute addresses of artifacts in MLflow's database, so that the home can be moved."""
    database = home.mlflow / "mlflow.db"
    if not database.exists():
        return Changes()
    changed = 0
    with closing(_connect(database)) as connection, connection:
        connection.create_function("relocated", 1, relocated, deterministic=True)
        existing = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table, columns in MLFLOW_ADDRESSES.items():
            for column in columns if table in existing else ():
                # The names are constants of this module.
                statement = f"UPDATE {table} SET {column} = relocated({column}) WHERE relocated({column}) <> {column}"
                changed += connection.execute(statement).rowcount
        if "experiments" in existing:
            changed += _relocate_default_experiment(connection)
    return Changes([f"made {changed} addresses of MLflow artifacts relative to the home"] if changed else [])


def relocated(address: str | None) -> str | None:
    """Return ``address``, a local path or a file URI of the artifacts of a home, relative to the home.

    The home may have been moved since, so the end of the address counts, not where the home lies now. Any other address
    is returned unchanged, for example that of a run or of a bucket.
    """
    if address is None or not address.startswith(("/", "file:")):
        return address
    # An own folder may be called like that too, so the last occurrence counts.
    _, found, rest = address.rpartition(ARTIFACT_FOLDERS)
    if not found or (rest and not rest.startswith("/")):
        return address
    return ARTIFACT_ROOT + (rest if address.startswith("file:") else urllib.parse.quote(rest))


def _relocate_default_experiment(connection: sqlite3.Connection) -> int:
    """Move the address of MLflow's own experiment from the old working directory to the home, if it has no runs."""
    statement = (
        "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ? AND artifact_location NOT LIKE ? "
        "AND experiment_id NOT IN (SELECT experiment_id FROM runs)"
    )
    address = f"{ARTIFACT_ROOT}/{DEFAULT_EXPERIMENT}"
    return connection.execute(statement, (address, DEFAULT_EXPERIMENT, f"{ARTIFACT_ROOT}%")).rowcount


def _connect(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{urllib.parse.quote(str(database))}?mode=rw", uri=True, timeout=60)


def _set_aside(path: Path) -> None:
    """Rename ``path``; an earlier file of that name is kept."""
    if not path.exists():
        return
    number, target = 1, path.with_name(f"{path.name}{IMPORTED_SUFFIX}")
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}{IMPORTED_SUFFIX}-{number}")
    path.replace(target)


def _counted(count: int, items: str) -> list[str]:
    return [f"added {count} {items}"] if count else []
