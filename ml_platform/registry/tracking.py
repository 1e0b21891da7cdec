"""MLflow runs by explicit id: one per asset, partition and attempt, which ends as FAILED when its body raises.

MLflow's fluent API has one active run per process, in which two concurrent partitions would mix.
"""

import contextlib
import sqlite3
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ml_platform.data.scratch import scratch_folder
from ml_platform.errors import PlatformError, without_password
from ml_platform.registry.outbox import Operation, Outbox, OutboxEntry, is_connection_error
from ml_platform.registry.wandb_mirror import Mirror
from ml_platform.state.process_identity import current_process, has_exited

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

ASSET_TAG = "ml_platform.asset"
PARTITION_TAG = "ml_platform.partition"
ATTEMPT_TAG = "ml_platform.attempt"
DAGSTER_RUN_TAG = "dagster_run_id"
WRITER_TAG = "ml_platform.writer"
PARENT_TAG = "mlflow.parentRunId"
COST = "cost"
"""Metric of a run with the cost of its fit."""

SQLITE_PREFIX = "sqlite:///"
MAX_PARAMS_PER_BATCH = 100
MAX_METRICS_PER_BATCH = 1000
HEALTH_TIMEOUT_SECONDS = 3
MAX_PARAM_LENGTH = 6000
RUNS_PER_PAGE = 1000
TRUNCATION_MARK = "… (cut off)"


class TrackingError(PlatformError):
    """Raised when an experiment or a run of the tracking store cannot be used."""


def all_pages(query: Callable[[str | None], Any]) -> list[Any]:
    """Return the items of all pages of an MLflow search; ``query`` returns the page with the given token."""
    items: list[Any] = []
    token: str | None = None
    while True:
        page = query(token)
        items += page
        token = page.token
        if not token:
            return items


EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Tags of a new experiment: MLflow's UI shows its runs and metrics; without the tag it may open its GenAI pages."""


def run_tags(*, asset: str, partition: str | None, attempt: int, dagster_run_id: str) -> dict[str, str]:
    """Return the tags that identify a run; ``attempt`` counts from 1."""
    return {
        ASSET_TAG: asset,
        PARTITION_TAG: partition or "",
        ATTEMPT_TAG: str(attempt),
        DAGSTER_RUN_TAG: dagster_run_id,
    }


