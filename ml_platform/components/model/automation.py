"""The sensor and the schedules that retrain and monitor a model.

The sensor is level-triggered: it compares recorded materializations, so a missed tick, a restart or a manual run does
no harm. Every skipped tick gives its reason.
"""

from collections.abc import Mapping

import dagster as dg

from ml_platform.components.materializations import CONTENT_DIGEST, MaterializationRecord, latest_materializations
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.data.canonical import value_digest


def new_month_sensor(model: ModelAssets) -> dg.SensorDefinition:
    """Return the sensor `<model>_new_month`, which requests one training cycle per content of the training set."""

    @dg.sensor(
        name=f"{model.name}_new_month",
        target=dg.AssetSelection.assets(*model.training_cycle_keys),
        description=f"Trains {model.name} on the latest month with a materialized training set.",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def new_month(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        due = due_month(context.instance, model)
        if isinstance(due, dg.SkipReason):
            return due
        month, digest = due
        # The run key contains the digest: a restarted sensor requests no second run for the same rows.
        return dg.RunRequest(
            run_key=f"{model.name}|{month}|{digest}",
            partition_key=month,
            asset_selection=model.training_cycle_keys,
            tags={"trigger": "new month"},
        )

    return new_month


def due_month(instance: dg.DagsterInstance, model: ModelAssets) -> tuple[str, str] | dg.SkipReason:
    """Return the latest month with a training set and a digest of all its training sets, or the reason to skip."""
    materialized = {
        name: each for name, each in latest_materializations(instance, model.key("training_set")).items() if name
    }
    first = model.declared.first_candidate
    if not materialized:
        return dg.SkipReason(f"No training set of '{model.name}' is materialized yet.")
    month = max(materialized)
    if first is not None and month < first:
        return dg.SkipReason(f"'{model.name}' is trained from {first} on; the latest training set is for {month}.")
    last_storage_id = max(each.storage_id for each in materialized.values())
    if all(_is_newer(instance, key, month, last_storage_id) for key in model.candidate_keys.values()):
        return dg.SkipReason(f"The candidates of {month} are newer than the latest training set.")
    return month, _content(materialized)


def training_schedule(model: ModelAssets, cron: str) -> dg.ScheduleDefinition:
    """Return the schedule `<model>_retrain`, which requests a training cycle at fixed times.

    A candidate with unchanged inputs is not fitted again.
    """

    @dg.schedule(
        name=f"{model.name}_retrain",
        cron_schedule=cron,
        target=dg.AssetSelection.assets(*model.training_cycle_keys),
        description=f"Trains {model.name} on the latest month with a materialized training set.",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    def retrain(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        months = [name for name in latest_materializations(context.instance, model.key("training_set")) if name]
        if not months:
            return dg.SkipReason(f"No training set of '{model.name}' is materialized yet.")
        return dg.RunRequest(partition_key=max(months), asset_selection=model.training_cycle_keys)

    return retrain


def monitoring_schedule(model: ModelAssets, cron: str) -> dg.ScheduleDefinition:
    """Return the schedule `<model>_monitor`, which materializes predictions, outcomes and performance."""
    return dg.ScheduleDefinition(
        name=f"{model.name}_monitor",
        cron_schedule=cron,
        target=dg.AssetSelection.assets(*(model.key(name) for name in ("predictions", "outcomes", "performance"))),
        description=f"Ingests the predictions of {model.name}, joins their outcomes and computes realised metrics.",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )


def _is_newer(instance: dg.DagsterInstance, key: dg.AssetKey, month: str, than: int) -> bool:
    own = latest_materializations(instance, key, [month]).get(month)
    return own is not None and own.storage_id > than


def _content(materialized: Mapping[str, MaterializationRecord]) -> str:
    return value_digest({month: each.metadata(CONTENT_DIGEST) for month, each in materialized.items()})[:12]
