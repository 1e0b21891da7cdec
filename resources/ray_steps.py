"""Steps on a Ray cluster: a process of the run submits the step as a Ray job by dagster-ray and follows it to its end.

A Ray job needs 5 to 10 s to start, so only steps with declared resources go there.
"""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster._core.errors import DagsterExecutionInterruptedError, raise_execution_interrupts
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._core.execution.plan.step import ExecutionStep
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.step_delegating import StepHandlerContext
from dagster._grpc.types import ExecuteStepArgs

from ml_platform.errors import PlatformError
from resources.profile import active_profile, active_settings

if TYPE_CHECKING:
    from dagster_ray.core.executor import RayStepHandler
    from ray.dashboard.modules.job.pydantic_models import JobDetails

RAY_TAG = "dagster-ray/config"
"""Tag of a step: the resources that it needs on a Ray cluster. dagster-ray reads it."""

RAY_VARIABLE = "ML_PLATFORM_RAY"
"""Environment variable: the address of the dashboard of a Ray cluster, such as ``http://head:8265``."""

MAX_SUBMISSIONS = 3
"""How often a step is submitted whose node was lost each time."""

POLL_SECONDS = 1.0
UNREACHABLE_SECONDS = 60.0
"""Time for which the dashboard may be away, for instance while the head restarts."""

PASSED_VARIABLES = ("ML_PLATFORM_", "DAGSTER_HOME", "PYTHONPATH")
"""Starts of the names of the variables that a step on another node gets."""


class RayError(PlatformError):
    """Raised when a step cannot be executed on the Ray cluster."""


@dataclass(frozen=True)
class RayStep:
    """One attempt of ``step`` on the cluster at ``address``."""

    address: str
    step: ExecutionStep
    context: PlanOrchestrationContext
    retry_mode: RetryMode
    known_state: KnownExecutionState


def ray_address() -> str:
    """Return the address of the Ray cluster of the environment, or of the profile `cluster`; "" without one."""
    address = os.environ.get(RAY_VARIABLE, "")
    return address or (active_settings().ray.address if active_profile() == "cluster" else "")


def execute_on_ray(attempt: RayStep) -> list[DagsterEvent]:
    """Execute the step as a Ray job and return its events, which the job has stored.

    A job whose node is lost is submitted again, on another node, where the step continues from its checkpoint if it has
    one. An interrupt stops the job. Raises :class:`RayError` for a job that failed otherwise without an event of the
    step, and after :data:`MAX_SUBMISSIONS` lost nodes.
    """
    instance, run_id, key = attempt.context.instance, attempt.context.run_id, attempt.step.key
    for submission in range(MAX_SUBMISSIONS):
        before = len(instance.all_logs(run_id))
        job = _submitted(attempt, submission)
        stored = [each.dagster_event for each in instance.all_logs(run_id)[before:] if each.dagster_event]
        events = [each for each in stored if each.step_key == key]
        if any(each.is_step_success or each.is_step_failure or each.is_step_up_for_retry for each in events):
            return events
        # A job that ran to its end has the exit code of the step, whatever that was.
        if job.driver_exit_code is not None:
            break
        _log(attempt, f"Ray job {job.submission_id} was lost on node {job.driver_node_id}: {job.message}")
    raise RayError(
        f"Step '{key}'",
        expected="a Ray job that ends with an event of the step",
        found=f"{job.status} with exit code {job.driver_exit_code}: {job.message}",
        fix=f"See the log of job {job.submission_id} at {attempt.address}.",
    )


def _submitted(attempt: RayStep, submission: int) -> "JobDetails":
    """Submit the step, wait until its job has ended, and return its details."""
    handler, context = _handler(attempt.address, submission), _handler_context(attempt)
    job_id = handler._get_ray_job_submission_id(context)
    with raise_execution_interrupts():
        try:
            for _ in handler.launch_step(context):
                pass
            return _ended_job(handler.client, job_id, attempt.address)
        except (DagsterExecutionInterruptedError, KeyboardInterrupt):
            handler.client.stop_job(job_id)
            raise


def _handler(address: str, submission: int) -> "RayStepHandler":
    try:
        from dagster_ray.core.executor import RayStepHandler
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise RayError(
            f"Ray cluster {address}",
            expected="the packages ray and dagster-ray",
            found="no such package",
            fix="Install them: make ray.",
        ) from error

    class Handler(RayStepHandler):  # type: ignore[misc, unused-ignore]  # without Ray it has no type
        def _get_ray_job_submission_id(self, step_handler_context: StepHandlerContext) -> str:
            own = super()._get_ray_job_submission_id(step_handler_context)
            return f"{own}-node-{submission}" if submission else str(own)

    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    passed = [f"{name}={value}" for name, value in os.environ.items() if name.startswith(PASSED_VARIABLES)]
    return Handler(
        client=JobSubmissionClient(address),
        env_vars=[*passed, f"PATH={path}"],
        runtime_env=None,
        num_cpus=None,
        num_gpus=None,
        memory=None,
        resources=None,
    )


def _handler_context(attempt: RayStep) -> StepHandlerContext:
    context = attempt.context
    return StepHandlerContext(
        instance=context.instance,
        plan_context=context,
        steps=[attempt.step],
        execute_step_args=ExecuteStepArgs(
            job_origin=context.reconstructable_job.get_python_origin(),
            run_id=context.run_id,
            step_keys_to_execute=[attempt.step.key],
            instance_ref=context.instance.get_ref(),
            retry_mode=attempt.retry_mode.for_inner_plan(),
            known_state=attempt.known_state,
            # The step was started here once, and again after a lost node.
            should_verify_step=False,
            print_serialized_events=False,
        ),
        dagster_run=context.dagster_run,
    )


def _ended_job(client: Any, job_id: str, address: str) -> "JobDetails":
    reached = time.monotonic()
    while True:
        try:
            job: JobDetails = client.get_job_info(job_id)
            reached = time.monotonic()
            if job.status.is_terminal():
                return job
        except (RuntimeError, OSError) as error:
            if time.monotonic() - reached > UNREACHABLE_SECONDS:
                raise RayError(
                    f"Ray cluster {address}",
                    expected=f"an answer within {UNREACHABLE_SECONDS:g} s",
                    found=str(error),
                    fix="Start the head of the cluster, and run the step again.",
                ) from error
        time.sleep(POLL_SECONDS)


def _log(attempt: RayStep, message: str) -> None:
    DagsterEvent.engine_event(attempt.context.for_step(attempt.step), message, EngineEventData())
