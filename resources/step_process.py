"""A process for one step, forked from the process of its run, which has the definitions and the libraries loaded.

A fork copies only the thread that forks. So the process of the run starts no computation: a thread pool of Polars, or a
GPU that it used, would block or fail in each fork.
"""

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.events import DagsterEvent
from dagster._core.execution.api import create_execution_plan, execute_plan_iterator
from dagster._core.execution.context_creation_job import create_context_free_log_manager
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._core.execution.retries import RetryMode
from dagster._core.storage.event_log.sqlite import SqliteEventLogStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._utils.error import serializable_error_info_from_exc_info
from dagster._utils.interrupts import capture_interrupts
from dagster_shared.error import SerializableErrorInfo

from resources.buffered_events import BufferedEvents
from resources.ray_steps import RayStep, execute_on_ray
from resources.step_output import StepOutput

if TYPE_CHECKING:
    from multiprocessing.context import ForkProcess

    from dagster._core.execution.plan.plan import ExecutionPlan
    from dagster._core.instance import InstanceRef

POOL_THREADS = ("polars-", "tokio-", "async-executor-", "cuda-")
"""Starts of the names of native threads without which a forked process would wait for ever."""

HARMLESS_THREADS = ("polars-ooc-",)
"""A thread that Polars starts when it is imported, and that a forked process can do without."""

THREADS_TAG = "ml_platform/threads"
"""Tag of a step: the greatest number of threads of each of its libraries."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")

EXIT_SECONDS = 30.0
"""Time that a process may take to exit after its step has ended."""

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class StepRequest:
    """One attempt of the step ``key`` of ``run``; with ``ray`` its process only submits and follows a Ray job."""

    key: str
    tags: Mapping[str, str]
    job: Any
    run: dg.DagsterRun
    run_config: Mapping[str, object]
    instance: "InstanceRef"
    retry_mode: RetryMode
    known_state: KnownExecutionState
    plan: "ExecutionPlan"
    ray: RayStep | None = None


@dataclass(frozen=True)
class StepEnd:
    """The last message of a step's process; ``error`` is None unless the step could not be executed."""

    error: SerializableErrorInfo | None


class StepProcess:
    """The forked process of ``request``, and the events that it sends."""

    def __init__(self, request: StepRequest) -> None:
        context = multiprocessing.get_context("fork")
        self.events, sender = context.Pipe(duplex=False)
        self.process: ForkProcess = context.Process(
            target=_execute, args=(request, sender, os.getpid()), name=f"step {request.key}"
        )
        self.process.start()
        sender.close()
        self.pidfd = os.pidfd_open(self.pid)
        self.ended: StepEnd | None = None

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self.process.pid or 0

    def receive(self) -> Iterator[DagsterEvent]:
        """Yield the events that have arrived."""
        while self.ended is None and self.events.poll():
            try:
                messages = pickle.loads(self.events.recv_bytes())
            except (EOFError, OSError):
                return  # the process was killed, perhaps in the middle of a message
            for each in messages:
                if isinstance(each, StepEnd):
                    self.ended = each
                else:
                    yield each

    @property
    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self.process.is_alive()

    def interrupt(self) -> None:
        """Ask the step to clean up and end."""
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """End the process at once."""
        self._signal(signal.SIGKILL)

    def close(self) -> int:
        """Wait for the end of the process and return its exit code, negative for a signal.

        A process whose step has ended may have threads that do not; it is killed after :data:`EXIT_SECONDS`.
        """
        self.process.join(EXIT_SECONDS)
        self.kill()
        self.process.join()
        code = self.process.exitcode
        self.events.close()
        os.close(self.pidfd)
        self.process.close()
        return code or 0

    def _signal(self, number: signal.Signals) -> None:
        if self.is_alive:
            os.kill(self.pid, number)


def hindrances_to_fork() -> list[str]:
    """Return what would block or fail in a process forked from this one: native threads, or a GPU that is in use."""
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    threads = {each for each in names if each.startswith(POOL_THREADS) and not each.startswith(HARMLESS_THREADS)}
    torch = sys.modules.get("torch")
    return [f"thread {each}" for each in sorted(threads)] + (
        ["a GPU that torch uses"] if torch is not None and torch.cuda.is_initialized() else []
    )


def _execute(request: StepRequest, sender: Connection, parent: int) -> None:
    """Execute the step in this process, then send its events and :class:`StepEnd`."""
    # A run that is tried again must not meet steps of its killed process; a Ray job must be stopped first.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT if request.ray else signal.SIGKILL)
    if os.getppid() != parent:
        return
    _limit_threads(request.tags.get(THREADS_TAG, ""))
    messages: list[DagsterEvent | StepEnd] = []
    with capture_interrupts():
        try:
            if request.ray is not None:
                messages += execute_on_ray(request.ray)
            else:
                with dg.DagsterInstance.from_ref(request.instance) as instance, _stored_in_groups(instance):
                    messages += _events(request, instance)
            messages.append(StepEnd(None))
        except (Exception, KeyboardInterrupt, DagsterExecutionInterruptedError):
            messages.append(StepEnd(serializable_error_info_from_exc_info(sys.exc_info())))
        # Only now: another step may begin when the events of this one arrive, so they must be stored.
        sender.send_bytes(pickle.dumps(messages))


def _limit_threads(count: str) -> None:
    """Let the libraries use ``count`` threads, those that are loaded and those that will be; "" is no limit."""
    if not count:
        return
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, count))
    from threadpoolctl import threadpool_limits

    threadpool_limits(int(count))


def _events(request: StepRequest, instance: dg.DagsterInstance) -> Iterator[DagsterEvent]:
    yield DagsterEvent.step_worker_started(
        create_context_free_log_manager(instance, request.run),
        request.run.job_name,
        message=f'Executing step "{request.key}" in a process forked from that of the run.',
        metadata={"pid": dg.MetadataValue.text(str(os.getpid()))},
        step_key=request.key,
    )
    plan = create_execution_plan(
        request.job,
        run_config=request.run_config,
        step_keys_to_execute=[request.key],
        known_state=request.known_state,
        repository_load_data=request.plan.repository_load_data,
    )
    yield from execute_plan_iterator(
        plan,
        request.job,
        request.run,
        run_config=request.run_config,
        retry_mode=request.retry_mode.for_inner_plan(),
        instance=instance,
    )


@contextmanager
def _stored_in_groups(instance: dg.DagsterInstance) -> Iterator[None]:
    """Let ``instance`` store the events of this process in groups, and what it prints without further processes.

    Other storages than the files of a home stay as they are.
    """
    printed, events = instance.compute_log_manager, instance.event_log_storage
    if type(printed) is LocalComputeLogManager:
        instance._compute_log_manager = StepOutput(printed._base_dir)
        instance._compute_log_manager.register_instance(instance)
    if type(events) is not SqliteEventLogStorage:
        yield
        return
    buffered = BufferedEvents(events._base_dir)
    buffered.register_instance(instance)
    instance._event_storage = buffered
    try:
        yield
    finally:
        buffered.flush()
