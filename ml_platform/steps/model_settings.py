"""The settings of a model as a team declares them."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from ml_platform.data.arrival import DELAY
from ml_platform.data.domains import Owner
from ml_platform.data.names import FULL_NAME
from ml_platform.data.partitions import PartitionScheme
from ml_platform.data.settings import RENAMED_IN_VERSION, Settings
from ml_platform.errors import listed
from ml_platform.evaluation.bootstrap import ROW_UNIT, BootstrapSettings
from ml_platform.evaluation.gates import Gate
from ml_platform.features.prediction_time import PredictionTime
from ml_platform.monitoring.retraining_settings import RetrainingPolicy
from ml_platform.registry.approvals import ApprovalSettings
from ml_platform.serving.contract_changes import ContractSettings
from ml_platform.serving.deprecation import Deprecation
from ml_platform.serving.load_profile import LoadTestSettings
from ml_platform.serving.request_contract import (
    MAX_PAST_MINUTES,
    MaxPastMinutes,
    OnPast,
    RequestField,
)
from ml_platform.serving.request_rules import RequestRule
from ml_platform.serving.rollout_settings import RolloutSettings
from ml_platform.serving.serving_settings import Constant, ServingSettings
from ml_platform.steps.monitor_settings import MonitorSettings
from ml_platform.steps.retention import ModelRetention
from ml_platform.tasks.binary import BinaryTask
from ml_platform.tasks.catalog import DeclaredTask
from ml_platform.tasks.own_metric import Metric
from ml_platform.tasks.row_losses import LOSS_METRICS
from ml_platform.training.labels import LabelSettings
from ml_platform.training.own_baseline import Baseline
from ml_platform.training.splits import TimeSplit
from ml_platform.training.table_splits import DeclaredSplit, GroupSplit, HashSplit
from ml_platform.training.threshold import ThresholdSettings
from ml_platform.training.trainer import TrainerSettings

RENAMED_GATE_TYPES = {"floor": "metric_limit"}
"""Gate types that were renamed in version 0.2.0: old type → new type."""


OwnName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
"""A name that a declaration gives to a class of a team's own."""


def _reject_renamed_gate_type(gate: Any) -> Any:
    old = gate.get("type") if isinstance(gate, dict) else None
    if isinstance(old, str) and old in RENAMED_GATE_TYPES:
        raise ValueError(f"gate type '{old}' was renamed to {RENAMED_GATE_TYPES[old]} in {RENAMED_IN_VERSION}.")
    return gate


class ExampleSettings(Settings):
    """The function that returns a model's examples, and its sources."""

    function: str = Field(
        description="package.module:function(sources) returning example_id, request fields, label, label_known_at; "
        "with 'labels', without the last two."
    )
    sources: list[str] = Field(min_length=1, description="Datasets that the function reads, by name.")
    identity: list[str] = Field(
        default_factory=list,
        description="Request fields that identify an example; outcomes are joined by them. Empty: all request fields.",
    )
    available_from: dict[str, dict[str, list[str]]] = Field(
        default_factory=dict,
        description="By source and time column: columns that become known only at that time, in addition to the views.",
    )


class RejudgeSettings(Settings):
    """How often a candidate on HOLD is judged again."""

    max_looks: int = Field(
        default=6,
        ge=1,
        le=50,
        description="Highest number of looks at one candidate: its own window, and the ones that close after it. With "
        "1, a candidate on HOLD is not judged again.",
    )