@dataclass
class Tracking:
    """The tracking store at ``tracking_uri``, connected on first use.

    New experiments store artifacts under ``artifact_root``. Without it the server chooses the location, as a server
    that proxies artifacts requires. With an ``outbox``, an unreachable server does not stop a run: its record is queued
    (see ``delivery``).

    >>> tracking = Tracking("sqlite:////data/mlflow.db", "/data/artifacts")  # doctest: +SKIP
    >>> with tracking.run("departure_risk", "lightgbm 2013-06", tags) as run:  # doctest: +SKIP
    ...     run.log_metrics({"auc": 0.77})
    """

    tracking_uri: str
    artifact_root: str | Path | None
    outbox: Outbox | None = None
    open_mirror: Callable[[Operation], Mirror] | None = None
    now: Callable[[], float] = time.time
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _client: "MlflowClient | None" = field(default=None, repr=False)

    @property
    def client(self) -> "MlflowClient":
        """Return the client; the first use connects, and creates the tables of a new SQLite file."""
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    @property
    def exists(self) -> bool:
        """Return whether the store was created; a server counts as created. Nothing is created by the question."""
        if not self.tracking_uri.startswith(SQLITE_PREFIX):
            return True
        return Path(urllib.parse.unquote(self.tracking_uri.removeprefix(SQLITE_PREFIX))).exists()

    @contextlib.contextmanager
    def run(
        self, experiment: str, name: str, tags: Mapping[str, str], *, parent_run_id: str | None = None
    ) -> Iterator["TrackedRun"]:
        """Open a run for the body; it ends as FINISHED, or as FAILED with the error as a tag when the body raises.

        First, earlier attempts of the same asset, partition and Dagster run that a killed process left open end as
        KILLED.
        """
        run = self.open(experiment, name, tags, parent_run_id=parent_run_id)
        try:
            yield run
        except BaseException as error:
            run.fail(error)
            raise
        run.end("FINISHED")

    def open(
        self, experiment: str, name: str, tags: Mapping[str, str], *, parent_run_id: str | None = None
    ) -> "TrackedRun":
        """Return a new run that the caller must end; prefer :meth:`run`."""
        operation = creation_operation(experiment, name, tags, self.now(), parent_run_id)
        mirror = self.open_mirror(operation) if self.open_mirror else None
        try:
            self.require_server()
            return TrackedRun(self, create_run(self, operation), experiment, mirror=mirror)
        except Exception as error:
            if self.outbox is None or not is_connection_error(error):
                raise
            entry = self.outbox.open(operation, self.now())
            return TrackedRun(self, entry.local_id, experiment, entry, mirror)

    def require_server(self) -> None:
        """Raise at once when the store is a server that does not answer; MLflow would retry for minutes."""
        if self.tracking_uri.startswith(("http://", "https://")):
            import requests

            requests.get(f"{self.tracking_uri.rstrip('/')}/health", timeout=HEALTH_TIMEOUT_SECONDS).raise_for_status()

    def experiment(self, name: str) -> str:
        """Return the id of the experiment, created if necessary; processes that create it at once get the same id."""
        from mlflow.exceptions import MlflowException

        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            location = f"{str(self.artifact_root).rstrip('/')}/{name}" if self.artifact_root else None
            with contextlib.suppress(MlflowException):
                return str(self.client.create_experiment(name, artifact_location=location, tags=EXPERIMENT_TAGS))
            # Another process may have created it between the two calls; other errors occur again here.
            experiment = self.client.get_experiment_by_name(name)
        if experiment is None or experiment.lifecycle_stage != "active":
            raise TrackingError(
                f"Experiment '{name}'",
                expected="an active experiment, or no experiment of that name",
                found="a deleted one" if experiment else "none, and it could not be created",
                fix="Restore it (mlflow experiments restore) or free the name (mlflow gc) at "
                f"{without_password(self.tracking_uri)}.",
            )
        for tag, value in EXPERIMENT_TAGS.items():
            if tag not in experiment.tags:  # created by an earlier release
                self.client.set_experiment_tag(experiment.experiment_id, tag, value)
        return str(experiment.experiment_id)

    def has_experiment(self, name: str) -> bool:
        """Return whether the experiment ``name`` exists; nothing is created by the question."""
        return self.exists and self.client.get_experiment_by_name(name) is not None

    def rename_experiment(self, old: str, new: str) -> None:
        """Give the experiment ``old`` the name ``new``, unless it does not exist or ``new`` does."""
        found = self.client.get_experiment_by_name(old)
        if found is not None and not self.has_experiment(new):
            self.client.rename_experiment(found.experiment_id, new)

    def find_runs(self, experiment: str, tags: Mapping[str, str]) -> list[str]:
        """Return the ids of the runs with all ``tags``, latest first."""
        return [run.info.run_id for run in self._search([self.experiment(experiment)], tags)]

    def cost_since(self, experiments: Sequence[str], since: datetime, until: datetime | None = None) -> float:
        """Return the recorded cost of the runs of ``experiments`` that began from ``since`` on, and before ``until``.

        Trials are parts of their run. Experiments that do not exist have no cost.
        """
        found = [self.client.get_experiment_by_name(name) for name in experiments]
        ids = [str(each.experiment_id) for each in found if each is not None]
        if not ids:
            return 0.0
        began = [f"attributes.start_time >= {int(since.timestamp() * 1000)}"]
        began += [] if until is None else [f"attributes.start_time < {int(until.timestamp() * 1000)}"]
        recorded = self._search(ids, {}, *began, f"metrics.{COST} > 0")
        return sum(float(run.data.metrics[COST]) for run in recorded if PARENT_TAG not in run.data.tags)

    def end_abandoned_runs(self, experiment: str, has_ended: Callable[[str], bool]) -> list[str]:
        """End as KILLED every open run, trials included, whose writer or Dagster run has ended; return their ids.

        A killed process cannot end its own run. ``has_ended`` decides for a Dagster run id, because a writer on another
        machine cannot be checked from here.
        """
        open_runs = self._search([self.experiment(experiment)], {}, "attributes.status = 'RUNNING'")
        abandoned = [
            run.info.run_id
            for run in open_runs
            if has_exited(run.data.tags.get(WRITER_TAG, "")) or has_ended(run.data.tags.get(DAGSTER_RUN_TAG, ""))
        ]
        for run_id in abandoned:
            self.client.set_terminated(run_id, "KILLED")
        return abandoned

    def _connect(self) -> "MlflowClient":
        from mlflow import MlflowClient

        if self.tracking_uri.startswith(SQLITE_PREFIX):
            database = urllib.parse.unquote(self.tracking_uri.removeprefix(SQLITE_PREFIX))
            Path(database).parent.mkdir(parents=True, exist_ok=True)
            _require_database(Path(database))
        return MlflowClient(self.tracking_uri, self.tracking_uri)

    def end_earlier_attempts(self, experiment_id: str, tags: Mapping[str, str]) -> None:
        """End as KILLED the open runs of lower attempts of the same asset, partition and Dagster run."""
        if DAGSTER_RUN_TAG not in tags or PARENT_TAG in tags:
            return
        identity = {name: value for name, value in tags.items() if name in (ASSET_TAG, PARTITION_TAG, DAGSTER_RUN_TAG)}
        for run in self._search([experiment_id], identity, "attributes.status = 'RUNNING'"):
            if int(run.data.tags.get(ATTEMPT_TAG, "0")) < int(tags.get(ATTEMPT_TAG, "1")):
                self.client.set_terminated(run.info.run_id, "KILLED")

    def _search(self, experiment_ids: list[str], tags: Mapping[str, str], *conditions: str) -> list[Any]:
        clauses = [*conditions, *(f"tags.`{name}` = '{value}'" for name, value in tags.items())]
        return all_pages(
            lambda token: self.client.search_runs(
                experiment_ids, " and ".join(clauses), max_results=RUNS_PER_PAGE, page_token=token
            )
        )


