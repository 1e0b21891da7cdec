"""What a team declares about a model, and the model bound to the feature views that it names.

Apart from the component, which makes assets of it, so that all a model does can be run and tested without Dagster.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Annotated, Literal

import polars as pl
from pydantic import Field

from ml_platform.data.canonical import value_digest
from ml_platform.data.partitions import MonthlyPartitions
from ml_platform.data.references import load_function
from ml_platform.data.settings import Settings
from ml_platform.data.source_hash import source_hash
from ml_platform.evaluation.bootstrap import BootstrapSettings
from ml_platform.evaluation.gates import BaselineGate, Gate, SliceGate
from ml_platform.evaluation.metrics import MetricName
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.prediction_time import PredictionTime
from ml_platform.features.view import FeatureView as FeatureViewSettings
from ml_platform.registry.approvals import ApprovalSettings
from ml_platform.serving.request_contract import RequestContract, RequestField
from ml_platform.steps.monitor_settings import MonitorSettings
from ml_platform.training.splits import SplitSettings
from ml_platform.training.threshold import ThresholdSettings
from ml_platform.training.trainer import TrainerSettings

REQUEST_ONLY = "request_only"
"""The baseline that knows the request alone, among the predictions that gates see."""


class ExampleSettings(Settings):
    """Where examples come from."""

    function: str = Field(
        description="package.module:function(sources) returning example_id, request fields, label, label_known_at."
    )
    sources: list[str] = Field(min_length=1, description="Datasets that the function reads, by name.")
    identity: list[str] = Field(
        default_factory=list,
        description="Request fields that tell one example from another: outcomes are found by them; empty means all.",
    )
    available_from: dict[str, dict[str, list[str]]] = Field(
        default_factory=dict,
        description="By source, by its time column: columns that are known only from then on, besides what views say.",
    )


class EvaluationSettings(Settings):
    """How candidates are scored on the test month."""

    primary_metric: MetricName | None = Field(
        default=None,
        description="Metric by which the best of several candidates is chosen; none: auc, or rmse for a regression.",
    )
    slices: list[str] = Field(default_factory=list, description="Request fields whose values are looked at apart.")
    minimum_support: int = Field(default=200, ge=1, description="Rows below which a slice is not shown as a weak one.")
    bootstrap: BootstrapSettings = Field(
        default_factory=lambda: BootstrapSettings.model_validate({}), description="How intervals are resampled."
    )
    request_only: list[str] = Field(
        default_factory=list,
        description="Feature views of the baseline that knows the request alone; empty: request views without inputs.",
    )


class RetrainingSettings(Settings):
    """When a model is trained again without being asked."""

    on_new_partition: bool = Field(
        default=True, description="Train as soon as the training set of the newest month is made, or made anew."
    )
    cron: str | None = Field(
        default=None, description="Also train on the newest month at these times (cron, UTC); none: on new data alone."
    )
    monitoring_cron: str = Field(
        default="*/30 * * * *", description="When logged predictions are read in and joined with outcomes (cron, UTC)."
    )
    reproduce_cron: str = Field(
        default="0 5 * * 0", description="When the champion is rebuilt and compared (cron, UTC), once turned on."
    )


class ModelSettings(Settings):
    """A model: its examples, features, trainers, gates, endpoint and monitors."""

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
    examples: ExampleSettings = Field(description="The rows that are learned from.")
    request: list[RequestField] = Field(min_length=1, description="Fields of one row of the endpoint.")
    prediction_time: PredictionTime = Field(description="When a prediction is made.")
    features: list[str] = Field(min_length=1, description="Feature views that it reads, by name.")
    split: SplitSettings = Field(
        default_factory=lambda: SplitSettings.model_validate({}), description="How time is cut for training."
    )
    trainers: dict[str, TrainerSettings] = Field(
        min_length=1, description="Candidates by name; each gives candidate_<name>."
    )
    threshold: ThresholdSettings = Field(
        default_factory=lambda: ThresholdSettings(fixed=0.5),
        description=(
            "How the score from which the answered label is true is chosen on the validation rows: fixed (also as a "
            "bare number), f_beta, cost, precision_at or rate."
        ),
    )
    evaluation: EvaluationSettings = Field(
        default_factory=lambda: EvaluationSettings.model_validate({}), description="How candidates are scored."
    )
    gates: list[Annotated[Gate, Field()]] = Field(
        min_length=1, description="What a candidate must pass; each is a blocking check of the evaluation."
    )
    approval: ApprovalSettings = Field(
        default_factory=lambda: ApprovalSettings.model_validate({}), description="Who says yes besides the gates."
    )
    retraining: RetrainingSettings = Field(
        default_factory=lambda: RetrainingSettings.model_validate({}),
        description="When it is trained without being asked.",
    )
    maximum_rows: int = Field(default=1000, ge=1, description="Rows that one request may hold.")
    monitors: MonitorSettings = Field(
        default_factory=lambda: MonitorSettings.model_validate({}), description="How the model is watched."
    )


class BoundModel:
    """A declared model together with the feature views it names: what the steps are given."""

    def __init__(self, declared: ModelSettings, views: list[FeatureViewSettings]) -> None:
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
        return load_function(self.declared.examples.function)

    @property
    def gates(self) -> list[Gate]:
        """The declared gates; a candidate must beat the baselines whether that is declared or not."""
        declared = list(self.declared.gates)
        if any(gate.type == "baseline" for gate in declared):
            return declared
        return [*declared, BaselineGate(metric="log_loss" if self.declared.task == "classification" else "rmse")]

    @property
    def primary_metric(self) -> MetricName:
        """Metric by which the best of several candidates is chosen."""
        by_default: MetricName = "auc" if self.declared.task == "classification" else "rmse"
        return self.declared.evaluation.primary_metric or by_default

    @property
    def slice_fields(self) -> list[str]:
        """Request fields by which slices are made: those to be looked at, and those of the gates."""
        gated = [column for gate in self.gates if isinstance(gate, SliceGate) for column in gate.columns]
        return list(dict.fromkeys([*self.declared.evaluation.slices, *gated]))

    @property
    def request_only(self) -> list[str]:
        """Views of the baseline that knows the request alone; none where the model has no such views."""
        views = self.feature_set.views
        plain = [view.name for view in views if view.kind == "request" and not view.inputs]
        return self.declared.evaluation.request_only or plain

    @property
    def table(self) -> str:
        """Lake table of the training set: one for each version of what makes it, since its columns follow the views."""
        return f"{self._training_sets}/{self.code_version}"

    def pinned_training_set(self, tables: Mapping[str, int]) -> tuple[str, int]:
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
