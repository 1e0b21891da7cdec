"""Runs whose process is gone end, free their places and pools, and are tried again where that is safe."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.events import DagsterEvent, EngineEventData

from ml_platform.state.process_identity import current_process, process_name
from ml_platform_tests.polling import until
from ml_platform_tests.resources import waiting_runs
from resources import run_monitoring
from resources.home import Home
from resources.orchestration import GPU_POOL
from resources.run_monitoring import (
    LAUNCHER_TAG,
    PROCESS_TAG,
    RunEndError,
    end_dead_runs,
    end_run,
    examine,
    open_runs,
    process_tag,
)

PROGRAMS = Path(sys.executable).parent
PROJECT = Path(__file__).resolve().parents[2]
LOCATION = Path(waiting_runs.__file__)
FAILURE, SUCCESS, STARTED = dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.STARTED


@contextmanager
def started_program(home: Home, instance: dg.DagsterInstance, asset: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a run of ``asset`` in a process of its own, wait until its step has started, and yield the process."""
    before = {run.run_id for run in instance.get_runs()}
    program = subprocess.Popen([sys.executable, str(LOCATION), str(home.root), asset], cwd=PROJECT)
    try:

        def has_started() -> bool:
            assert program.poll() is None
            new = [run for run in instance.get_runs() if run.run_id not in before]
            return any(instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_START) for run in new)

        until(has_started, 60)
        yield program
    finally:
        program.kill()
        program.wait()


def kill_started_programs(home: Home, instance: dg.DagsterInstance, *assets: str) -> list[int]:
    """Start a program for each asset, kill all with SIGKILL in their step, and return their process ids."""
    with ExitStack() as stack:
        programs = [stack.enter_context(started_program(home, instance, asset)) for asset in assets]
    assert [each.returncode for each in programs] == [-signal.SIGKILL] * len(assets)
    return [each.pid for each in programs]


