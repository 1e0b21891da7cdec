"""Model: what a team declares about a model, and which assets, checks, job, sensor and schedules follow from it.

The assets themselves stand in `model_training.py`, `model_judgement.py`, `model_serving.py` and `model_monitoring.py`,
in the order in which the data flows through them.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

import dagster as dg
import polars as pl
from pydantic import Field

from ml_platform.components.declaration import Declaration
from ml_platform.components.feature_view import FeatureView
from ml_platform.components.monitors import Monitors
from ml_platform.components.scaffolding import ModelScaffolder
from ml_platform.data.canonical import value_digest
from ml_platform.data.partitions import MonthlyPartitions
from ml_platform.data.settings import Settings
from ml_platform.data.source_hash import source_hash
from ml_platform.errors import did_you_mean, listed
from ml_platform.evaluation.bootstrap import BootstrapSettings
from ml_platform.evaluation.gates import BaselineGate, Gate
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.prediction_time import PredictionTime
from ml_platform.features.view import FeatureView as FeatureViewSettings
from ml_platform.registry.approvals import ApprovalSettings
from ml_platform.serving.contract import RequestContract, RequestField
from ml_platform.training.splits import SplitSettings
from ml_platform.training.trainer import TrainerSettings

if TYPE_CHECKING:
    from dagster.components.core.component_tree import ComponentTree


class Examples(Settings):
    """Where examples come from."""

    function: str = Field(
        description="package.module:function(sources) returning example_id, request fields, label, label_known_at."
    )
    sources: list[str] = Field(min_length=1, description="Datasets that the function reads, by name.")
    identity: list[str] = Field(
        default_factory=list,
        description="Request fields that tell one example from another: outcomes are found by them; empty means all.",
    )
    revealed: dict[str, dict[str, list[str]]] = Field(
        default_factory=dict,
        description="By source, by its time column: columns that are known only from then on, besides what views say.",
    )


class Evaluation(Settings):
    """How candidates are scored on the test month."""

    primary_metric: str = Field(default="auc", description="Metric by which the best of several candidates is chosen.")
    slices: list[str] = Field(default_factory=list, description="Request fields whose values are looked at apart.")
    bootstrap: BootstrapSettings = Field(
        default_factory=lambda: BootstrapSettings.model_validate({}), description="How intervals are resampled."
    )
    schedule_only: list[str] = Field(
        default_factory=list,
        description="Feature views of the baseline that knows the request alone; empty: request views without inputs.",
    )


class Retraining(Settings):
    """When a model is trained again without being asked."""

    on_new_month: bool = Field(
        default=True, description="Train as soon as the training set of the newest month is made, or made anew."
    )
    cron: str | None = Field(
        default=None, description="Also train on the newest month at these times (cron, UTC); none: on new data alone."
    )
    watch_cron: str = Field(
        default="*/30 * * * *", description="When logged predictions are read in and joined with outcomes (cron, UTC)."
    )
    reproduce_cron: str = Field(
        default="0 5 * * 0", description="When the champion is rebuilt and compared (cron, UTC), once turned on."
    )


@dg.scaffold_with(ModelScaffolder)
class Model(Declaration):
    """A model: examples, features, trainers, gates, endpoint, monitors. Gives assets, checks, job, sensor, schedules.

    Assets: `<name>/training_set`, `candidate_<trainer>`, `evaluation`, `champion`, `bento`, `rollout`, `model_card`,
    `predictions`, `outcomes`, `performance`, `drift`.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Name: group of its assets and path of its endpoint.")
    description: str = Field(description="What it predicts, for whom, in a sentence.")
    owners: list[str] = Field(min_length=1, description="Who answers for it: team:<name> or an e-mail address.")
    tags: dict[str, str] = Field(default_factory=dict, description="Tags of its assets.")
    task: Literal["classification", "regression"] = Field(default="classification", description="What is predicted.")
    target: str = Field(description="The label in words, for people who read its card.")
    intended_use: str = Field(default="", description="What it is for and not for; part of the model card.")
    limits: list[str] = Field(default_factory=list, description="Known limits; part of the model card.")
    partitions: MonthlyPartitions = Field(description="Months for which examples exist.")
    first_candidate: str | None = Field(
        default=None, description="First month with a candidate; needs months before it to train and validate on."
    )
    examples: Examples = Field(description="The rows that are learned from.")
    request: list[RequestField] = Field(min_length=1, description="Fields of one row of the endpoint.")
    prediction_time: PredictionTime = Field(description="When a prediction is made.")
    features: list[str] = Field(min_length=1, description="Feature views that it reads, by name.")
    split: SplitSettings = Field(
        default_factory=lambda: SplitSettings.model_validate({}), description="How time is cut for training."
    )
    trainers: dict[str, TrainerSettings] = Field(
        min_length=1, description="Candidates by name; each gives candidate_<name>."
    )
    threshold: float = Field(default=0.5, gt=0, lt=1, description="Score from which the answered label is true.")
    evaluation: Evaluation = Field(
        default_factory=lambda: Evaluation.model_validate({}), description="How candidates are scored."
    )
    gates: list[Annotated[Gate, Field()]] = Field(
        min_length=1, description="What a candidate must pass; each is a blocking check of the evaluation."
    )
    approval: ApprovalSettings = Field(
        default_factory=lambda: ApprovalSettings.model_validate({}), description="Who says yes besides the gates."
    )
    retraining: Retraining = Field(
        default_factory=lambda: Retraining.model_validate({}), description="When it is trained without being asked."
    )
    maximum_rows: int = Field(default=1000, ge=1, description="Rows that one request may hold.")
    monitors: Monitors = Field(
        default_factory=lambda: Monitors.model_validate({}), description="How the model is watched."
    )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        from ml_platform.components import model_judgement, model_monitoring, model_serving, model_training

        for at, name in enumerate(self.examples.identity):
            fields = [field.name for field in self.request]
            if name not in fields:
                raise self.refuse_name(["examples", "identity", at], name, fields, "a field of the request")
        views = self.views(context.component_tree)
        bound = BoundModel(self, views)
        assets = [
            model_training.training_set(bound),
            *(model_training.candidate(bound, name) for name in self.trainers),
            model_judgement.evaluation(bound),
            model_judgement.champion(bound),
            model_judgement.model_card(bound),
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

    def automation(self, bound: "BoundModel") -> dg.Definitions:
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


class BoundModel:
    """A declared model together with the feature views it names: what the asset functions are given."""

    def __init__(self, declared: Model, views: list[FeatureViewSettings]) -> None:
        self.declared = declared
        self.views = views

    @property
    def name(self) -> str:
        return self.declared.name

    @cached_property
    def feature_set(self) -> FeatureSet:
        """The views with their code versions filled in: pinned once, when definitions are loaded."""
        return FeatureSet([view.pinned() for view in self.views])

    @property
    def stored_views(self) -> list[FeatureViewSettings]:
        return self.feature_set.stored

    @cached_property
    def contract(self) -> RequestContract:
        return RequestContract(
            model=self.name,
            fields=self.declared.request,
            max_rows=self.declared.maximum_rows,
            prediction_time=self.declared.prediction_time,
        )

    @property
    def request_fields(self) -> list[str]:
        return [field.name for field in self.declared.request]

    @property
    def identity(self) -> list[str]:
        """Request fields that tell one example from another."""
        return self.declared.examples.identity or self.request_fields

    @cached_property
    def examples_function(self) -> Callable[[dict[str, pl.LazyFrame]], pl.LazyFrame]:
        return self.declared.function_at("examples.function", self.declared.examples.function)

    def key(self, asset: str) -> dg.AssetKey:
        return dg.AssetKey([self.name, asset])

    @property
    def gates(self) -> list[Gate]:
        """The declared gates; a candidate must beat the baselines whether that is declared or not."""
        declared = list(self.declared.gates)
        if any(gate.type == "baseline" for gate in declared):
            return declared
        return [*declared, BaselineGate(metric="log_loss" if self.declared.task == "classification" else "rmse")]

    @property
    def schedule_only(self) -> list[str]:
        """Views of the baseline that knows the request alone; none where the model has no such views."""
        views = self.feature_set.views
        plain = [view.name for view in views if view.kind == "request" and not view.inputs]
        return self.declared.evaluation.schedule_only or plain

    @property
    def candidate_keys(self) -> dict[str, dg.AssetKey]:
        return {name: self.key(f"candidate_{name}") for name in self.declared.trainers}

    @property
    def loop_keys(self) -> list[dg.AssetKey]:
        """The assets of one turn of the loop, from the candidates of a month to what serves.

        The training set is made before, of many months in one run, and by itself when its inputs are new.
        """
        names = ["evaluation", "champion", "model_card", "bento", "rollout", "drift"]
        return [*map(self.key, names), *self.candidate_keys.values()]

    @property
    def table(self) -> str:
        """Lake table of the training set: one for each version of what makes it, since its columns follow the views."""
        return f"{self._training_sets}/{self.code_version}"

    def table_among(self, tables: Mapping[str, int]) -> tuple[str, int]:
        """Return the training set's table, and its version, among the ``tables`` that a manifest pins."""
        return next((name, version) for name, version in tables.items() if name.startswith(self._training_sets))

    @property
    def _training_sets(self) -> str:
        return f"models/{self.name}/training_set"

    @property
    def code_version(self) -> str:
        """Version of what makes the training set: the examples function and every view."""
        views = {view.name: view.code_version for view in self.feature_set.views}
        return value_digest([source_hash(self.declared.examples.function), views, self.request_fields])[:12]

    def common(self, *kinds: str) -> dict[str, Any]:
        """Return what every asset of the model carries: group, owners, tags and kinds."""
        return {
            "group_name": self.name,
            "owners": self.declared.owners,
            "tags": self.declared.tags,
            "kinds": set(kinds),
        }