class EvaluationSettings(Settings):
    """How candidates are scored on the test window."""

    metrics: dict[OwnName, Metric] = Field(
        default_factory=dict,
        description="Metrics of your own by name, as type: package.module:Class with its settings; gates may use them.",
    )
    baselines: dict[OwnName, Baseline] = Field(
        default_factory=dict,
        description="Baselines of your own by name, as type: package.module:Class with its settings.",
    )
    primary_metric: str | None = Field(
        default=None,
        description="Metric that chooses the best of several candidates; default: that of the task, for example auc.",
    )
    slices: list[str] = Field(
        default_factory=list, description="Request fields by whose values the metrics are shown separately."
    )
    minimum_support: int = Field(
        default=200, ge=1, description="Number of rows below which a slice is not listed among the weakest slices."
    )
    bootstrap: BootstrapSettings = Field(
        default_factory=lambda: BootstrapSettings.model_validate({}),
        description="Resampling of the confidence intervals.",
    )
    rejudge: RejudgeSettings = Field(
        default_factory=lambda: RejudgeSettings.model_validate({}),
        description="Repeated judgement of a candidate on HOLD, on the rows of all windows so far.",
    )
    freshness_curve: list[Annotated[str, Field(pattern=DELAY)]] | None = Field(
        default=None,
        description="Delays of facts, like 0m or 6h, for which the quality is shown beside that with the declared "
        "arrival; default: 0m, 1h, 6h, 1d and 7d if a dataset of the model declares its arrival, otherwise none.",
    )
    request_only: list[str] = Field(
        default_factory=list,
        description="Feature views of the request-only baseline; empty: request views without inputs.",
    )
    unscored_champion: Literal["hold", "judge_alone"] = Field(
        default="hold",
        description="Verdict when the champion's own feature values cannot be had after a change of a view. hold: no "
        "candidate is promoted; judge_alone: the candidate is judged as the first version is.",
    )


class RetrainingSettings(Settings):
    """When a model is retrained and monitored automatically."""

    on_new_partition: bool = Field(
        default=True, description="Train whenever the training set of the latest window is materialized."
    )
    cron: str | None = Field(
        default=None, description="Also train on the latest window at these times (cron, UTC); none: only on new data."
    )
    on_backlog: Literal["each", "newest"] = Field(
        default="each",
        description="Windows that close together. each: one after the other, oldest first; newest: only the newest, "
        "and the others are recorded as skipped.",
    )
    on_code_change: Literal["automatic", "manual"] = Field(
        default="manual",
        description="automatic: train the latest window again when code or settings of its candidates change; "
        "manual: changed code counts from the next window on.",
    )
    policy: RetrainingPolicy | None = Field(
        default=None,
        description="Rules that decide whether a closed window is trained on; none: each closed window is.",
    )
    monitoring_cron: str = Field(
        default="*/30 * * * *", description="When logged predictions are ingested and joined with outcomes (cron, UTC)."
    )
    reproduce_cron: str = Field(
        default="0 5 * * 0",
        description="When the champion is rebuilt and compared (cron, UTC); the schedule is off by default.",
    )

    @model_validator(mode="after")
    def _let_the_policy_decide(self) -> "RetrainingSettings":
        if self.policy is not None and (self.cron is not None or not self.on_new_partition):
            other = "cron trains without it" if self.cron is not None else "with on_new_partition: false it sees none"
            raise ValueError(f"policy decides on each closed window, and {other}. Remove one of both.")
        return self


class ScoresSettings(Settings):
    """A table that is scored as a whole, partition by partition."""

    dataset: str = Field(description="Dataset whose rows are scored.")
    function: str | None = Field(
        default=None,
        description="package.module:function(sources) returning the rows to score, with a column for each request "
        "field; none: the rows of the dataset, whose columns are the request fields.",
    )
    keep: list[str] = Field(
        default_factory=list,
        description="Further columns of these rows that the scores repeat, besides those of examples.identity.",
    )
    on_new_partition: bool = Field(
        default=True, description="Score each partition of the dataset when it is materialized."
    )


class RiskSettings(Settings):
    """The risk of the intended use of a model, as its owners judged it."""

    level: Literal["minimal", "limited", "high"] = Field(
        description="Class of the use, as in Regulation (EU) 2024/1689 (AI Act): minimal, limited or high."
    )
    reason: str = Field(min_length=1, description="Why it has this class, in a sentence.")


