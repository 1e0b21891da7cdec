"""The life of a small home in steps, and a program that performs each step in a process that can be killed.

As a program it reads one request per line. It forks a process for each step, because a fork is much faster than a new
interpreter. The program itself uses no library that starts threads.
"""

import importlib
import io
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
MONTH = "2013-03"
"""Month of the candidate."""

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LOGGED_AT = datetime(2013, 4, 20, 12, tzinfo=UTC)
LOG_FILES, LINES_PER_FILE = 10, 60
DATASET = "deliveries"
BACKUPS = "backups"
"""Folder of the backups beside the home."""

NOT_ARGUMENTS = frozenset({"step", "home", "kill_at", "environment"})
"""Parts of a request that are no arguments of its step; ``environment`` are variables for its process."""

CREATING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = frozenset({"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate", "subprocess.Popen"})
"""Audit events of Python that change files or start a program."""

PRELOADED = (
    "bentoml",
    "great_expectations",
    "lightgbm",
    "matplotlib.pyplot",
    "mlflow.models",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "pyarrow.fs",
    "scipy.stats",
    "sklearn.isotonic",
    "sklearn.linear_model",
    "ml_platform.data.expectations",
    "ml_platform.monitoring.outcome_join",
    "ml_platform.steps.backup",
    "ml_platform.steps.evaluation",
    "ml_platform.steps.monitoring",
    "ml_platform.steps.promotion",
    "ml_platform.steps.verification",
    "ml_platform_tests.components.delivery_home",
)
"""Modules that the program imports before it forks."""


@dataclass(frozen=True)
class Outcome:
    """The end of one step: killed, or ended with an error (``error`` and ``message``) or without (``error`` is "")."""

    killed: bool
    operations: int
    error: str
    message: str
    result: Any


class StepProgram:
    """A running program that performs steps on homes; ``scratch`` is its folder for temporary files."""

    def __init__(self, scratch: Path) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(scratch),
            "POLARS_MAX_THREADS": "2",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        }
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env=environment,
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, step: str, root: Path, *, kill_at: int = 0, **arguments: Any) -> Outcome:
        """Perform ``step`` on the home at ``root``; kill its process at its operation ``kill_at`` (0: never)."""
        return self.run_together((step, root, {"kill_at": kill_at, **arguments}))[0]

    def run_together(self, *steps: tuple[str, Path, Mapping[str, Any]]) -> list[Outcome]:
        """Perform steps in one process each; all of them begin at the same moment."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = [{"step": step, "home": str(root), **arguments} for step, root, arguments in steps]
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the step program has ended"
        return [Outcome(**each) for each in json.loads(line)]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


@dataclass(frozen=True)
class Life:
    """A folder with a home and its backups."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def copy(self, target: Path) -> "Life":
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.folder, target, symlinks=True)
        return Life(target)


def done(program: StepProgram, step: str, *lives: Life, **arguments: Any) -> list[Any]:
    """Perform ``step`` on all ``lives`` at once, and return the results; an error of the step fails the test."""
    outcomes = program.run_together(*((step, life.home, arguments) for life in lives))
    assert [each.error for each in outcomes] == [""] * len(lives), [each.message for each in outcomes]
    assert not any(each.killed for each in outcomes)
    return [each.result for each in outcomes]


def difference(expected: Any, found: Any, place: str = "") -> str:
    """Return the first place in which JSON values differ, with both values; "" for equal ones."""
    if isinstance(expected, dict) and isinstance(found, dict):
        names = [*expected, *(name for name in found if name not in expected)]
        pairs: list[tuple[str, Any, Any]] = [(str(name), expected.get(name), found.get(name)) for name in names]
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = [(str(number), *both) for number, both in enumerate(zip(expected, found, strict=True))]
    else:
        return "" if expected == found else f"{place} is {str(found)[:300]}, not {str(expected)[:300]}"
    return next((text for name, one, other in pairs if (text := difference(one, other, f"{place}/{name}"))), "")


