"""Delivery of queued records to the tracking server after an outage: in order, each once, without loss.

Delivery may run at any time: at the start of a step, in a sensor, or by hand. After a kill it starts the entry again.
This is safe because every operation has the same result when it is repeated.
"""

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ml_platform.data.atomic import write_json
from ml_platform.registry.models import ModelRegistry, ModelVersion
from ml_platform.registry.outbox import LOCAL_PREFIX, Outbox, OutboxEntry, is_connection_error
from ml_platform.registry.tracking import PARENT_TAG, TrackedRun, Tracking, apply_operation, create_run

OUTBOX_TAG = "ml_platform.outbox_id"
DELIVERED_FILE = "delivered.json"


@dataclass(frozen=True)
class DeliveryResult:
    """The result of one entry: its run in MLflow, or the error with which the server rejected it."""

    entry: str
    run_id: str | None
    operations: int
    error: str | None = None


def register_or_queue(
    registry: ModelRegistry,
    run: TrackedRun,
    name: str,
    directory: Path,
    *,
    input_example: pl.DataFrame,
    output: str = "score",
    tags: Mapping[str, str] | None = None,
) -> ModelVersion | None:
    """Register the model directory and return its version, or queue the registration and return None.

    It is queued, after the run's other operations, when the server is down. A queued version gets its number at
    delivery; until then, the content digest of the directory identifies it.
    """
    if run.entry is None:
        try:
            registry.tracking.require_server()
            return registry.register(
                name, directory, run_id=run.run_id, input_example=input_example, output=output, tags=tags
            )
        except Exception as error:
            if registry.tracking.outbox is None or not is_connection_error(error):
                raise
    run.queue(
        {
            "kind": "register",
            "name": name,
            "path": str(directory),
            "example": _encode_table(input_example),
            "output": output,
            "tags": dict(tags or {}),
        }
    )
    return None


def find_version(registry: ModelRegistry, name: str, inputs_digest: str) -> ModelVersion | None:
    """Return the version of ``name`` with these inputs; None when there is none, or when the server is down.

    Without an outbox, a connection error is raised instead.
    """
    try:
        registry.tracking.require_server()
        return registry.by_inputs(name, inputs_digest)
    except Exception as error:
        if registry.tracking.outbox is None or not is_connection_error(error):
            raise
        return None


def deliver(outbox: Outbox, tracking: Tracking) -> list[DeliveryResult]:
    """Deliver every entry without a writer, oldest first, and return one result per entry.

    Delivery stops without an error when the server cannot be reached. An entry that the server rejects becomes a dead
    letter with the reason (``outbox.dead_letters()``), and delivery continues. A run whose writer died ends as KILLED.
    """
    results: list[DeliveryResult] = []
    for entry in outbox.ready():
        try:
            tracking.require_server()
            results.append(_deliver_entry(entry, tracking, outbox.folder / DELIVERED_FILE))
        except Exception as error:
            if is_connection_error(error):
                break
            entry.move_to_dead_letters(f"{type(error).__name__}: {error}")
            results.append(DeliveryResult(entry.path.name, None, 0, error=str(error)))
        else:
            entry.delete()
    return results


def _deliver_entry(entry: OutboxEntry, tracking: Tracking, run_ids_path: Path) -> DeliveryResult:
    first, *rest = entry.operations()
    if not rest or rest[-1]["kind"] != "end":
        rest = [*rest, {"kind": "end", "status": "KILLED", "at": tracking.now()}]
    run_ids: dict[str, str] = json.loads(run_ids_path.read_bytes()) if run_ids_path.exists() else {}
    run_id = (
        _mlflow_run_id(first["run_id"], run_ids)
        if first["kind"] == "continue"
        else _find_or_create_run(entry, tracking, first, run_ids)
    )
    for operation in rest:
        if operation["kind"] == "register":
            _register_model(tracking, run_id, operation)
        else:
            apply_operation(tracking.client, run_id, operation)
    write_json(run_ids_path, {**run_ids, entry.local_id: run_id})
    return DeliveryResult(entry.path.name, run_id, len(rest) + 1)


def _find_or_create_run(
    entry: OutboxEntry, tracking: Tracking, operation: Mapping[str, Any], run_ids: Mapping[str, str]
) -> str:
    # A delivery that was killed may have created the run; its tag contains the name of the entry.
    existing = tracking.find_runs(operation["experiment"], {OUTBOX_TAG: entry.path.name})
    if existing:
        return existing[0]
    tags = {**operation["tags"], OUTBOX_TAG: entry.path.name}
    if PARENT_TAG in tags:
        tags[PARENT_TAG] = _mlflow_run_id(tags[PARENT_TAG], run_ids)
    return create_run(tracking, {**operation, "tags": tags})


def _mlflow_run_id(run_id: str, run_ids: Mapping[str, str]) -> str:
    return run_ids.get(run_id, run_id) if run_id.startswith(LOCAL_PREFIX) else run_id


def _encode_table(table: pl.DataFrame) -> str:
    # Arrow keeps the column types, which the signature needs.
    buffer = io.BytesIO()
    table.write_ipc(buffer)
    return base64.b64encode(buffer.getvalue()).decode()


def _register_model(tracking: Tracking, run_id: str, operation: Mapping[str, Any]) -> None:
    example = pl.read_ipc(io.BytesIO(base64.b64decode(operation["example"])))
    ModelRegistry(tracking).register(
        operation["name"],
        Path(operation["path"]),
        run_id=run_id,
        input_example=example,
        output=operation["output"],
        tags=operation["tags"],
    )
