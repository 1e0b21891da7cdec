"""Model: the component that makes assets, checks, job, sensor and schedules of what a team declares about a model.

The assets themselves stand in `model_training.py`, `model_judgement.py`, `model_serving.py` and `model_monitoring.py`,
in the order in which the data flows through them; what they do is in `ml_platform/steps/`.
"""

from typing import TYPE_CHECKING, Any

import dagster as dg

from ml_platform.components.declaration import Declaration
from ml_platform.components.feature_view import FeatureView
from ml_platform.components.scaffolding import ModelScaffolder
from ml_platform.errors import did_you_mean, listed
from ml_platform.features.view import FeatureView as FeatureViewSettings
from ml_platform.steps.model import BoundModel, ModelSettings

if TYPE_CHECKING:
    from dagster.components.core.component_tree import ComponentTree


@dg.scaffold_with(ModelScaffolder)
class Model(Declaration, ModelSettings):
    """A model: examples, features, trainers, gates, endpoint, monitors. Gives assets, checks, job, sensor, schedules.

    Assets: `<name>/training_set`, `candidate_<trainer>`, `evaluation`, `model_card`, `champion`, `bento`, `rollout`,
    `predictions`, `outcomes`, `performance`, `drift`.
    """

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        from ml_platform.components import model_judgement, model_monitoring, model_serving, model_training
        from ml_platform.components.model_refusals import refuse_what_cannot_be_kept

        for at, name in enumerate(self.examples.identity):
            fields = [field.name for field in self.request]
            if name not in fields:
                raise self.refuse_name(["examples", "identity", at], name, fields, "a field of the request")
        # Found now, with file and line, rather than when the first training set is made.
        self.function_at("examples.function", self.examples.function)
        views = self.views(context.component_tree)
        bound = ModelAssets(self, views)
        refuse_what_cannot_be_kept(self, bound)
        assets = [
            model_training.training_set(bound),
            *(model_training.candidate(bound, name) for name in self.trainers),
            model_judgement.evaluation(bound),
            model_judgement.model_card(bound),
            model_judgement.champion(bound),
            model_serving.bento(bound),
            model_serving.rollout(bound),
            model_monitoring.predictions(bound),
            model_monitoring.outcomes(bound),
            model_monitoring.performance(bound),
            model_monitoring.drift(bound),
        ]
        rebuilt = dg.AssetCheckKey(bound.key("champion"), model_judgement.REPRODUCIBLE)
        job = dg.define_asset_job(
            self.name,
            selection=dg.AssetSelection.assets(*bound.loop_keys) - dg.AssetSelection.checks(rebuilt),
            description=f"Everything from the candidates of a month to the rollout: {self.description}",
        )
        own = dg.Definitions(assets=assets, asset_checks=[model_judgement.reproducible(bound)], jobs=[job])
        return dg.Definitions.merge(own, self.automation(bound))

    def automation(self, bound: "ModelAssets") -> dg.Definitions:
        """Return the sensors and schedules: what the model does without being asked."""
        from ml_platform.components import model_judgement, retraining

        declared = self.retraining
        sensors = [retraining.new_month_sensor(bound)] if declared.on_new_month else []
        schedules = [
            retraining.watching_schedule(bound, declared.watch_cron),
            model_judgement.reproduce_schedule(bound, declared.reproduce_cron),
        ]
        if declared.cron is not None:
            schedules.append(retraining.training_schedule(bound, declared.cron))
        return dg.Definitions(sensors=sensors, schedules=schedules)

    def views(self, tree: "ComponentTree") -> list[FeatureViewSettings]:
        """Return the settings of the declared views, and of those that they take as inputs, in declared order."""
        known = {each.name: each.settings() for each in tree.get_all_components(FeatureView)}
        for at, name in enumerate(self.features):
            if name not in known:
                raise self.refuse(
                    ["features", at],
                    expected="the name of a feature view",
                    found=f"'{name}'; there are {listed(known, 30)}",
                    mend=f"Mend the name, or declare the view.{did_you_mean(name, known)}",
                )
        wanted = list(self.features)
        for name in wanted:
            wanted += [needed for needed in known[name].inputs if needed not in wanted]
        return [known[name] for name in wanted]


class ModelAssets(BoundModel):
    """A bound model with the keys of its assets and what all of these carry."""

    def key(self, asset: str) -> dg.AssetKey:
        return dg.AssetKey([self.name, asset])

    @property
    def candidate_keys(self) -> dict[str, dg.AssetKey]:
        return {name: self.key(f"candidate_{name}") for name in self.declared.trainers}

    @property
    def loop_keys(self) -> list[dg.AssetKey]:
        """The assets of one turn of the loop, from the candidates of a month to what serves.

        The training set is made before, of many months in one run, and by itself when its inputs are new.
        """
        names = ["evaluation", "model_card", "champion", "bento", "rollout", "drift"]
        return [*map(self.key, names), *self.candidate_keys.values()]

    def common(self, *kinds: str) -> dict[str, Any]:
        """Return what every asset of the model carries: group, owners, tags and kinds."""
        return {
            "group_name": self.name,
            "owners": self.declared.owners,
            "tags": self.declared.tags,
            "kinds": set(kinds),
        }