def failure_message(instance: dg.DagsterInstance, run_id: str) -> str:
    (failure,) = instance.all_logs(run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    assert failure.dagster_event is not None
    return str(failure.dagster_event.message)


def test_killed_runs_end_as_failed_and_name_their_process(home: Home, instance: dg.DagsterInstance) -> None:
    pids = kill_started_programs(home, instance, "waiting", "waiting")
    assert [run.status for run in instance.get_runs()] == [STARTED, STARTED]

    ended = end_dead_runs(instance)

    assert [int(each.process.split("/")[1]) for each in ended] == pids
    assert [run.status for run in instance.get_runs()] == [FAILURE, FAILURE]
    for each, pid in zip(ended, pids, strict=True):
        message = failure_message(instance, each.run_id)
        assert message.startswith(f"The process of this run ended without ending the run: process {pid} on '")
    assert end_dead_runs(instance) == []


def test_killed_run_of_the_command_line_is_not_tried_again(home: Home, instance: dg.DagsterInstance) -> None:
    kill_started_programs(home, instance, "waiting")
    (ended,) = end_dead_runs(instance)
    run = instance.get_run_by_id(ended.run_id)
    assert run is not None
    assert run.tags["dagster/will_retry"] == "false"


def test_running_run_is_not_ended(home: Home, instance: dg.DagsterInstance) -> None:
    with started_program(home, instance, "waiting") as program:
        assert end_dead_runs(instance) == []
        (run,) = open_runs(instance)
        assert (run.state, int(run.process.split("/")[1])) == ("running", program.pid)
        with pytest.raises(RunEndError, match=f"found process {program.pid} on .*, which still runs"):
            end_run(instance, run.run_id[:8])


def test_step_that_waits_for_the_slot_of_a_killed_run_gets_it(
    home: Home, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_monitoring, "POLL_SECONDS", 0.2)
    with started_program(home, instance, "waiting_with_a_slot") as program:
        waiter = subprocess.Popen([sys.executable, str(LOCATION), str(home.root), "needs_the_slot"], cwd=PROJECT)
        until(lambda: instance.event_log_storage.get_concurrency_info(GPU_POOL).pending_step_count, 60)
        program.send_signal(signal.SIGKILL)
        assert waiter.wait(60) == 0

    assert [run.status for run in instance.get_runs()] == [SUCCESS, FAILURE]
    assert instance.event_log_storage.get_concurrency_info(GPU_POOL).active_slot_count == 0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance with runs in a file, as in a home."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as opened:
        yield opened


@pytest.fixture(scope="module")
def ended_process() -> str:
    """The name of a process that ended."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = process_name(child.pid)
    child.communicate(b"\n")
    return name


def open_run(store: dg.DagsterInstance, tags: dict[str, str] | None = None, status: str = "STARTED") -> dg.DagsterRun:
    return store.create_run_for_job(
        waiting_runs.defs.resolve_job_def("wait"), status=dg.DagsterRunStatus(status), tags=tags or {}
    )


def tag_process(store: dg.DagsterInstance, run: dg.DagsterRun, process: str, tag: str = PROCESS_TAG) -> None:
    store.add_run_tags(run.run_id, {tag: process_tag(process, run.run_id)})


def status_of(store: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    found = store.get_run_by_id(run.run_id)
    assert found is not None
    return found.status.value


def pid_of(process: str) -> int:
    return int(process.split("/")[1])


def test_run_of_another_machine_ends_only_on_request(store: dg.DagsterInstance) -> None:
    run = open_run(store)
    tag_process(store, run, "another-machine/12/1700000000/697990d0/5")
    assert end_dead_runs(store) == []
    assert [each.state for each in open_runs(store)] == ["unknown"]

    end_run(store, run.run_id[:8])

    assert status_of(store, run) == "FAILURE"
    assert failure_message(store, run.run_id) == (
        "Ended on request; its process was process 12 on 'another-machine', started 2023-11-14 22:13:20 UTC."
    )


def test_request_to_end_an_unknown_run_names_the_fix(store: dg.DagsterInstance) -> None:
    with pytest.raises(RunEndError, match=r"Run 'abc': .* found no such run. Run `ml-platform runs`"):
        end_run(store, "abc")


def test_run_on_the_code_server_of_another_machine_is_not_ended(store: dg.DagsterInstance, ended_process: str) -> None:
    run = open_run(store, {".dagster/grpc_info": '{"host": "code.internal", "port": 4000}'})
    store.report_engine_event("Started", run, EngineEventData.in_process(pid_of(ended_process)))
    assert end_dead_runs(store) == []


def test_retry_with_the_copied_tags_of_a_killed_run_is_not_ended(store: dg.DagsterInstance, ended_process: str) -> None:
    killed = open_run(store)
    tag_process(store, killed, ended_process)
    tag_process(store, killed, ended_process, LAUNCHER_TAG)
    copied = store.get_run_by_id(killed.run_id)
    assert copied is not None
    retry = open_run(store, dict(copied.tags), "STARTING")

    assert [each.run_id for each in end_dead_runs(store)] == [killed.run_id]
    assert status_of(store, retry) == "STARTING"


def test_run_without_tags_ends_when_the_process_of_its_first_event_is_gone(
    store: dg.DagsterInstance, ended_process: str
) -> None:
    dead, alive = open_run(store), open_run(store)
    store.report_engine_event("Started", dead, EngineEventData.in_process(pid_of(ended_process)))
    store.report_engine_event("Started", alive, EngineEventData.in_process(os.getpid()))

    assert [each.run_id for each in end_dead_runs(store)] == [dead.run_id]
    (left,) = open_runs(store)
    # From now on a clock that is set cannot end it.
    assert (left.run_id, left.process) == (alive.run_id, current_process())
    assert left.run.tags[PROCESS_TAG] == f"{current_process()} {alive.run_id[:8]}"


def test_run_without_any_trace_of_a_process_stays(store: dg.DagsterInstance) -> None:
    open_run(store)
    assert end_dead_runs(store) == []
    assert [(each.state, each.process) for each in open_runs(store)] == [("unknown", "")]


def test_killed_run_that_was_being_cancelled_ends_as_canceled(store: dg.DagsterInstance, ended_process: str) -> None:
    run = open_run(store)
    tag_process(store, run, ended_process)
    store.report_run_canceling(run)
    end_dead_runs(store)
    assert status_of(store, run) == "CANCELED"


@pytest.mark.parametrize(("seconds", "status"), [(60, "STARTING"), (200, "FAILURE")])
def test_launched_run_without_a_process_ends_after_the_timeout_if_its_launcher_is_gone(
    store: dg.DagsterInstance, ended_process: str, monkeypatch: pytest.MonkeyPatch, seconds: int, status: str
) -> None:
    run = open_run(store, status="NOT_STARTED")
    tag_process(store, run, ended_process, LAUNCHER_TAG)
    store.report_dagster_event(DagsterEvent("PIPELINE_STARTING", run.job_name), run.run_id)
    monkeypatch.setattr(run_monitoring, "_now", lambda: time.time() + seconds)

    end_dead_runs(store)

    assert status_of(store, run) == status
    end_dead_runs(store, start_seconds=0)
    assert status_of(store, run) == "FAILURE"


def test_slots_of_a_run_that_ended_before_it_freed_them_are_freed(store: dg.DagsterInstance) -> None:
    run = open_run(store)
    store.event_log_storage.set_concurrency_slots("gpu", 1)
    store.event_log_storage.claim_concurrency_slot("gpu", run.run_id, "step")
    end_dead_runs(store)
    assert store.event_log_storage.get_concurrency_info("gpu").active_slot_count == 1
    store.report_run_failed(run)
    end_dead_runs(store)
    assert store.event_log_storage.get_concurrency_info("gpu").active_slot_count == 0


@contextmanager
def running_daemon(home: Home) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the daemon with the code location of this test; at the end kill it with every process that it started."""
    command = [str(PROGRAMS / "dagster-daemon"), "run", "-f", str(LOCATION)]
    with (home.root / "daemon.log").open("ab") as log:
        daemon = subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=log)
        try:
            yield daemon
        finally:
            kill_tree(daemon.pid)
            daemon.wait()


