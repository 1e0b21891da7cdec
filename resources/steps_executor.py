"""The executor of all jobs: steps in the process of their run, or each in a process of its own.

One process is the default, because steps then share their imports and caches and a small run ends sooner.
"""

import os
from collections.abc import Iterator
from typing import Any

import dagster as dg
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.base import Executor
from dagster._core.executor.in_process import InProcessExecutor
from dagster._core.executor.multiprocess import MultiprocessExecutor

from ml_platform.errors import PlatformError, listed
from resources.isolated_steps import IsolatedSteps
from resources.ray_steps import RAY_TAG, ray_address
from resources.step_process import hindrances_to_fork

STEPS_VARIABLE = "ML_PLATFORM_STEPS"
"""Environment variable: `in_process` (default) or `isolated`."""

ISOLATED_TAG = "ml_platform/isolated"
"""Tag of a step: `true` if no other step of its run may share its process."""

MODES = ("in_process", "isolated")


class StepsSettingError(PlatformError):
    """Raised when :data:`STEPS_VARIABLE` has another value than those of :data:`MODES`."""


class StepsExecutor(Executor):
    """Executes the steps of a run in its process, or each in a process of its own.

    ``isolated`` None follows the declarations: a plan with a step that declares isolation is isolated as a whole,
    because the steps in the process of the run would start threads that a fork does not survive. So is a plan with a
    step for the Ray cluster at ``ray_address``.
    """

    def __init__(self, isolated: bool | None, max_concurrent: int, ray_address: str = "") -> None:
        self.isolated, self.max_concurrent, self.ray_address = isolated, max_concurrent, ray_address

    @property
    def retries(self) -> RetryMode:
        return RetryMode.ENABLED

    def execute(self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan) -> Iterator[DagsterEvent]:
        """Yield the events of all steps of the plan."""
        chosen: Executor = InProcessExecutor(self.retries)
        if self.isolates(execution_plan) and not plan_context.instance.is_ephemeral:
            chosen = IsolatedSteps(self.max_concurrent, self.ray_address)
            if hindrances := hindrances_to_fork():
                found = listed(hindrances)
                yield DagsterEvent.engine_event(
                    plan_context,
                    f"The process of the run cannot be forked safely ({found}): each step loads the definitions.",
                    event_specific_data=EngineEventData.multiprocess(os.getpid()),
                )
                chosen = MultiprocessExecutor(self.retries, self.max_concurrent, start_method="forkserver")
        yield from chosen.execute(plan_context, execution_plan)

    def isolates(self, plan: ExecutionPlan) -> bool:
        """Return whether each step of ``plan`` gets a process of its own."""
        if self.isolated is not None:
            return self.isolated
        tags = [plan.get_step_by_key(key).tags or {} for key in plan.step_keys_to_execute]
        return any(each.get(ISOLATED_TAG) == "true" or (bool(self.ray_address) and RAY_TAG in each) for each in tags)


@dg.executor(
    name="steps",
    config_schema={
        "isolated": dg.Field(
            bool,
            is_required=False,
            description="Execute each step in a process of its own, or all in one. By default the environment "
            f"({STEPS_VARIABLE}) and the declarations of the steps decide.",
        ),
        "max_concurrent": dg.Field(
            int,
            is_required=False,
            description="Greatest number of isolated steps at a time; by default the number of cores.",
        ),
    },
)
def steps_executor(context: dg.InitExecutorContext) -> StepsExecutor:
    """Return the executor that the run's configuration, the environment and the declarations choose."""
    config: dict[str, Any] = context.executor_config  # type: ignore[assignment]
    isolated = config.get("isolated")
    return StepsExecutor(
        isolated=isolated if isolated is not None else isolated_by_environment(),
        max_concurrent=config.get("max_concurrent") or len(os.sched_getaffinity(0)),
        ray_address=ray_address(),
    )


def isolated_by_environment() -> bool | None:
    """Return True if the environment isolates all steps, None if it leaves that to the declarations.

    Raises :class:`StepsSettingError` for an unknown value.
    """
    value = os.environ.get(STEPS_VARIABLE) or "in_process"
    if value not in MODES:
        raise StepsSettingError(
            STEPS_VARIABLE,
            expected=listed(MODES),
            found=f"'{value}'",
            fix="Set one of them, or unset the variable for 'in_process'.",
        )
    return True if value == "isolated" else None