class ModelSettings(Settings):
    """A model: its examples, features, trainers, gates, endpoint and monitors."""

    name: str = Field(
        pattern=FULL_NAME,
        description="Name of the model, of the group of its assets, and of the path of its endpoint.",
    )
    description: str = Field(description="One sentence: the prediction and its users.")
    owners: list[Owner] = Field(
        default_factory=list,
        description="Responsible people or teams: team:<name> or an e-mail address; none: those of the domain.",
    )
    tags: dict[str, str] = Field(default_factory=dict, description="Tags of the assets.")
    task: DeclaredTask = Field(
        default_factory=BinaryTask,
        description="Type of prediction: binary, multiclass, regression, quantile or ranking; with settings, an object "
        "with a type.",
    )
    target: str = Field(description="Description of the label, for readers of the model card.")
    intended_use: str = Field(default="", description="Intended and unintended uses; part of the model card.")
    limits: list[str] = Field(default_factory=list, description="Known limits; part of the model card.")
    risk: RiskSettings | None = Field(
        default=None,
        description="Risk of the intended use, for the inventory of models; none: not stated.",
    )
    time: Literal["none"] | None = Field(
        default=None,
        description="'none' for a model whose examples have no time: its training set is one table that is replaced as "
        "a whole. It has neither partitions nor prediction_time.",
    )
    partitions: PartitionScheme | None = Field(
        default=None, description="Partitions of the training set: how its examples arrive."
    )
    first_candidate: str | None = Field(
        default=None,
        description="First partition with a candidate; earlier ones are needed for training and validation.",
    )
    examples: ExampleSettings = Field(description="Rows of the training set.")
    labels: LabelSettings | None = Field(
        default=None,
        description="Dataset whose rows label the examples, also later than these; none: the examples have labels.",
    )
    request: list[RequestField] = Field(min_length=1, description="Request fields of one row at the endpoint.")
    prediction_time: PredictionTime | None = Field(
        default=None, description="Time of a prediction, relative to a request field."
    )
    features: list[str] = Field(min_length=1, description="Names of the feature views.")
    split: DeclaredSplit = Field(
        default_factory=lambda declared: (
            TimeSplit.model_validate({}) if declared.get("time") is None else HashSplit.model_validate({"by": "hash"})
        ),
        description="Split into training, validation and test: by time, hash, group or column. Default: by time, and "
        "by hash for a model without time.",
    )
    trainers: dict[str, TrainerSettings] = Field(
        min_length=1, description="Trainers by name; each adds the asset candidate_<name>."
    )
    threshold: ThresholdSettings = Field(
        default_factory=lambda: ThresholdSettings(fixed=0.5),
        description=(
            "Rule that chooses the decision threshold on the validation rows; the endpoint answers true for scores of "
            "at least this value. One of fixed (also as a bare number), f_beta, cost, precision_at or rate."
        ),
    )
    evaluation: EvaluationSettings = Field(
        default_factory=lambda: EvaluationSettings.model_validate({}),
        description="Evaluation of candidates on the test window.",
    )
    gates: list[Annotated[Gate, BeforeValidator(_reject_renamed_gate_type)]] = Field(
        min_length=1, description="Gates that a candidate must pass; each is a check of the evaluation."
    )
    approval: ApprovalSettings = Field(
        default_factory=lambda: ApprovalSettings.model_validate({}),
        description="Approvals that are needed besides the gates.",
    )
    retraining: RetrainingSettings = Field(
        default_factory=lambda: RetrainingSettings.model_validate({}),
        description="Automatic retraining and monitoring.",
    )
    retention: ModelRetention | None = Field(
        default=None, description="Values that replace those under retention in params.yaml for this model."
    )
    scores: ScoresSettings | None = Field(
        default=None, description="Table that the served version scores; none: predictions are made on request only."
    )
    rollout: RolloutSettings = Field(
        default_factory=lambda: RolloutSettings.model_validate({}),
        description="How a new champion reaches the users of the endpoint.",
    )
    serving: ServingSettings = Field(
        default_factory=lambda: ServingSettings.model_validate({}),
        description="Process that the versions of the model run in.",
    )
    contract: ContractSettings = Field(
        default_factory=lambda: ContractSettings.model_validate({}),
        description="Changes of requests and answers that are intended although they break apps.",
    )
    load_test: LoadTestSettings | None = Field(
        default=None, description="Load that a new bento must bear before its rollout; none: it is not tested."
    )
    maximum_rows: int = Field(default=1000, ge=1, description="Maximum number of rows of one request.")
    request_rules: list[RequestRule] = Field(
        default_factory=list,
        description="Rules for the values of request fields: ranges, allowed values, comparisons of two fields.",
    )
    max_past_minutes: MaxPastMinutes = MAX_PAST_MINUTES
    on_past: OnPast = "flag"
    deprecated: Deprecation | None = Field(
        default=None, description="That the endpoint is to end: each answer has the headers deprecation and sunset."
    )
    monitors: MonitorSettings = Field(
        default_factory=lambda: MonitorSettings.model_validate({}), description="Monitors of the model."
    )

    @model_validator(mode="after")
    def _validate_time(self) -> "ModelSettings":
        timed = {"partitions": self.partitions, "prediction_time": self.prediction_time}
        if self.time is None:
            absent = [name for name, value in timed.items() if value is None]
            if absent:
                raise ValueError(f"{' and '.join(absent)} missing; for examples without a time declare 'time: none'")
            return self
        declared = [name for name, value in (timed | {"first_candidate": self.first_candidate}).items() if value]
        if declared:
            names = " and no ".join(declared)
            raise ValueError(f"a model with 'time: none' has no {names}; remove them, or remove 'time'")
        if self.split.is_by_time:
            raise ValueError("a model with 'time: none' has no split by time; declare split.by: hash, group or column")
        bootstrap = self.evaluation.bootstrap
        if "unit" not in bootstrap.model_fields_set:
            # The groups of a split are independent of each other, the rows of one group are not.
            unit = self.split.column if isinstance(self.split, GroupSplit) else ROW_UNIT
            bootstrap = bootstrap.model_copy(update={"unit": unit})
            self.evaluation = self.evaluation.model_copy(update={"bootstrap": bootstrap})
        return self

    @model_validator(mode="after")
    def _retraining_policy_fits(self) -> "ModelSettings":
        policy = self.retraining.policy
        if policy is not None and self.time is not None:
            raise ValueError("retraining.policy decides on closed windows, and a model with 'time: none' has none")
        if policy is not None and policy.loss is not None and self.task.name not in LOSS_METRICS:
            raise ValueError(
                f"retraining.policy.loss compares a mean loss, and the task {self.task.name} has none; use the tasks "
                f"{listed(LOSS_METRICS)}, or remove it"
            )
        return self

    @model_validator(mode="after")
    def _load_fits_a_request(self) -> "ModelSettings":
        if self.load_test is not None and self.load_test.rows > self.maximum_rows:
            raise ValueError(
                f"load_test.rows: expected at most maximum_rows ({self.maximum_rows}), found {self.load_test.rows}"
            )
        return self

    @model_validator(mode="after")
    def _fallback_can_answer(self) -> "ModelSettings":
        fallback = self.serving.fallback
        if fallback == "previous" and not self.rollout.keep_previous_minutes:
            raise ValueError(
                "serving.fallback: the version before can answer only while it runs; declare "
                "rollout.keep_previous_minutes above 0"
            )
        if isinstance(fallback, Constant):
            if self.task.details.keys() - {"interval"}:
                raise ValueError(
                    f"serving.fallback: a constant needs a task that answers one number, found {self.task.name}"
                )
            if self.task.has_probabilities and not 0 <= fallback.constant <= 1:
                raise ValueError(f"serving.fallback.constant: expected a probability, found {fallback.constant}")
        return self

    @property
    def maximum_looks(self) -> int:
        """Highest number of looks at one candidate; 1 without windows of time that close after its own."""
        return self.evaluation.rejudge.max_looks if self.time is None and self.split.is_by_time else 1