def kill_tree(pid: int) -> None:
    """Kill a process and all that it started with SIGKILL."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for each in processes:
        each.kill()


def launch(job: str) -> None:
    """Put a run of ``job`` into the queue."""
    command = [str(PROGRAMS / "dagster"), "job", "launch", "-f", str(LOCATION), "-j", job]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)


def started_runs(instance: dg.DagsterInstance, job: str) -> list[dg.DagsterRun]:
    """Return the runs of ``job`` in whose step a process is."""
    return [
        run
        for run in instance.get_runs(dg.RunsFilter(job_name=job, statuses=[STARTED]))
        if instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_START)
    ]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_daemon_ends_killed_runs_and_starts_the_queued_run(home: Home, instance: dg.DagsterInstance) -> None:
    kill_started_programs(home, instance, "waiting", "waiting")
    launch("be_quick")
    assert sorted(run.status.value for run in instance.get_runs()) == ["QUEUED", "STARTED", "STARTED"]

    with running_daemon(home):
        until(lambda: len(instance.get_runs(dg.RunsFilter(statuses=[FAILURE]))) == 2, 120, interval=0.5)
        until(lambda: instance.get_runs(dg.RunsFilter(job_name="be_quick", statuses=[SUCCESS])), 240, interval=0.5)

    assert len(instance.get_runs()) == 3  # neither killed run was tried again


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_launched_run_whose_process_is_killed_is_tried_again(home: Home, instance: dg.DagsterInstance) -> None:
    with running_daemon(home):
        launch("wait")
        (run,) = until(lambda: started_runs(instance, "wait"), 240, interval=0.2)
        process = examine(instance, run)
        assert process.state == "running"
        os.kill(pid_of(process.process), signal.SIGKILL)
        until(lambda: instance.get_runs(dg.RunsFilter(statuses=[FAILURE])), 120, interval=0.5)
        (home.root / "go").touch()
        (retry,) = until(lambda: instance.get_runs(dg.RunsFilter(statuses=[SUCCESS])), 240, interval=0.5)

    # On a busy machine the launch of the first retry may fail, and the second succeeds.
    assert (retry.root_run_id, retry.job_name) == (run.run_id, "wait")
    assert status_of(instance, run) == "FAILURE"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_run_of_a_killed_daemon_ends_by_command_and_frees_the_queue(home: Home, instance: dg.DagsterInstance) -> None:
    with running_daemon(home):
        launch("wait")
        (run,) = until(lambda: started_runs(instance, "wait"), 240, interval=0.2)
    assert [each.status for each in instance.get_runs()] == [STARTED]

    shown = subprocess.run(
        [str(PROGRAMS / "ml-platform"), "runs", "--end-dead"], cwd=PROJECT, check=True, capture_output=True, text=True
    ).stdout

    assert f"Ended run {run.run_id[:8]} of 'wait': process " in shown
    assert shown.endswith("1 run ended.\n")
    assert [each.status for each in instance.get_runs()] == [FAILURE]
