"""The attribute `rollout` of a model: the steps by which a new champion receives requests, and what ends a rollout."""

from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from ml_platform.data.settings import Settings

SlowLimit = Literal[5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000]


class RolloutStep(Settings):
    """One step of a rollout: the share of the requests, and what is needed before the next step."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: int = Field(
        ge=0, le=100, description="Percent of the requests that the candidate answers; 0: a copy of each (shadow)."
    )
    min_requests: int = Field(default=200, ge=1, description="Answers of the candidate that the step needs.")
    min_seconds: float = Field(default=60, ge=0, description="Shortest duration of the step.")
    approval: bool = Field(default=False, description="Whether a person must approve before the next step.")


MAX_CANARY_WEIGHT = 90
"""Both versions answer requests of the same time, so that they can be compared."""

CANARY_STEPS = (RolloutStep(weight=5), RolloutStep(weight=25), RolloutStep(weight=50))


class Guardrails(Settings):
    """Tolerated differences between candidate and stable version over the same time; more rolls the candidate back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    error: float = Field(
        default=0.01, gt=0, lt=1, description="Probability that a candidate within all tolerances is rolled back."
    )
    error_share: float = Field(default=0.01, ge=0, lt=1, description="Tolerated increase of the share of errors.")
    slow_ms: SlowLimit = Field(default=50, description="Answers that take longer are slow; a limit of Envoy's buckets.")
    slow_share: float = Field(default=0.05, ge=0, lt=1, description="Tolerated increase of the share of slow answers.")
    score_share: float = Field(
        default=0.15, ge=0, lt=1, description="Tolerated distance of the distributions of scores between 0 and 1."
    )
    missing_share: float = Field(
        default=0.05, ge=0, lt=1, description="Tolerated increase of the share of view reads without a fact."
    )
    changed_by: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="Difference of two scores between 0 and 1 of one request, above which it counts.",
    )
    changed_share: float = Field(
        default=0.02, ge=0, lt=1, description="Tolerated share of requests whose score changed, while in the shadow."
    )
    memory_mb: float = Field(
        default=512, gt=0, description="Memory by which the candidate may exceed the stable version (MB)."
    )
    restarts: int = Field(default=1, ge=0, description="Restarts of the candidate that are tolerated.")
    stalled_seconds: float = Field(
        default=3, gt=0, description="Time without an answer, while requests wait, that rolls back."
    )
    ready_seconds: float = Field(
        default=120, gt=0, description="Time after which a candidate that is not ready is rolled back."
    )


class RolloutSettings(Settings):
    """How a new champion reaches the users of the endpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Literal["immediate", "blue_green", "canary", "shadow_then_canary"] = Field(
        default="immediate",
        description=(
            "immediate: all requests at once; blue_green: all at once, watched; canary: by steps; "
            "shadow_then_canary: copies of requests first, then by steps."
        ),
    )
    shadow: RolloutStep = Field(
        default=RolloutStep(weight=0), description="The step with copies of requests, of shadow_then_canary."
    )
    watch: RolloutStep = Field(
        default=RolloutStep(weight=100, min_seconds=600),
        description="The step of blue_green: the candidate answers all requests, the stable version receives copies.",
    )
    sticky_by: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9][a-z0-9-]{0,63}$",
        description="Request header whose value decides between both versions; None: each request is drawn by chance.",
    )
    steps: tuple[RolloutStep, ...] = Field(default=CANARY_STEPS, min_length=1, description="Steps, in order.")
    guardrails: Guardrails = Field(default=Guardrails(), description="Limits at which the candidate is rolled back.")
    max_minutes: float = Field(default=1440, gt=0, description="Longest duration of a rollout.")
    keep_previous_minutes: float = Field(
        default=60, ge=0, description="Time that the version before runs on without requests, ready for a rollback."
    )
    on_timeout: Literal["roll_back", "complete"] = Field(
        default="roll_back", description="Outcome of a candidate that is not through its steps by then."
    )

    @model_validator(mode="after")
    def _weights_grow(self) -> Self:
        weights = [step.weight for step in self.steps]
        if weights[0] == 0 or weights[-1] > MAX_CANARY_WEIGHT or weights != sorted(weights):
            raise ValueError(f"steps: expected weights from 1 to {MAX_CANARY_WEIGHT} that do not fall, found {weights}")
        if self.shadow.weight != 0:
            raise ValueError(f"shadow: expected weight 0, found {self.shadow.weight}")
        if self.watch.weight != 100:
            raise ValueError(f"watch: expected weight 100, found {self.watch.weight}")
        return self

    @property
    def all_steps(self) -> tuple[RolloutStep, ...]:
        """The steps before all requests; none for `immediate`."""
        if self.strategy == "immediate":
            return ()
        if self.strategy == "blue_green":
            return (self.watch,)
        return (self.shadow, *self.steps) if self.strategy == "shadow_then_canary" else self.steps
