"""The queue of launched runs serves domains by their weights, and leaves priorities that a person sets."""

from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.tags import PRIORITY_TAG
from dagster._core.test_utils import in_process_test_workspace
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceRequestContext
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from ml_platform_tests.resources import fair_runs
from resources import fair_queue
from resources.fair_queue import RESOURCE_TAG, place_of

Submit = Callable[..., dg.DagsterRun]


@pytest.fixture
def workspace(instance: dg.DagsterInstance) -> Iterator[WorkspaceRequestContext]:
    origin = LoadableTargetOrigin(python_file=fair_runs.__file__, attribute="defs")
    with in_process_test_workspace(instance, origin) as found:
        yield found


@pytest.fixture
def submit(
    instance: dg.DagsterInstance, workspace: WorkspaceRequestContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Submit:
    """Return a function that submits a run of an asset; the domain `water` has the weight 3 and `shop` none."""
    (tmp_path / "assets" / "water").mkdir(parents=True)
    (tmp_path / "assets" / "water" / "domain.yaml").write_text("share: 3\n")
    monkeypatch.setattr(fair_queue, "REPOSITORY", tmp_path)
    (location,) = workspace.code_locations
    (repository,) = location.get_repositories().values()

    def submitted(asset: str, tags: dict[str, str] | None = None) -> dg.DagsterRun:
        job = repository.get_full_job(f"job_{asset}")
        run = instance.create_run_for_job(
            fair_runs.defs.resolve_job_def(f"job_{asset}"),
            tags=tags or {},
            remote_job_origin=job.get_remote_origin(),
            job_code_origin=job.get_python_origin(),
            status=dg.DagsterRunStatus.NOT_STARTED,
        )
        instance.submit_run(run.run_id, workspace)
        found = instance.get_run_by_id(run.run_id)
        assert found is not None
        return found

    return submitted


def order(instance: dg.DagsterInstance) -> list[str]:
    """Return the jobs of the queued runs in the order in which the daemon takes them."""
    queued = list(reversed(instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]))))
    return [str(run.job_name) for run in QueuedRunCoordinatorDaemon(interval_seconds=5)._priority_sort(queued)]


def test_domains_take_turns_by_their_weights(instance: dg.DagsterInstance, submit: Submit) -> None:
    for asset in ["sales"] * 3 + ["levels"] * 6:
        submit(asset)
    # Each run is expected to take 60 s of one of two run slots: 30 s for weight 1 and 10 s for weight 3.
    assert order(instance) == [
        f"job_{asset}" for asset in ["sales", *["levels"] * 3, "sales", *["levels"] * 3, "sales"]
    ]


def test_new_domain_begins_at_the_time_of_the_queue_and_cancelled_runs_count_for_nothing(
    instance: dg.DagsterInstance, submit: Submit
) -> None:
    first, second, third = (submit("sales") for _ in range(3))
    for run in (first, second):
        instance.report_dagster_event(
            dg.DagsterEvent(dg.DagsterEventType.PIPELINE_STARTING.value, str(run.job_name)), run.run_id
        )
    instance.report_run_canceled(third)
    late, own = place_of(submit("levels")), place_of(submit("sales"))
    assert late is not None
    assert own is not None
    assert (late.start, late.finish) == (30.0, 40.0)
    assert (own.start, own.finish) == (60.0, 90.0)


def test_runs_on_the_gpu_have_a_queue_of_their_own(instance: dg.DagsterInstance, submit: Submit) -> None:
    for _ in range(2):
        submit("levels")
    run = submit("forecast")
    assert run.tags[RESOURCE_TAG] == "gpu"
    found = place_of(run)
    assert found is not None
    assert (found.start, found.finish) == (0.0, 20.0)


def test_priority_of_a_person_stays_and_a_retry_gets_a_place_of_its_own(submit: Submit) -> None:
    urgent = submit("sales", {PRIORITY_TAG: "5"})
    assert urgent.tags[PRIORITY_TAG] == "5"
    assert place_of(urgent) is None
    first = submit("sales")
    retry = submit("sales", dict(first.tags))
    found, before = place_of(retry), place_of(first)
    assert found is not None
    assert before is not None
    assert found.start == before.finish
