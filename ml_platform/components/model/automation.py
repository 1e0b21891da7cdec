"""What a model does by itself: it is trained again on a new month, and what it answered is looked at.

A sensor is level-triggered: it compares what the instance recorded, so that a missed tick, a restart or a run by hand
changes nothing. Every tick leaves its reason, asked or not.
"""

from collections.abc import Mapping

import dagster as dg

from ml_platform.components.materializations import CONTENT_DIGEST, MaterializationRecord, latest_materializations
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.data.canonical import value_digest


def new_month_sensor(model: ModelAssets) -> dg.SensorDefinition:
    """`<model>_new_month`: asks for candidates, verdict and all that follows, once per content of the training set."""

    @dg.sensor(
        name=f"{model.name}_new_month",
        target=dg.AssetSelection.assets(*model.training_cycle_keys),
        description=f"Trains {model.name} on the newest month whose training set is made.",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def new_month(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        due = due_month(context.instance, model)
        if isinstance(due, dg.SkipReason):
            return due
        month, digest = due
        # The content makes the key: the same rows are never trained on twice, not even by a restarted sensor.
        return dg.RunRequest(
            run_key=f"{model.name}|{month}|{digest}",
            partition_key=month,
            asset_selection=model.training_cycle_keys,
            tags={"trigger": "new month"},
        )

    return new_month


def due_month(instance: dg.DagsterInstance, model: ModelAssets) -> tuple[str, str] | dg.SkipReason:
    """Return the newest month with a training set and a digest of all it is trained on, or why nothing is due."""
    materialized = {
        name: each for name, each in latest_materializations(instance, model.key("training_set")).items() if name
    }
    first = model.declared.first_candidate
    if not materialized:
        return dg.SkipReason(f"No training set of '{model.name}' is made yet.")
    month = max(materialized)
    if first is not None and month < first:
        return dg.SkipReason(f"'{model.name}' is trained from {first} on; the newest training set is that of {month}.")
    last_storage_id = max(each.storage_id for each in materialized.values())
    if all(_is_newer(instance, key, month, last_storage_id) for key in model.candidate_keys.values()):
        return dg.SkipReason(f"The candidates of {month} were made after the newest training set.")
    return month, _content(materialized)


def training_schedule(model: ModelAssets, cron: str) -> dg.ScheduleDefinition:
    """`<model>_retrain`: the same at fixed times; unchanged inputs are recognised and not fitted again."""

    @dg.schedule(
        name=f"{model.name}_retrain",
        cron_schedule=cron,
        target=dg.AssetSelection.assets(*model.training_cycle_keys),
        description=f"Trains {model.name} on the newest month whose training set is made.",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    def retrain(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        months = [name for name in latest_materializations(context.instance, model.key("training_set")) if name]
        if not months:
            return dg.SkipReason(f"No training set of '{model.name}' is made yet.")
        return dg.RunRequest(partition_key=max(months), asset_selection=model.training_cycle_keys)

    return retrain


def monitoring_schedule(model: ModelAssets, cron: str) -> dg.ScheduleDefinition:
    """`<model>_monitor`: reads in what the services logged, joins outcomes and looks at realised performance."""
    return dg.ScheduleDefinition(
        name=f"{model.name}_monitor",
        cron_schedule=cron,
        target=dg.AssetSelection.assets(*(model.key(name) for name in ("predictions", "outcomes", "performance"))),
        description=f"Reads in what {model.name} answered, and looks how well it did.",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )


def _is_newer(instance: dg.DagsterInstance, key: dg.AssetKey, month: str, than: int) -> bool:
    own = latest_materializations(instance, key, [month]).get(month)
    return own is not None and own.storage_id > than


def _content(materialized: Mapping[str, MaterializationRecord]) -> str:
    return value_digest({month: each.metadata(CONTENT_DIGEST) for month, each in materialized.items()})[:12]
