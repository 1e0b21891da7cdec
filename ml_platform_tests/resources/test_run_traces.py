"""The spans of Dagster's runs, which the sensor `traces` sends to a collector."""

from pathlib import Path

import dagster as dg
import pytest

from ml_platform.components.metered import metered
from ml_platform.components.traces_sensor import traces_sensors
from ml_platform.data.traces import ENDPOINT_VARIABLE
from ml_platform_tests.collector import Collector, Received, running_collector
from ml_platform_tests.polling import until
from resources.dagster_home import HomeResource
from resources.home import Home
from resources.state import open_state


@dg.asset(key=["late", "training_set"])
@metered
def training_set(home: HomeResource) -> dg.MaterializeResult:
    return dg.MaterializeResult()


@dg.asset(key=["late", "champion"], deps=[training_set])
@metered
def champion(home: HomeResource) -> None:
    raise ValueError("no memory")


def test_ended_runs_have_a_trace_with_their_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_state(Home(tmp_path / "home"))
    resources = {"home": HomeResource(root=str(tmp_path / "home"), repository=str(tmp_path))}
    definitions = dg.Definitions([training_set, champion], resources=resources)
    with running_collector() as collector, dg.instance_for_test() as instance:
        monkeypatch.setenv(ENDPOINT_VARIABLE, collector.address)
        (sensor,) = traces_sensors()
        cursor: str | None = None

        def tick() -> str:
            nonlocal cursor
            context = dg.build_sensor_context(
                instance, repository_def=definitions.get_repository_def(), resources=resources, cursor=cursor
            )
            result = sensor.evaluate_tick(context)
            cursor = result.cursor
            return str(result.skip_message)

        def execute() -> str:
            job = definitions.resolve_implicit_global_asset_job_def()
            return job.execute_in_process(
                instance=instance, raise_on_error=False, tags={"dagster/sensor_name": "late_new_window"}
            ).run_id

        execute()  # before the first tick
        ticks = [tick()]
        run_id = execute()
        collector.is_away = True
        ticks += [tick()]
        collector.is_away = False
        ticks += [tick(), tick()]
        until(lambda: len(collector.spans()) >= 4)
        spans = _by_name(collector)

    assert ticks[0] == "Runs that end from now on are sent."
    assert "does not answer; the spans are sent again" in ticks[1]
    assert ticks[2:] == ["4 spans of 1 runs were sent.", "No run has ended."]
    assert {each.trace_id for each in spans.values()} == {run_id.replace("-", "")}
    run = spans["run"]
    assert (run.parent_id, run.failed) == ("", True)
    assert (run.attributes["dagster.run_id"], run.attributes["dagster.requested_by"]) == (run_id, "late_new_window")
    for name, failed in (("queue", False), ("late/training_set", False), ("late/champion", True)):
        assert (spans[name].parent_id, spans[name].failed) == (run.span_id, failed)
        assert run.started_at <= spans[name].started_at <= spans[name].ended_at <= run.ended_at


def test_without_a_collector_there_is_no_sensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENDPOINT_VARIABLE, raising=False)
    assert traces_sensors() == []


def _by_name(collector: Collector) -> dict[str, Received]:
    return {each.name: each for each in collector.spans()}