def main() -> None:
    """Serve requests until the standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    _preload()
    for line in sys.stdin:
        answers.write(json.dumps(_perform_together(json.loads(line))) + "\n")
        answers.flush()


def _perform_together(requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    start_read, start_write = os.pipe()
    children = []
    for request in requests:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(start_write)
            os.close(read)
            _child(request, start_read, write)
        os.close(write)
        children.append((pid, read))
    os.close(start_read)
    os.close(start_write)
    outcomes = []
    for pid, read in children:
        answer = _read_until_exit(pid, read)
        outcomes.append(json.loads(answer) if answer.endswith(b"}") else _killed(answer))
    return outcomes


def _read_until_exit(pid: int, descriptor: int) -> bytes:
    """Return what the child wrote; a program that it started may keep the pipe open after its death."""
    answer, ended = b"", False
    while True:
        ready, _, _ = select.select([descriptor], [], [], 0 if ended else 0.02)
        if ready:
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                break
            answer += chunk
        elif ended:
            break
        if not ended:
            ended = os.waitpid(pid, os.WNOHANG)[0] == pid
    os.close(descriptor)
    if not ended:
        os.waitpid(pid, 0)
    return answer


def _killed(answer: bytes) -> dict[str, Any]:
    return {"killed": True, "operations": 0, "error": "", "message": answer.decode(), "result": None}


def _child(request: Mapping[str, Any], start: int, answer: int) -> None:
    os.setsid()
    os.set_inheritable(answer, False)
    os.read(start, 1)  # ends when the parent closes its end, so all children start together
    os.environ.update(request.get("environment", {}))
    counter = OperationCounter(int(request.get("kill_at", 0)))
    counter.install()
    error = message = ""
    result = None
    try:
        result = perform(request)
    except BaseException as raised:
        error, message = type(raised).__name__, str(raised)
        traceback.print_exc()
    counter.limit = 0
    ended = {
        "killed": False,
        "operations": counter.count,
        "error": error,
        "message": message,
        "result": result,
    }
    os.write(answer, json.dumps(ended).encode())
    os._exit(0)


class OperationCounter:
    """Counts the durable operations of this process, and kills it at the operation ``limit`` (0: never)."""

    def __init__(self, limit: int) -> None:
        self.limit, self.count = limit, 0

    def install(self) -> None:
        """Count changes of files, flushes to the disk, commits to databases and started programs."""
        import sqlalchemy as sa

        sys.addaudithook(self._audit)
        flush = os.fsync

        def counted_flush(descriptor: Any) -> None:
            self.add()
            flush(descriptor)

        os.fsync = counted_flush  # type: ignore[assignment]
        # One operation before each commit, and one between the commit and what follows.
        sa.event.listen(sa.engine.Engine, "commit", lambda _: self.add())
        sa.event.listen(sa.pool.Pool, "checkin", lambda *_: self.add())

    def add(self) -> None:
        """Count one operation."""
        self.count += 1
        if self.count == self.limit:
            os.kill(os.getpid(), signal.SIGKILL)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str) and isinstance(flags, int) and flags & CREATING and not path.startswith("/dev/"):
                self.add()
        elif event in CHANGES:
            self.add()


def _preload() -> None:
    """Import all that the steps need, and use none of it."""
    for name in PRELOADED:
        importlib.import_module(name)


def perform(request: Mapping[str, Any]) -> Any:
    """Perform the step of ``request`` and return its result."""
    from ml_platform_tests.components.delivery_home import open_platform

    root, arguments = Path(request["home"]), {k: v for k, v in request.items() if k not in NOT_ARGUMENTS}
    if request["step"] in WITHOUT_PLATFORM:
        return WITHOUT_PLATFORM[request["step"]](root, **arguments)
    with open_platform(root) as platform:
        return STEPS[request["step"]](platform, **arguments)


def upgrade(root: Path) -> None:
    """Migrate the home at ``root`` to the version of this code."""
    from resources.home import Home
    from resources.home_version import prepare_home

    prepare_home(Home(root))


def create(platform: Any) -> None:
    """Create the state store and MLflow's database, and the logs that services have written."""
    from ml_platform_tests.components.delivery_model import deliveries
    from resources.state import open_state

    open_state(platform.home)
    platform.mlflow.models.tracking.experiment("late")
    folder = platform.home.prediction_logs / "late"
    folder.mkdir(parents=True)
    rows = deliveries("2013-04").head(LOG_FILES * LINES_PER_FILE).rows(named=True)
    for number, row in enumerate(rows):
        ordered = row["ordered_at"].isoformat()
        line = {
            "prediction_id": f"p{number:05d}",
            "request_id": f"r{number % 50}",
            "row": 0,
            "model": "late",
            "version": "1",
            "role": "stable",
            "predict_at": ordered,
            "as_of": ordered,
            "logged_at": (LOGGED_AT + timedelta(minutes=number % LINES_PER_FILE)).isoformat(),
            "watermarks": {},
            "ages": {},
            "request": {"shop": row["shop"], "distance": row["distance"], "ordered_at": ordered},
            "features": {},
            "score": (number * 37 % 100) / 100,
            "label": 0,
        }
        with (folder / f"1-{number // LINES_PER_FILE:02d}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def land(platform: Any) -> None:
    """Land the files of four months and refresh the index of landed files."""
    from ml_platform.data.landing import Landing
    from ml_platform_tests.components.delivery_model import MONTHS, deliveries
    from resources.lake import LakeResource

    landing = Landing(platform.home.landing)
    for month in MONTHS:
        buffer = io.BytesIO()
        deliveries(month).write_parquet(buffer)
        landing.land_bytes(DATASET, month, buffer.getvalue(), "parquet")
    LakeResource.for_home(platform.home).landing_index().refresh(DATASET, MONTHS.__contains__)


def datasets(platform: Any, months: Sequence[str] = ()) -> None:
    """Load, check and publish the landed files."""
    import polars as pl

    from ml_platform.data.contract import ColumnRule, Contract
    from ml_platform.data.dataset import DatasetSource, load_and_publish
    from ml_platform.data.landing import Landing
    from ml_platform_tests.components.delivery_model import MONTHS, delivery_model

    types = {"distance": "float", "minutes": "float", "late": "integer", "ordered_at": "timestamp"}
    types["came_at"] = "timestamp"
    names = ["delivery", "shop", "distance", "ordered_at", "came_at", "late", "minutes"]
    columns = [{"name": name, "type": types.get(name, "string"), "description": name} for name in names]
    contract = Contract(columns=[ColumnRule.model_validate(column) for column in columns])
    partitions = delivery_model().declared.partitions
    source = DatasetSource(DATASET, pl.read_parquet, contract, keys=["delivery"], partitions=partitions)
    load_and_publish(source, list(months or MONTHS), Landing(platform.home.landing), platform.lake)


def features(platform: Any) -> None:
    """Materialize the feature view, and publish its last facts online."""
    from ml_platform.features.materialize import materialize
    from ml_platform_tests.components.delivery_model import MONTHS, delivery_model

    model = delivery_model()
    store = platform.resources["online_store"].store()
    materialize(model.stored_views[0], platform.lake, store, list(MONTHS), model.declared.partitions)


def training_sets(platform: Any) -> None:
    """Assemble the training sets."""
    from ml_platform.steps.candidates import build_training_sets
    from ml_platform_tests.components.delivery_model import MONTHS, delivery_model

    build_training_sets(delivery_model(), MONTHS, platform.lake)


def train(platform: Any, rounds: int = 30) -> None:
    """Fit and register the candidate of March."""
    from ml_platform.registry.tracking import run_tags
    from ml_platform.steps.candidates import make_candidate

    model, stores = _model(rounds), platform.stores
    tracking = stores.registry.tracking
    tracking.end_abandoned_runs(model.name, lambda _: False)
    tags = run_tags(asset="late/candidate_lightgbm", partition=MONTH, attempt=1, dagster_run_id="run")
    with tracking.run(model.name, f"lightgbm {MONTH}", tags) as run:
        make_candidate(model, "lightgbm", MONTH, stores, run=run, dagster_run_id="run", now=NOW)


def evaluate(platform: Any, rounds: int = 30, *, against_champion: bool = False) -> None:
    """Record the verdict on the candidate; its system checks are constants, so that no bento is needed."""
    from ml_platform.data.contract_record import broken_contracts
    from ml_platform.evaluation.evidence import SystemChecks
    from ml_platform.steps import evaluation as work
    from ml_platform.steps.candidates import read_training_set, split_of
    from ml_platform.steps.scoring import ComparedVersions, score_models

    model, stores = _model(rounds), platform.stores
    champion = stores.registry.by_alias("late", "champion") if against_champion else None
    compared = ComparedVersions(work.choose_candidate(model, MONTH, stores.registry), champion)
    split = split_of(model, MONTH, read_training_set(model, MONTH, stores.lake))
    broken = broken_contracts(stores.lake, model.source_datasets, model.reads_until(MONTH))
    checks = SystemChecks(leaks=[], contract_violations=broken, latency_p99_ms=5.0, size_bytes=1000)
    scores = score_models(model, split, compared, stores)
    evidence = work.collect_evidence(model, split.test, compared, scores, checks)
    work.record_evaluation(model, compared, evidence, {"auc": 0.8}, stores, NOW)


def promote(platform: Any) -> None:
    """Make the candidate champion."""
    from ml_platform.steps.promotion import promote_candidate

    promote_candidate(_model(), MONTH, platform.stores, decision=None, decided_by="late/champion", now=NOW)


def promote_version(platform: Any, version: int) -> int:
    """Make ``version`` champion on its own verdict, and return the version that is champion then."""
    from ml_platform.registry.promotion import promote
    from ml_platform.registry.verdict_record import latest_verdict_on

    model, stores = _model(), platform.stores
    registered = stores.registry.version(model.name, version)
    verdict = latest_verdict_on(stores.audit, registered).digest
    champion = promote(
        stores.registry,
        stores.audit,
        registered,
        verdict_digest=verdict,
        approval=model.declared.approval,
        decided_by=f"late/champion {version}",
        reason="test",
        at=NOW,
    )
    return champion.version


def bento(platform: Any) -> None:
    """Build and verify the bento of the champion."""
    from ml_platform.steps.packaging import package_champion

    package_champion(_model(), MONTH, platform.stores)


def rollout(platform: Any) -> None:
    """Make the champion's bento the stable one."""
    from ml_platform.steps.packaging import roll_out_champion

    roll_out_champion("late", platform.stores, by="late/rollout", at=NOW)


def predict(platform: Any, version: int) -> list[dict[str, Any]]:
    """Return the answers of ``version`` on rows of April, with the features of the online store."""
    from ml_platform.serving.in_process import ServedModel

    stores = platform.stores
    registered = next(each for each in stores.registry.versions("late") if each.version == version)
    folder = stores.registry.download(registered, platform.home.models / "predict" / str(version))
    online = platform.resources["online_store"].location
    served = ServedModel.of_directory("late", str(version), folder, online, require_code=False)
    return served.predict(request_rows())


def serve(platform: Any, folder: str) -> list[dict[str, Any]]:
    """Return the answers on the same rows of the service of the stable version; its files are in ``folder``."""
    import httpx

    from ml_platform.serving.bento_build import BuiltBento
    from ml_platform.serving.bento_signature import TRUSTED_KEYS_VARIABLE
    from ml_platform.serving.bento_signing import SigningKeys
    from ml_platform.serving.desired_state import read_desired_state
    from ml_platform_tests.serving.conftest import running_service

    stable = read_desired_state(platform.stores.state, "late").stable
    assert stable is not None
    os.environ[TRUSTED_KEYS_VARIABLE] = str(SigningKeys(platform.home.signing_keys).trusted)
    bento = BuiltBento("late:served", platform.home.bentos / stable.bento, "", 0)
    with running_service(bento, Path(folder), platform.resources["online_store"].location) as address:
        answer = httpx.post(f"{address}/v1/late/predict", json={"rows": request_rows()}, timeout=60)
        return answer.raise_for_status().json()["predictions"]


def request_rows() -> list[dict[str, Any]]:
    """Return the rows of the requests."""
    from ml_platform_tests.components.delivery_model import deliveries

    rows = deliveries("2013-04").head(40).rows(named=True)
    return [{**{k: row[k] for k in ("shop", "distance")}, "ordered_at": row["ordered_at"].isoformat()} for row in rows]


def roll_back(platform: Any) -> list[Any]:
    """Roll the model back; return the version that is champion then, and the one that is served."""
    from ml_platform.steps.rollback import roll_back_champion

    champion, desired = roll_back_champion(
        "late", platform.home, platform.stores.state, decided_by="test", reason="test", at=NOW
    )
    assert desired.stable is not None
    return [champion.version, desired.stable.version]


def dagster_run(platform: Any) -> list[str]:
    """Materialize the candidate on the instance of the home; return the kind of its storage and the stored status."""
    import dagster as dg

    from ml_platform.components.model import training
    from resources.orchestration import open_instance

    with open_instance(platform.home) as instance:
        asset = training.candidate(_model(), "lightgbm")
        done = dg.materialize([asset], partition_key=MONTH, resources=platform.resources, instance=instance)
        run = instance.get_run_by_id(done.run_id)
        assert run is not None
        latest = instance.get_latest_materialization_event(asset.key)
        assert latest is not None
        assert latest.run_id == done.run_id
        return [type(instance.run_storage).__name__, run.status.value]


def append_rows(platform: Any, table: str, writer: int, count: int) -> None:
    """Append ``count`` single rows to one partition of ``table``."""
    import polars as pl

    for number in range(count):
        platform.lake.append(table, pl.DataFrame({"writer": [writer], "number": [number]}), "2013-01")


def ingest(platform: Any) -> None:
    """Ingest the prediction logs."""
    from ml_platform.monitoring.prediction_log import ingest_log_files

    ingest_log_files(platform.lake, "late", platform.home.prediction_logs / "late")


def outcomes(platform: Any) -> None:
    """Record the outcomes of the ingested predictions."""
    from ml_platform.steps.monitoring import join_outcomes

    join_outcomes(_model(), platform.lake, NOW)


def compact(platform: Any) -> None:
    """Merge the small files of the predictions."""
    from ml_platform.monitoring.fact_tables import compact_closed_days
    from ml_platform.monitoring.prediction_log import predictions_table

    compact_closed_days(platform.lake, predictions_table("late"), date(2026, 1, 1))


def backup(platform: Any) -> None:
    """Back up the home to the folder beside it."""
    from ml_platform.steps.backup import back_up
    from ml_platform.steps.backup_target import BackupTarget

    back_up(platform.home, BackupTarget(str(platform.home.root.parent / BACKUPS)), now=NOW)


def clean(platform: Any) -> None:
    """Remove what the home no longer needs, with all times of retention over."""
    from ml_platform.steps.housekeeping import clean as clean_home
    from ml_platform.steps.retention import RetentionPolicies, RetentionSettings

    policies = RetentionPolicies(RetentionSettings(table_versions_days=1, prediction_logs_days=1))
    clean_home(platform.stores, policies, now=datetime.now(UTC) + timedelta(days=3), by="housekeeping")


def restore_backup(root: Path, into: str) -> None:
    """Restore the backup beside the home at ``root`` into another folder."""
    from ml_platform.steps.backup import restore
    from ml_platform.steps.backup_target import BackupTarget
    from resources.home import Home

    restore(BackupTarget(str(root.parent / BACKUPS)), Home(Path(into)))


def leftovers(root: Path) -> list[str]:
    """Remove what a start of the platform and its housekeeping remove; return the temporary files that are left.

    ``root`` is the folder of the home; the folder for temporary files is looked at too.
    """
    import tempfile

    from ml_platform.data.lake_cleaning import orphan_files
    from ml_platform.data.scratch import sweep, sweep_temporary_folder
    from resources.home import Home
    from resources.home_lake import open_lake

    sweep_temporary_folder()
    sweep(root)
    lake = open_lake(Home(root))
    for orphans in orphan_files(lake, datetime.now(UTC) + timedelta(days=1)):
        orphans.remove()
    known = {f"lake/{table}/{path}" for table in lake.catalog.tables() for path in lake.catalog.known_files(table)}
    stored = {path.relative_to(root).as_posix() for path in (root / "lake").rglob("*.parquet")}
    hidden = {path.relative_to(root) for path in root.rglob(".*") if not path.name.endswith(".lock")}
    # Delta-rs and BentoML keep hidden files of their own.
    own = {path.as_posix() for path in hidden if not {"_delta_log", "bentos"} & set(path.parts)}
    return sorted({*own, *(stored - known), *(path.name for path in Path(tempfile.gettempdir()).glob("ml-platform,*"))})


def describe(platform: Any) -> dict[str, Any]:
    """Return the content of the home, without times of writing."""
    from ml_platform.serving.desired_state import all_desired_states
    from ml_platform.steps.verification import verify_home

    stores = platform.stores
    report = verify_home(stores, rows=True)
    states = all_desired_states(stores.state)
    assert not states.unreadable
    return {
        "tables": _tables(stores.lake),
        "registry": [
            [each.version, each.content_digest, each.inputs_digest] for each in stores.registry.versions("late")
        ],
        "aliases": {
            alias: None if (version := stores.registry.by_alias("late", alias)) is None else version.version
            for alias in ("champion", "challenger", "previous")
        },
        "running": _running(stores.registry.tracking),
        "audit": [[each.kind, each.actor, each.at.isoformat(), dict(each.facts)] for each in stores.audit.records()],
        "desired": {model: state.model_dump(mode="json") for model, state in states.readable.items()},
        "rows": {name: _state_rows(stores.state, name, left_out) for name, left_out in STATE_TABLES.items()},
        "problems": [str(problem) for problem in report.problems],
    }


STATE_TABLES: Mapping[str, frozenset[str]] = {
    "landed_files": frozenset({"modified_ns", "inode", "landed_at"}),
    "contract_results": frozenset({"passed_at", "failed_at"}),
    "cursors": frozenset({"changed_at", "value"}),
    "joined_labels": frozenset(),
    "prediction_days": frozenset(),
    "verified_bentos": frozenset({"record"}),
    "verdicts": frozenset({"recorded_at"}),
}
"""Tables of the state store to compare, with the columns that contain times of writing."""


def _tables(lake: Any) -> dict[str, Any]:
    from ml_platform.data.digest import content_hash
    from ml_platform.monitoring.outcomes import RECORDED_AT

    found: dict[str, Any] = {}
    for table in lake.catalog.tables():
        rows = lake.scan(table).drop(RECORDED_AT, strict=False).collect()
        found[table] = [lake.partitions(table), rows.height, content_hash(rows)]
    return found


def _running(tracking: Any) -> int:
    runs = tracking.client.search_runs([tracking.experiment("late")], "attributes.status = 'RUNNING'")
    return len(runs)


def _state_rows(state: Any, name: str, left_out: frozenset[str]) -> list[Any]:
    import sqlalchemy as sa

    from ml_platform.state.schema import metadata

    columns = [column for column in metadata.tables[name].columns if column.name not in left_out]
    with state.read() as connection:
        rows = [[str(value) for value in row] for row in connection.execute(sa.select(*columns))]
    return sorted(rows)


def _model(rounds: int = 30) -> Any:
    from ml_platform_tests.components.delivery_model import delivery_model

    settings = {"max_rounds": rounds, "num_threads": 1}
    trainers = {"lightgbm": {"trainer": "lightgbm", "settings": settings}}
    return delivery_model(trainers=trainers, approval={"mode": "auto"})


STEPS: Mapping[str, Callable[..., Any]] = {
    step.__name__: step
    for step in (
        create,
        land,
        datasets,
        features,
        training_sets,
        train,
        evaluate,
        promote,
        promote_version,
        bento,
        rollout,
        predict,
        serve,
        roll_back,
        dagster_run,
        append_rows,
        ingest,
        outcomes,
        compact,
        backup,
        clean,
        describe,
    )
}
"""The steps by name."""

WITHOUT_PLATFORM: Mapping[str, Callable[..., Any]] = {
    "upgrade": upgrade,
    "restore_backup": restore_backup,
    "leftovers": leftovers,
}
"""Steps that must not open the home first."""


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
