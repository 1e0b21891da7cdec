"""The sensor that shows a rollout on the page of `<model>/rollout`: its step, what is still needed, and both arms.

The guard of rollouts judges and steps, because it acts while Dagster is stopped. The sensor only observes: it records
each change of step or outcome, and the course of a running rollout every few minutes.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from ml_platform.components.metadata import inline_image, records_table
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.sensor_interval import sensor_seconds
from ml_platform.data.names import identifier
from resources.dagster_home import HomeResource
from resources.lake import LakeResource

if TYPE_CHECKING:
    from ml_platform.state.store import StateStore

OBSERVATION_MINUTES = 5
"""Time between two observations of a rollout whose step does not change."""


def rollout_sensor(model: ModelAssets) -> dg.SensorDefinition:
    """Return the sensor `<model>_rollout`, which observes the rollout of the last champion."""

    @dg.sensor(
        name=f"{identifier(model.name)}_rollout",
        target=dg.AssetSelection.assets(model.key("rollout")),
        description=f"Shows step, answers and evidence of the rollout of {model.name} on the page of its asset.",
        minimum_interval_seconds=sensor_seconds(30),
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def observe_rollout(
        context: dg.SensorEvaluationContext, lake: LakeResource, home: HomeResource
    ) -> dg.SensorResult | dg.SkipReason:
        return observed_rollout(model, lake.lake().state, home.home().run, context.cursor, datetime.now(UTC))

    return observe_rollout


def observed_rollout(
    model: ModelAssets, state: "StateStore", run: Path, cursor: str | None, now: datetime
) -> dg.SensorResult | dg.SkipReason:
    """Return an observation of the rollout when it changed since ``cursor``, or its state as the reason to skip.

    ``run`` is the folder of the status of serving.
    """
    from ml_platform.steps.rollouts import describe_rollout

    found = describe_rollout(state, model.name, now)
    if found["outcome"] == "none":
        return dg.SkipReason(f"'{model.name}' had no rollout in steps yet.")
    running = found["outcome"] == "running"
    mark = [found["candidate"], found["stable"], found["step"], found["outcome"]]
    seen: dict[str, Any] = json.loads(cursor) if cursor else {"mark": None, "at": 0.0}
    waited = now.timestamp() - seen["at"]
    shown = (
        f"Version {found['candidate']} of '{model.name}': {found['outcome']}, step {found['step']}, {found['next']}."
    )
    if mark == seen["mark"] and not (running and waited >= 60 * OBSERVATION_MINUTES):
        return dg.SkipReason(shown)
    observation = dg.AssetObservation(
        asset_key=model.key("rollout"), description=shown, metadata=_metadata(model, state, run, found)
    )
    return dg.SensorResult(asset_events=[observation], cursor=json.dumps({"mark": mark, "at": now.timestamp()}))


def _metadata(model: ModelAssets, state: "StateStore", run: Path, found: dict[str, Any]) -> dict[str, Any]:
    from ml_platform.serving.processes import STATUS_FILE
    from ml_platform.serving.serving_status import read_serving_status
    from ml_platform.steps.rollouts import plot_rollout

    status = read_serving_status(run / STATUS_FILE)
    served = status.models.get(model.name) if status else None
    arms = [
        {"arm": arm, "version": found[arm], "answers": found[answers], "weight": weight}
        for arm, answers, weight in (
            ("stable", "stable_answers", 100 - found["weight"]),
            ("candidate", "answers", found["weight"]),
        )
    ]
    plot = plot_rollout(state, model.name)
    return {
        "outcome": found["outcome"],
        "step": found["step"],
        "next": found["next"],
        "desired": records_table(arms),
        "observed": dg.MetadataValue.json(served.model_dump() if served else "serving does not run"),
        "errors": found["errors"],
        "evidence": dg.MetadataValue.json(found["evidence"]),
        **({"course": inline_image(plot)} if plot else {}),
    }
