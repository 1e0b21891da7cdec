"""Windows that close together: the sensor runs one after the other, or reports those that are left out."""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.model.rejudging import RUN_KEY_TAG
from ml_platform.data.canonical import value_digest
from ml_platform.errors import listed
from ml_platform.monitoring.retraining_records import is_over
from ml_platform.registry.audit import AuditLog
from ml_platform.steps.closed_window import open_window, outdated_labels
from ml_platform.steps.window_backlog import REASON, record_skipped

if TYPE_CHECKING:
    from ml_platform.data.lake import Lake

TRAINED_TAG = "ml_platform/trained_model"
"""Run tag with the name of the model that a sensor or a schedule trains."""

PARTITION_TAG = "dagster/partition"


def run_key(model: ModelAssets, window: str, digest: str) -> str:
    """Return the key of the run of one training cycle; ``digest`` is that of its inputs."""
    return f"{model.name}|{window}|{digest}"


def running_cycle(instance: dg.DagsterInstance, model: ModelAssets) -> dg.DagsterRun | None:
    """Return a training cycle of ``model`` that the automation has requested and that has not ended."""
    tags = {TRAINED_TAG: model.name}
    found = instance.get_runs(dg.RunsFilter(tags=tags, statuses=[*NOT_FINISHED_STATUSES]), limit=1)
    return found[0] if found else None


def due_in_order(
    instance: dg.DagsterInstance,
    model: ModelAssets,
    waiting: list[str],
    digests: Mapping[str, str],
    lake: "Lake",
    now: datetime,
) -> tuple[str, str] | dg.SkipReason | None:
    """Return the first window of the backlog ``waiting`` and the digest of its training sets, or why none can be run.

    ``digests`` are those of the training sets by partition. A window whose run has ended without a verdict is passed
    over: its failed run shows the fault. With a policy, a failed run is repeated first, and a window on which it was
    decided not to train is passed over. None: the newest window is next.
    """
    policy = model.declared.retraining.policy
    for window in waiting:
        digest = value_digest({key: each for key, each in digests.items() if key <= window})[:12]
        if policy is not None and is_over(lake.state, model.name, window, digest, policy):
            continue
        tags = {RUN_KEY_TAG: run_key(model, window, digest)}
        if policy is None and instance.get_run_records(dg.RunsFilter(tags=tags), limit=1):
            continue
        reason = open_window(model, window, lake, now) or outdated_labels(model, window, lake)
        if reason:
            return dg.SkipReason(f"{window} is evaluated before later windows, and it is not closed: {reason}.")
        return window, digest
    return None


def running_reason(run: dg.DagsterRun, model: ModelAssets, waiting: list[str]) -> str:
    """Return that ``run`` is under way, and the windows ``waiting`` for its end, as a sentence."""
    partition = run.tags.get(PARTITION_TAG, "its table")
    later = [each for each in waiting if each != partition]
    follow = f" Then in order: {listed(later)}." if later else ""
    return f"Run {run.run_id} trains '{model.name}' on {partition}.{follow}"


def skip_earlier(
    instance: dg.DagsterInstance, model: ModelAssets, newest: str, lake: "Lake", now: datetime
) -> list[str]:
    """Record the windows that are left out for ``newest``, also as observations of their evaluations; return them."""
    skipped = record_skipped(model, newest, AuditLog(lake.state), now)
    for window in skipped:
        observation = dg.AssetObservation(
            model.key("evaluation"), partition=window, metadata={"skipped": REASON.format(newest=newest)}
        )
        instance.report_runless_asset_event(observation)
    return skipped
