"""Execution of the steps of a run in a process for each, so that a killed or crashed step does not end its run."""

import gc
import importlib
import importlib.util
import os
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import wait

from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.active import ActiveExecution
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.plan.step import ExecutionStep, IExecutionStep
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.base import Executor
from dagster._utils import get_run_crash_explanation
from dagster_shared.error import SerializableErrorInfo

from resources.ray_steps import RAY_TAG, RayStep
from resources.step_process import StepProcess, StepRequest

IMPORTS_TAG = "ml_platform/imports"
"""Tag of a step: modules that it imports, separated by commas.

The process of the run imports a module once that several of its steps name, before the first of them.
"""

TERMINATION_SECONDS = 30.0
"""Time in which an interrupted step must end; then its process is killed."""

POLL_SECONDS = 0.25
"""Interval of the search for interrupts, retries and free pools while no step sends anything."""


def imports_tag(*modules: str) -> dict[str, str]:
    """Return the tag of a step that imports ``modules``."""
    return {IMPORTS_TAG: ",".join(modules)}


class IsolatedSteps(Executor):
    """Executes at most ``max_concurrent`` steps at a time, each in a process forked from this one.

    The forked processes have the definitions and libraries that this one has. It must have started no computation
    (:func:`~resources.step_process.hindrances_to_fork`). Steps with resources for Ray go to the cluster at
    ``ray_address``, if there is one.
    """

    def __init__(
        self, max_concurrent: int, ray_address: str = "", termination_seconds: float = TERMINATION_SECONDS
    ) -> None:
        self.max_concurrent = max_concurrent
        self.ray_address = ray_address
        self.termination_seconds = termination_seconds

    @property
    def retries(self) -> RetryMode:
        return RetryMode.ENABLED

    def execute(self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan) -> Iterator[DagsterEvent]:
        """Yield the events of all steps of the plan.

        Raises DagsterExecutionInterruptedError after an interrupt, when all steps have ended.
        """
        pid, keys = os.getpid(), execution_plan.step_keys_to_execute
        yield DagsterEvent.engine_event(
            plan_context,
            f"Executing each step in a process forked from that of the run (pid: {pid})",
            event_specific_data=EngineEventData.multiprocess(pid, keys),
        )
        # Collections in the forked processes then copy no page of what they share.
        gc.freeze()
        try:
            with (
                InstanceConcurrencyContext(plan_context.instance, plan_context.dagster_run) as slots,
                ActiveExecution(
                    execution_plan,
                    retry_mode=self.retries,
                    max_concurrent=self.max_concurrent,
                    instance_concurrency_context=slots,
                ) as active,
            ):
                yield from _Execution(self, plan_context, execution_plan, active).events()
        finally:
            gc.unfreeze()


class _Execution:
    """One execution of a plan: its running steps, by key."""

    def __init__(
        self, executor: IsolatedSteps, context: PlanOrchestrationContext, plan: ExecutionPlan, active: ActiveExecution
    ) -> None:
        self._executor, self._context, self._plan, self._active = executor, context, plan, active
        self._shared_imports = _shared_imports(plan)
        self._running: dict[str, StepProcess] = {}
        self._interrupted_at: float | None = None

    def events(self) -> Iterator[DagsterEvent]:
        try:
            while self._running or not (self._interrupted_at is not None or self._active.is_complete):
                self._follow_interrupts()
                if self._interrupted_at is None:
                    yield from self._start_steps()
                self._wait()
                for key in list(self._running):
                    yield from self._events_of(key)
                yield from self._active.plan_events_iterator(self._context)
        finally:
            for process in self._running.values():
                process.kill()
                process.close()
        if self._interrupted_at is not None:
            raise DagsterExecutionInterruptedError()

    def _follow_interrupts(self) -> None:
        if self._interrupted_at is None and self._active.check_for_interrupts():
            self._interrupted_at = time.monotonic()
            self._active.mark_interrupted()
            for process in self._running.values():
                process.interrupt()
        elif (
            self._interrupted_at is not None
            and time.monotonic() > self._interrupted_at + self._executor.termination_seconds
        ):
            for process in self._running.values():
                process.kill()

    def _start_steps(self) -> Iterator[DagsterEvent]:
        free = self._executor.max_concurrent - len(self._running)
        steps = self._active.get_steps_to_execute(free) if free else []
        yield from self._active.concurrency_event_iterator(self._context)
        for step in steps:
            for name in self._shared_imports & _imports(step):
                importlib.import_module(name)
            self._running[step.key] = StepProcess(self._request(step))

    def _request(self, step: ExecutionStep) -> StepRequest:
        context, retries, known_state = self._context, self._executor.retries, self._active.get_known_state()
        address = self._executor.ray_address if RAY_TAG in (step.tags or {}) else ""
        return StepRequest(
            key=step.key,
            tags=step.tags or {},
            job=context.job,
            run=context.dagster_run,
            run_config=context.run_config,
            instance=context.instance.get_ref(),
            retry_mode=retries,
            known_state=known_state,
            plan=self._plan,
            ray=RayStep(address, step, context, retries, known_state) if address else None,
        )

    def _wait(self) -> None:
        """Wait until a step has sent something or ended, or until an interrupt or a free pool may have come."""
        found = [each for process in self._running.values() for each in (process.events, process.pidfd)]
        if found:
            wait(found, POLL_SECONDS)
        elif not self._active.is_complete and self._interrupted_at is None:
            time.sleep(min(POLL_SECONDS, self._active.sleep_interval()))  # type: ignore[no-untyped-call]

    def _events_of(self, key: str) -> Iterator[DagsterEvent]:
        """Yield the events that step ``key`` has sent, and its failure if its process ended without one."""
        process = self._running[key]
        was_alive = process.is_alive
        for event in process.receive():
            yield event
            self._active.handle_event(event)
            if event.is_resource_init_failure and event.engine_event_data.error is not None:
                yield from self._failed(key, event.engine_event_data.error)
        if process.ended is None and was_alive:
            return
        del self._running[key]
        code = process.close()
        error = process.ended.error if process.ended else _crash(code)
        if error is not None and self._is_open(key):
            if self._interrupted_at is None:
                yield from self._failed(key, error)
            else:
                self._active.mark_unknown_state(key)
        self._active.verify_complete(self._context, key)

    def _is_open(self, key: str) -> bool:
        return key in self._active._in_flight

    def _failed(self, key: str, error: SerializableErrorInfo) -> Iterator[DagsterEvent]:
        """Yield the failure of step ``key``, or its retry if its policy allows one."""
        event = self._executor.log_failure_or_retry_event_after_error(
            self._context.for_step(self._active.get_step_by_key(key)), error, self._active.get_known_state()
        )
        self._active.handle_event(event)
        yield event


def _shared_imports(plan: ExecutionPlan) -> set[str]:
    """Return the installed modules that several steps of ``plan`` name; one step imports its own, if it needs it."""
    named = Counter(name for key in plan.step_keys_to_execute for name in _imports(plan.get_step_by_key(key)))
    return {
        name
        for name, steps in named.items()
        if steps > 1 and importlib.util.find_spec(name.partition(".")[0]) is not None
    }


def _imports(step: IExecutionStep) -> set[str]:
    return set(filter(None, (step.tags or {}).get(IMPORTS_TAG, "").split(",")))


def _crash(code: int) -> SerializableErrorInfo:
    return SerializableErrorInfo(get_run_crash_explanation("The process of this step", code), [], "StepCrashedError")
