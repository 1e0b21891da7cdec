"""Failed runs and ticks in `ml-platform status`, until a later success replaces them."""

import dagster as dg
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster_shared.error import SerializableErrorInfo

from ml_platform.errors import PlatformError
from resources.run_failures import failed_ticks, unresolved_failures

PARTS = dg.StaticPartitionsDefinition(["a", "b"])
BROKEN: set[str] = set()


@dg.asset(key=["late", "performance"], partitions_def=PARTS)
def performance(context: dg.AssetExecutionContext) -> None:
    if context.partition_key in BROKEN:
        raise PlatformError("Table 'x'", expected="equal fields", found="unequal ones", fix="Report it.")


def run(instance: dg.DagsterInstance, partition: str, *, broken: bool, **tags: str) -> None:
    BROKEN.clear()
    BROKEN.update({partition} if broken else ())
    job = dg.Definitions([performance]).resolve_implicit_global_asset_job_def()
    job.execute_in_process(
        partition_key=partition,
        instance=instance,
        tags=tags,
        asset_selection=[performance.key],
        raise_on_error=False,
    )


def test_failed_run_is_shown_with_its_schedule_and_cause_until_its_partition_is_made() -> None:
    with dg.instance_for_test() as instance:
        run(instance, "a", broken=True, **{"dagster/schedule_name": "late_monitor"})
        run(instance, "b", broken=False)
        (found,) = unresolved_failures(instance)
        run(instance, "a", broken=True)
        again = unresolved_failures(instance)
        run(instance, "a", broken=False)
        after = unresolved_failures(instance)
    assert found["what"].endswith(" of 'late/performance' for a, requested by late_monitor")
    assert found["what"].startswith(f"run {found['run_id'][:8]} ")
    assert found["reason"] == "late/performance: Table 'x': expected equal fields, found unequal ones. Report it."
    assert [each["what"].endswith("for a") for each in again] == [True]
    assert after == []


def test_failed_job_is_replaced_by_a_run_of_its_failed_asset() -> None:
    job = dg.define_asset_job("late_monitor", selection=[performance])
    monitor = dg.Definitions([performance], jobs=[job]).resolve_job_def("late_monitor")
    with dg.instance_for_test() as instance:
        BROKEN.add("a")
        monitor.execute_in_process(partition_key="a", instance=instance, raise_on_error=False)
        (found,) = unresolved_failures(instance)
        run(instance, "a", broken=False)
        after = unresolved_failures(instance)
    assert found["what"].endswith(" of 'late_monitor' for a")
    assert after == []


def test_schedule_whose_last_tick_failed_is_shown_until_one_succeeds() -> None:
    repository = RemoteRepositoryOrigin(InProcessCodeLocationOrigin(LoadableTargetOrigin()), "repository")
    origin = RemoteInstigatorOrigin(repository, "late_retrain")
    state = InstigatorState(
        origin, InstigatorType.SCHEDULE, InstigatorStatus.RUNNING, ScheduleInstigatorData("0 * * * *")
    )
    error = SerializableErrorInfo("PlatformError: no lake\n", [], "PlatformError")
    with dg.instance_for_test() as instance:
        instance.add_instigator_state(state)

        def tick(at: float, status: TickStatus, error: SerializableErrorInfo | None = None) -> None:
            instance.create_tick(
                TickData(
                    origin.get_id(),
                    "late_retrain",
                    InstigatorType.SCHEDULE,
                    status,
                    at,
                    error=error,
                    selector_id=state.selector_id,
                )
            )

        tick(1e9, TickStatus.FAILURE, error)
        tick(1e9 + 60, TickStatus.STARTED)
        (found,) = unresolved_failures(instance)
        (failed,) = failed_ticks(instance)
        tick(1e9 + 120, TickStatus.SKIPPED)
        after = unresolved_failures(instance)
    assert found == {
        "what": "schedule late_retrain",
        "at": "2001-09-09T01:46:40+00:00",
        "reason": "PlatformError: no lake",
        "run_id": None,
    }
    assert after == []
    assert failed.page == "/locations/repository%40%3C%3Cin_process%3E%3E/schedules/late_retrain"
