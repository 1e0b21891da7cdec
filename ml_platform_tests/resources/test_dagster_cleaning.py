"""Old runs are deleted with their events and output; runs with a latest result, and open runs, stay."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from resources import dagster_cleaning
from resources.dagster_cleaning import delete_run, old_runs, runs_with_latest_results

LATER = datetime.now(UTC) + timedelta(days=91)
DAYS = dg.StaticPartitionsDefinition(["a", "b"])


@dg.asset(partitions_def=DAYS, check_specs=[dg.AssetCheckSpec("positive", asset="rows")])
def rows() -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    print("output of the step")
    yield dg.MaterializeResult()
    yield dg.AssetCheckResult(passed=True)


@dg.asset
def whole() -> None: ...


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(tmp_path)) as opened:
        yield opened


def make(instance: dg.DagsterInstance, asset: dg.AssetsDefinition, partition: str | None = None) -> str:
    return dg.materialize([asset], instance=instance, partition_key=partition).run_id


def found(instance: dg.DagsterInstance, before: datetime | None = LATER) -> list[str]:
    return [name for each in old_runs(instance, before) for name in each.names]


def test_run_whose_partition_was_materialized_again_is_deleted_with_all_its_content(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    old, b, new = make(instance, rows, "a"), make(instance, rows, "b"), make(instance, rows, "a")
    latest = instance.get_latest_materialization_event(dg.AssetKey("rows"))
    assert found(instance) == [old]
    (leftover,) = old_runs(instance, LATER)
    assert leftover.size_bytes > 10_000

    leftover.remove()
    assert {run.run_id for run in instance.get_runs()} == {b, new}
    assert [path for path in tmp_path.rglob("*") if old in path.name] == []
    assert instance.get_latest_materialization_event(dg.AssetKey("rows")) == latest
    key = dg.AssetCheckKey(dg.AssetKey("rows"), "positive")
    storage = instance.event_log_storage
    assert {each.run_id for each in storage.get_asset_check_execution_history(key, limit=10)} == {b, new}
    assert found(instance) == []


def test_young_runs_and_runs_kept_for_ever_stay(instance: dg.DagsterInstance) -> None:
    make(instance, whole)
    make(instance, whole)
    assert found(instance, datetime.now(UTC) - timedelta(days=90)) == []
    assert found(instance, None) == []
    assert len(found(instance)) == 1


def test_run_that_has_not_ended_stays(instance: dg.DagsterInstance) -> None:
    run = instance.create_run_for_job(dg.Definitions(assets=[whole]).resolve_implicit_global_asset_job_def())
    assert run.status == dg.DagsterRunStatus.NOT_STARTED
    assert found(instance) == []


def test_failed_run_without_a_result_is_deleted(instance: dg.DagsterInstance) -> None:
    @dg.asset
    def broken() -> None:
        raise ValueError("broken")

    failed = dg.materialize([broken], instance=instance, raise_on_error=False).run_id
    assert found(instance) == [failed]


def test_run_with_the_latest_check_result_stays(instance: dg.DagsterInstance) -> None:
    @dg.asset_check(asset="whole")
    def non_empty() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True)

    checked = dg.materialize([whole, non_empty], instance=instance).run_id
    made = make(instance, whole)
    assert runs_with_latest_results(instance) == {checked, made}


def test_deletion_that_was_killed_is_found_again(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    old = make(instance, whole)
    make(instance, whole)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(type(instance.run_storage), "delete_run", killed)
        with pytest.raises(KeyboardInterrupt):
            delete_run(instance, old)
    assert found(instance) == [old]
    delete_run(instance, old)
    assert found(instance) == []


def test_many_runs_are_listed_page_by_page(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dagster_cleaning, "RUNS_PER_PAGE", 2)
    runs = [make(instance, whole) for _ in range(5)]
    assert sorted(found(instance)) == sorted(runs[:-1])