@dataclass
class TrackedRun:
    """One open run; every method writes to it by its id, so concurrent runs of a process do not mix.

    After the first write that fails because the server is unreachable, all further writes are queued in order.
    """

    tracking: Tracking
    run_id: str
    experiment: str
    entry: OutboxEntry | None = None
    mirror: Mirror | None = None

    @property
    def queued(self) -> bool:
        """Return whether operations of the run are in the outbox."""
        return self.entry is not None

    def log_params(self, parameters: Mapping[str, Any]) -> None:
        """Record parameters as text; a value over :data:`MAX_PARAM_LENGTH` characters is truncated with a mark."""
        self._apply({"kind": "params", "values": {name: _truncate(str(value)) for name, value in parameters.items()}})

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record metrics at ``step``."""
        values = {name: float(value) for name, value in metrics.items()}
        self._apply({"kind": "metrics", "values": values, "step": step, "at": self.tracking.now()})

    def log_curves(self, curves: Mapping[str, Sequence[float]], first: int = 0) -> None:
        """Record metrics with one value per step from ``first`` on, such as a loss per iteration, in few requests."""
        values = {name: [float(value) for value in curve] for name, curve in curves.items()}
        self._apply({"kind": "curves", "values": values, "first": first, "at": self.tracking.now()})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags."""
        self._apply({"kind": "tags", "values": {name: str(value) for name, value in tags.items()}})

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Store a file, or all files of a folder, in ``folder`` of the run's artifacts."""
        self._apply({"kind": "artifact", "path": str(path), "folder": folder})

    def log_text(self, text: str, name: str) -> None:
        """Store ``text`` as the artifact ``name``, which may contain folders."""
        self._apply({"kind": "text", "text": text, "name": name})

    def log_bytes(self, data: bytes, name: str) -> None:
        """Store ``data``, such as a plot, as the artifact ``name``, which may contain folders."""
        with scratch_folder("artifact") as scratch:
            path = scratch / PurePosixPath(name).name
            path.write_bytes(data)
            folder = PurePosixPath(name).parent.as_posix()
            self.log_artifact(path, None if folder == "." else folder)

    @contextlib.contextmanager
    def child(self, name: str, tags: Mapping[str, str] | None = None) -> Iterator["TrackedRun"]:
        """Open a nested run for the body, such as one trial of a search; it ends like :meth:`Tracking.run`."""
        with self.tracking.run(self.experiment, name, tags or {}, parent_run_id=self.run_id) as run:
            yield run

    def fail(self, error: BaseException) -> None:
        """End the run as FAILED, with type and message of the error as a tag."""
        self.set_tags({"ml_platform.error": _truncate(f"{type(error).__name__}: {error}")[:5000]})
        self.end("FAILED")

    def end(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED."""
        self._apply({"kind": "end", "status": status, "at": self.tracking.now()})

    def queue(self, operation: Operation) -> None:
        """Append an operation to the run's entry in the outbox; raises :class:`TrackingError` without an outbox."""
        if self.tracking.outbox is None:
            raise TrackingError(
                f"Run '{self.run_id}'",
                expected="an outbox for the queue",
                found="none",
                fix="Configure an outbox folder for the tracking store, or start the server.",
            )
        if self.entry is None:
            continued = {"kind": "continue", "run_id": self.run_id}
            self.entry = self.tracking.outbox.open(continued, self.tracking.now())
        self.entry.add(operation)
        if operation["kind"] == "end":
            self.entry.close()

    def _apply(self, operation: Operation) -> None:
        if self.mirror:
            self.mirror(operation)
        if self.entry is None:
            try:
                self.tracking.require_server()
                apply_operation(self.tracking.client, self.run_id, operation)
                return
            except Exception as error:
                if self.tracking.outbox is None or not is_connection_error(error):
                    raise
        self.queue(operation)


def _require_database(file: Path) -> None:
    """Raise :class:`TrackingError` when ``file`` is no readable SQLite file; MLflow would try again for minutes."""
    if not file.exists():
        return
    address = f"file:{urllib.parse.quote(str(file.absolute()))}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.OperationalError:
        return  # in use: MLflow waits
    except sqlite3.DatabaseError as error:
        raise TrackingError(
            f"MLflow's database {file}",
            expected="a readable database",
            found=str(error),
            fix="Restore the home from its backup: ml-platform restore.",
        ) from error


def creation_operation(
    experiment: str, name: str, tags: Mapping[str, str], at: float, parent_run_id: str | None = None
) -> Operation:
    """Return the operation that creates a run."""
    parent_tag = {PARENT_TAG: parent_run_id} if parent_run_id else {}
    writer_tag = {WRITER_TAG: current_process()}
    return {
        "kind": "create",
        "experiment": experiment,
        "name": name,
        "tags": {**tags, **parent_tag, **writer_tag},
        "at": at,
    }


def create_run(tracking: Tracking, operation: Operation) -> str:
    """Create the run that ``operation`` describes and return its id."""
    experiment_id = tracking.experiment(operation["experiment"])
    tracking.end_earlier_attempts(experiment_id, operation["tags"])
    run = tracking.client.create_run(
        experiment_id, start_time=int(operation["at"] * 1000), tags=operation["tags"], run_name=operation["name"]
    )
    return str(run.info.run_id)


def apply_operation(client: "MlflowClient", run_id: str, operation: Operation) -> None:
    """Apply one operation to a run; a repetition has the same result, so delivery may repeat it."""
    from mlflow.entities import Metric, Param, RunTag

    match operation["kind"]:
        case "params":
            parameters = [Param(name, value) for name, value in operation["values"].items()]
            for start in range(0, len(parameters), MAX_PARAMS_PER_BATCH):
                client.log_batch(run_id, params=parameters[start : start + MAX_PARAMS_PER_BATCH])
        case "metrics":
            at, step = int(operation["at"] * 1000), operation["step"]
            _log_metrics(client, run_id, [Metric(name, value, at, step) for name, value in operation["values"].items()])
        case "curves":
            # An operation that an earlier release has queued begins with step 0.
            at, first = int(operation["at"] * 1000), operation.get("first", 0)
            for name, curve in operation["values"].items():
                _log_metrics(client, run_id, [Metric(name, value, at, step) for step, value in enumerate(curve, first)])
        case "tags":
            client.log_batch(run_id, tags=[RunTag(name, value) for name, value in operation["values"].items()])
        case "artifact":
            store = client.log_artifacts if Path(operation["path"]).is_dir() else client.log_artifact
            store(run_id, operation["path"], operation["folder"])
        case "text":
            client.log_text(run_id, operation["text"], operation["name"])
        case "end":
            client.set_terminated(run_id, operation["status"], int(operation["at"] * 1000))
        case unknown:
            raise ValueError(f"unknown operation '{unknown}'")


def _log_metrics(client: "MlflowClient", run_id: str, metrics: "list[Metric]") -> None:
    for start in range(0, len(metrics), MAX_METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS_PER_BATCH])


def _truncate(text: str) -> str:
    return text if len(text) <= MAX_PARAM_LENGTH else text[: MAX_PARAM_LENGTH - len(TRUNCATION_MARK)] + TRUNCATION_MARK
