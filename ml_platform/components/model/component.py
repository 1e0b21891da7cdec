"""The component `Model`: builds the assets, checks, job, sensor and schedules of a declared model.

The modules beside this one define the assets, in the order of the data: `training.py`, `evaluation.py`,
`model_card.py`, `promotion.py`, `serving.py`, `monitoring.py` and `scores.py`. The assets call the steps in
`ml_platform/steps/`.
"""

import dagster as dg

from ml_platform.components.model import (
    automation,
    decision_jobs,
    evaluation,
    model_card,
    monitoring,
    promotion,
    rejudging,
    rollout_sensor,
    scores,
    serving,
    training,
)
from ml_platform.components.model.declaration import ModelDeclaration
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.model.scaffolder import ModelScaffolder
from ml_platform.components.model.validation import validate_declaration
from ml_platform.data.names import identifier


@dg.scaffold_with(ModelScaffolder)
class Model(ModelDeclaration):
    """A model: examples, features, trainers, gates, endpoint and monitors.

    Assets: `<name>/training_set`, `candidate_<trainer>`, `evaluation`, `model_card`, `champion`, `bento`, `rollout`,
    `predictions`, `outcomes`, `performance`, `drift`, and with a table to score, `scores`.
    """

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        for at, name in enumerate(self.examples.identity):
            fields = [field.name for field in self.request]
            if name not in fields:
                raise self.unknown_name_error(["examples", "identity", at], name, fields, "a field of the request")
        # Report a missing function now, with file and line, and not when the first training set is materialized.
        self.function_at("examples.function", self.examples.function)
        self.validate_labels(context.component_tree)
        self.validate_scores(context.component_tree)
        views = self.views(context.component_tree)
        bound = ModelAssets(self, views, self.example_pii(context.component_tree), self.schemes(context.component_tree))
        validate_declaration(self, bound)
        assets = [
            training.training_set(bound),
            *(training.candidate(bound, name) for name in self.trainers),
            evaluation.evaluation(bound),
            model_card.model_card(bound),
            promotion.champion(bound),
            serving.bento(bound),
            serving.rollout(bound),
            monitoring.predictions(bound),
            monitoring.outcomes(bound),
            monitoring.performance(bound),
            monitoring.drift(bound),
            *([] if self.scores is None else [scores.scores(bound)]),
        ]
        rebuilt = dg.AssetCheckKey(bound.key("champion"), promotion.REPRODUCIBLE)
        job = dg.define_asset_job(
            identifier(self.name),
            selection=dg.AssetSelection.assets(*bound.training_cycle_keys) - dg.AssetSelection.checks(rebuilt),
            description=f"Training cycle of one window, from the candidates to the rollout. {self.description}",
        )
        own = dg.Definitions(
            assets=assets, asset_checks=[promotion.reproducible(bound)], jobs=[job, *decision_jobs.decision_jobs(bound)]
        )
        return dg.Definitions.merge(own, self.automation_definitions(bound))

    def automation_definitions(self, bound: ModelAssets) -> dg.Definitions:
        """Return the sensors and schedules that retrain, monitor and reproduce the model."""
        declared = self.retraining
        sensors = [automation.new_window_sensor(bound)] if declared.on_new_partition else []
        if bound.maximum_looks > 1:
            sensors.append(rejudging.waiting_candidates_sensor(bound))
        if self.rollout.all_steps:
            sensors.append(rollout_sensor.rollout_sensor(bound))
        schedules = [
            automation.monitoring_schedule(bound, declared.monitoring_cron),
            promotion.reproduce_schedule(bound, declared.reproduce_cron),
        ]
        if declared.cron is not None:
            schedules.append(automation.training_schedule(bound, declared.cron))
        return dg.Definitions(sensors=sensors, schedules=schedules)
