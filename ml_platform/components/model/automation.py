"""The sensor and the schedules that retrain and monitor a model.

The sensor is level-triggered: it compares the training set in the lake with the recorded candidates. A missed tick, a
restart or a manual run does no harm. Every skipped tick gives its reason.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from ml_platform.components.materializations import MaterializationRecord, has_other_code, latest_materialization
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.model.retraining import follow_training, request_by_policy, training_request
from ml_platform.components.model.window_order import (
    TRAINED_TAG,
    due_in_order,
    run_key,
    running_cycle,
    running_reason,
    skip_earlier,
)
from ml_platform.components.sensor_interval import sensor_seconds
from ml_platform.data.canonical import value_digest
from ml_platform.data.domains import DOMAIN_FILE
from ml_platform.data.names import identifier
from ml_platform.errors import listed
from ml_platform.steps.arriving import still_arriving
from ml_platform.steps.candidate_inputs import candidate_version
from ml_platform.steps.closed_window import following_window, latest_due, open_window, outdated_labels, window_ends
from ml_platform.steps.untimed import training_set_key
from ml_platform.steps.window_backlog import backlog
from resources.lake import LakeResource
from resources.profiles import REPOSITORY

if TYPE_CHECKING:
    from ml_platform.data.lake import Lake
    from ml_platform.state.store import StateStore


def new_window_sensor(model: ModelAssets) -> dg.SensorDefinition:
    """Return the sensor `<model>_new_window`, which requests one training cycle per content of the training set."""

    @dg.sensor(
        name=f"{identifier(model.name)}_new_window",
        target=dg.AssetSelection.assets(*model.training_cycle_keys),
        description=f"Trains {model.name} on the latest window with a materialized training set.",
        minimum_interval_seconds=sensor_seconds(60),
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def new_window(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.RunRequest | dg.SkipReason:
        tables = lake.lake()
        follow_training(context.instance, model.name, tables.state)
        due = (
            due_window(context.instance, model, tables, datetime.now(UTC))
            if model.has_time
            else (due_table(context.instance, model, tables))
        )
        if isinstance(due, dg.SkipReason):
            return due
        if spent := spent_budget(model, tables.state, datetime.now(UTC)):
            return dg.SkipReason(spent)
        window, digest = due
        if not model.has_time:
            # The run key contains the digest: a restarted sensor requests no second run for the same rows.
            return training_request(model, None, run_key(model, window, digest))
        changed = sorted(_Candidates.of(context.instance, model, window).changed) if "-" in digest else []
        found = request_by_policy(context.instance, model, window, digest, changed, tables, datetime.now(UTC))
        if isinstance(found, dg.RunRequest) and model.declared.retraining.on_backlog == "newest":
            skip_earlier(context.instance, model, window, tables, datetime.now(UTC))
        return found

    return new_window


def due_window(
    instance: dg.DagsterInstance, model: ModelAssets, lake: "Lake", now: datetime
) -> tuple[str, str] | dg.SkipReason:
    """Return the closed window to train on with a digest of the training sets that it reads, or the reason to skip.

    A window is closed at ``now`` when it is over, its data landed and arrived until its end, and its labels are due. Of
    several windows that closed since the last verdict, the oldest comes first, and each waits for the run of the one
    before; with ``retraining.on_backlog: newest``, the newest is the only one.
    """
    digests = {window: digest for window, digest in lake.digests(model.table).items() if window}
    first = model.declared.first_candidate
    if not digests:
        waiting = incomplete_window(model, lake, model.partitions.first)
        return dg.SkipReason(f"No training set of '{model.name}' is materialized yet.{waiting}")
    latest = model.partitions.latest(digests)
    arriving = still_arriving(model, latest, lake)
    if arriving:
        del digests[latest]
        if not digests:
            return dg.SkipReason(f"{latest} is not closed: {arriving}.")
    windows = window_ends(model, digests)
    if not windows:
        following = following_window(model, model.partitions.latest(digests))
        return dg.SkipReason(f"No test part of '{model.name}' has ended yet: the first one ends with {following}.")
    window = latest_due(model, windows, lake)
    if window is None:
        earliest = windows[0]
        reason = open_window(model, earliest, lake, now) or "its labels have not landed"
        return dg.SkipReason(f"{earliest} is not closed: {reason}.")
    if _is_before(model, window, first):
        return dg.SkipReason(f"'{model.name}' is trained from {first} on; the latest training set is for {window}.")
    if model.declared.retraining.on_backlog == "each":
        earlier = backlog(model, [key for key in windows if not _is_before(model, key, first)], window, lake.state)
        if running := running_cycle(instance, model):
            return dg.SkipReason(running_reason(running, model, [*earlier, window]))
        if in_order := due_in_order(instance, model, earlier, digests, lake, now):
            return in_order
    missing = _missing_partitions(model, window, digests)
    if missing:
        return dg.SkipReason(f"'{model.name}' waits for the training sets of {listed(missing)}: {window} needs them.")
    waiting = open_window(model, window, lake, now)
    if waiting:
        return dg.SkipReason(f"{window} is not closed: {waiting}.")
    # A later training set changes no row that the candidates of this window read.
    if has_step := len(windows) < len(digests):
        digests = {key: digest for key, digest in digests.items() if not model.partitions.precedes(window, key)}
    trained_on = _last_built(instance, model, list(digests) if has_step else [window] if arriving else [])
    made = _Candidates.of(instance, model, window)
    if made.waits_for_a_person:
        return dg.SkipReason(made.changed_code(window))
    if made.are_newer(trained_on) and not made.changed:
        waiting = _next_window(model, lake, window, latest, now)
        return dg.SkipReason(f"The candidates of {window} are newer than the latest training set.{waiting}")
    outdated = outdated_labels(model, window, lake)
    if outdated:
        return dg.SkipReason(f"{window} waits for its training sets: {outdated}.")
    return window, f"{value_digest(digests)[:12]}{made.code_key}"


@dataclass(frozen=True)
class _Candidates:
    """The latest materialization of each candidate of a partition, and the trainers whose code has changed since."""

    model: ModelAssets
    latest: Mapping[str, MaterializationRecord | None]
    changed: Mapping[str, str]

    @classmethod
    def of(cls, instance: dg.DagsterInstance, model: ModelAssets, window: str | None) -> "_Candidates":
        latest = {name: latest_materialization(instance, key, window) for name, key in model.candidate_keys.items()}
        changed = {}
        for name, made in latest.items():
            if made is not None and made.code_version is not None:
                now = candidate_version(model, model.declared.trainers[name])
                if has_other_code(model.candidate_keys[name], made.code_version, made.run_id, now):
                    changed[name] = now
        return cls(model, latest, changed)

    def are_newer(self, trained_on: int | None) -> bool:
        """Return whether all were made after the training set with the storage id ``trained_on``; False without it."""
        return trained_on is not None and all(
            made is not None and made.storage_id > trained_on for made in self.latest.values()
        )

    @property
    def waits_for_a_person(self) -> bool:
        is_manual = self.model.declared.retraining.on_code_change == "manual"
        return is_manual and bool(self.changed) and None not in self.latest.values()

    @property
    def code_key(self) -> str:
        """The part of a run key for changed code; empty without a change."""
        return f"-{value_digest(dict(self.changed))[:8]}" if self.changed else ""

    def changed_code(self, window: str) -> str:
        return (
            f"The code behind {listed(self.changed)} has changed since the candidates of {window}, and "
            "'retraining.on_code_change' is manual: materialize them by hand, or wait for the next window."
        )


def _is_before(model: ModelAssets, window: str, first: str | None) -> bool:
    return first is not None and model.partitions.precedes(window, first)


def _last_built(instance: dg.DagsterInstance, model: ModelAssets, keys: Sequence[str]) -> int | None:
    """Return the storage id of the latest materialization of the training sets of ``keys``, or of any; None without."""
    key = model.key("training_set")
    if len(keys) > 1:
        ids = instance.event_log_storage.get_latest_storage_id_by_partition(
            key, dg.DagsterEventType.ASSET_MATERIALIZATION, set(keys)
        )
        return max(ids.values(), default=None)
    found = latest_materialization(instance, key, keys[0] if keys else None)
    return None if found is None else found.storage_id


def due_table(instance: dg.DagsterInstance, model: ModelAssets, lake: "Lake") -> tuple[str, str] | dg.SkipReason:
    """Return the key of the training set of a model without time and its digest, or the reason to skip."""
    if not lake.exists(model.table):
        return dg.SkipReason(f"No training set of '{model.name}' is materialized yet.")
    trained_on = latest_materialization(instance, model.key("training_set"))
    made, key = _Candidates.of(instance, model, None), training_set_key(model, lake)
    if made.waits_for_a_person:
        return dg.SkipReason(made.changed_code(key))
    if made.are_newer(None if trained_on is None else trained_on.storage_id) and not made.changed:
        return dg.SkipReason("The candidates are newer than the latest training set.")
    return key, f"{key}{made.code_key}"


def _next_window(model: ModelAssets, lake: "Lake", window: str, latest: str, now: datetime) -> str:
    """Return why the window after ``window`` is open, as a sentence; ``latest`` is the latest with a training set."""
    following = following_window(model, window)
    if not model.partitions.precedes(latest, following):
        reason = open_window(model, following, lake, now)
        return f" {following} is not closed: {reason}." if reason else ""
    return incomplete_window(model, lake, following)


def incomplete_window(model: ModelAssets, lake: "Lake", key: str) -> str:
    """Return which arrivals the model's partition ``key`` waits for, as a sentence; empty before the first arrival.

    A model of weeks over daily data is trained on a week when all its days have landed.
    """
    found = []
    for name in model.declared.examples.sources:
        needed = model.example_partitions(name, key) or []
        landed = lake.digests(f"datasets/{name}", needed) if needed else {}
        absent = [partition for partition in needed if partition not in landed]
        if landed and absent:
            found.append(f"{len(absent)} of {len(needed)} partitions of datasets/{name} ({listed(absent)})")
    return f" {key} is not closed: it waits for {'; '.join(found)}." if found else ""


def _missing_partitions(model: ModelAssets, window: str, stored: Collection[str]) -> list[str]:
    """Return the partitions of the training set that the candidate of ``window`` reads and the lake lacks."""
    scheme = model.partitions
    first = model.declared.split.first_partition(window, scheme) if scheme.is_timed else None
    first = scheme.first if first is None else scheme.latest([scheme.first, first])
    present = sum(not scheme.precedes(key, first) for key in stored)
    if present == scheme.distance(first, window) + 1:
        return []
    return [key for key in scheme.between(first, window) if key not in stored]


def training_schedule(model: ModelAssets, cron: str) -> dg.ScheduleDefinition:
    """Return the schedule `<model>_retrain`, which requests a training cycle at fixed times.

    A candidate with unchanged inputs is not fitted again.
    """
    declared = model.declared.retraining

    @dg.schedule(
        name=f"{identifier(model.name)}_retrain",
        cron_schedule=cron,
        target=dg.AssetSelection.assets(*model.training_cycle_keys),
        description=f"Trains {model.name} on the latest window with a materialized training set.",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    def retrain(context: dg.ScheduleEvaluationContext, lake: LakeResource) -> dg.RunRequest | dg.SkipReason:
        tables = lake.lake()
        if spent := spent_budget(model, tables.state, datetime.now(UTC)):
            return dg.SkipReason(spent)
        if not model.has_time and tables.exists(model.table):
            return dg.RunRequest(asset_selection=model.training_cycle_keys)
        partitions = model.partitions.sort(tables.partitions(model.table))
        if partitions and still_arriving(model, partitions[-1], tables):
            partitions.pop()
        if not partitions:
            return dg.SkipReason(f"No training set of '{model.name}' is materialized yet.")
        windows = window_ends(model, partitions)
        if not windows:
            following = following_window(model, partitions[-1])
            return dg.SkipReason(f"No test part of '{model.name}' has ended yet: the first one ends with {following}.")
        window = latest_due(model, windows, tables) or windows[0]
        waiting = open_window(model, window, tables, datetime.now(UTC)) or outdated_labels(model, window, tables)
        if waiting:
            return dg.SkipReason(f"{window} is not closed: {waiting}.")
        if declared.on_backlog == "newest":
            skip_earlier(context.instance, model, window, tables, datetime.now(UTC))
        elif declared.on_new_partition and (earlier := backlog(model, windows, window, tables.state)):
            return dg.SkipReason(f"The sensor evaluates {listed(earlier)} first, in order.")
        return dg.RunRequest(
            partition_key=window, asset_selection=model.training_cycle_keys, tags={TRAINED_TAG: model.name}
        )

    return retrain


def spent_budget(model: ModelAssets, state: "StateStore", now: datetime) -> str:
    """Return why the budget of the domain allows no further fit in the calendar month of ``now``; empty if it does."""
    from ml_platform.monitoring.cost_budget import budget_use
    from ml_platform.monitoring.cost_records import used_by_domain
    from ml_platform.steps.prices import read_prices

    budget = model.domain_settings.budget
    if budget is None:
        return ""
    today = now.astimezone(UTC).date()
    first = today.replace(day=1)
    used = used_by_domain(state, first, today).get(model.domain)
    use = budget_use(budget, used, read_prices(REPOSITORY).shown_currency)
    if not use.is_spent:
        return ""
    return (
        f"The domain '{model.domain}' has used {use.text} of its budget since {first} (UTC). "
        f"Raise it in {model.domain}/{DOMAIN_FILE}, or train by hand."
    )


def monitoring_schedule(model: ModelAssets, cron: str) -> dg.ScheduleDefinition:
    """Return the schedule `<model>_monitor`, which materializes predictions, outcomes and performance."""
    return dg.ScheduleDefinition(
        name=f"{identifier(model.name)}_monitor",
        cron_schedule=cron,
        target=dg.AssetSelection.assets(*(model.key(name) for name in ("predictions", "outcomes", "performance"))),
        description=f"Ingests the predictions of {model.name}, joins their outcomes and computes realised metrics.",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
