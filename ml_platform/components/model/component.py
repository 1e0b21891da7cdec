"""The component `Model`: makes the assets, checks, job, sensor and schedules of a declared model.

The assets stand in `training.py`, `evaluation.py`, `promotion.py`, `serving.py` and `monitoring.py` beside this module,
in the order in which the data flows through them. Their work is done in `ml_platform/steps/`.
"""

import dagster as dg

from ml_platform.components.model import (
    automation,
    evaluation,
    model_card,
    monitoring,
    promotion,
    serving,
    training,
)
from ml_platform.components.model.declaration import ModelDeclaration
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.model.scaffolder import ModelScaffolder
from ml_platform.components.model.validation import validate_declaration


@dg.scaffold_with(ModelScaffolder)
class Model(ModelDeclaration):
    """A model: examples, features, trainers, gates, endpoint, monitors. Gives assets, checks, job, sensor, schedules.

    Assets: `<name>/training_set`, `candidate_<trainer>`, `evaluation`, `model_card`, `champion`, `bento`, `rollout`,
    `predictions`, `outcomes`, `performance`, `drift`.
    """

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        for at, name in enumerate(self.examples.identity):
            fields = [field.name for field in self.request]
            if name not in fields:
                raise self.unknown_name_error(["examples", "identity", at], name, fields, "a field of the request")
        # Found now, with file and line, rather than when the first training set is made.
        self.function_at("examples.function", self.examples.function)
        views = self.views(context.component_tree)
        bound = ModelAssets(self, views)
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
        ]
        rebuilt = dg.AssetCheckKey(bound.key("champion"), promotion.REPRODUCIBLE)
        job = dg.define_asset_job(
            self.name,
            selection=dg.AssetSelection.assets(*bound.training_cycle_keys) - dg.AssetSelection.checks(rebuilt),
            description=f"Everything from the candidates of a month to the rollout: {self.description}",
        )
        own = dg.Definitions(assets=assets, asset_checks=[promotion.reproducible(bound)], jobs=[job])
        return dg.Definitions.merge(own, self.automation_definitions(bound))

    def automation_definitions(self, bound: ModelAssets) -> dg.Definitions:
        """Return the sensors and schedules: what the model does without being asked."""
        declared = self.retraining
        sensors = [automation.new_month_sensor(bound)] if declared.on_new_partition else []
        schedules = [
            automation.monitoring_schedule(bound, declared.monitoring_cron),
            promotion.reproduce_schedule(bound, declared.reproduce_cron),
        ]
        if declared.cron is not None:
            schedules.append(automation.training_schedule(bound, declared.cron))
        return dg.Definitions(sensors=sensors, schedules=schedules)
