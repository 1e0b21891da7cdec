"""Alerts about Dagster's runs, ticks, checks and domains, and the sensor that evaluates them."""

import json
import os
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

from ml_platform.alerts.records import open_alerts
from ml_platform.components.alerts_sensor import alerts_sensor
from ml_platform.components.not_loaded import not_loaded_definitions
from resources.alert_settings import FILE_VARIABLE, alert_log
from resources.alert_sources import (
    asset_domains,
    check_alerts,
    declared_names,
    domain_alerts,
    failed_run_alerts,
)
from resources.dagster_home import HomeResource
from resources.home import Home
from resources.state import open_state

BROKEN: set[str] = set()

ASSETS = Path("/unused")


@dg.asset(
    key=["late", "champion"],
    tags={"domain": "aviation"},
    check_specs=[
        dg.AssetCheckSpec(name, asset=dg.AssetKey(["late", "champion"]))
        for name in ("performance_regression", "skew", "no_drift", "fitted")
    ],
)
def champion():
    if "run" in BROKEN:
        raise ValueError("no memory")
    yield dg.MaterializeResult()
    for name in ("performance_regression", "skew", "no_drift", "fitted"):
        severity = dg.AssetCheckSeverity.ERROR if name == "skew" else dg.AssetCheckSeverity.WARN
        yield dg.AssetCheckResult(
            check_name=name, passed=name not in BROKEN, severity=severity, description=f"{name} is bad"
        )


def defined() -> dg.Definitions:
    return dg.Definitions([champion], sensors=[alerts_sensor()])


def graph(definitions: dg.Definitions) -> AssetGraph:
    return definitions.resolve_asset_graph()


def run(instance: dg.DagsterInstance, *broken: str, **tags: str) -> None:
    BROKEN.clear()
    BROKEN.update(broken)
    job = dg.Definitions([champion]).resolve_implicit_global_asset_job_def()
    job.execute_in_process(instance=instance, raise_on_error=False, tags=tags)


def test_domain_that_does_not_load_fires() -> None:
    (found,) = domain_alerts(graph(not_loaded_definitions({"sales": "sales/defs.yaml:3: no such view"})))
    assert (found.subject, found.what) == ("sales", "sales/defs.yaml:3: no such view")
    assert found.link == "/go/webserver/assets/sales/not_loaded"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with one route, along which every alert goes to the log at once."""
    home = Home(tmp_path / "home")
    open_state(home)
    settings = tmp_path / "alerts.yaml"
    settings.write_text("routes: {all: {receivers: [log], group_wait_seconds: 0}}")
    monkeypatch.setenv(FILE_VARIABLE, str(settings))
    return home


# One test, because each run of Dagster takes a second.
def test_checks_and_runs_fire_until_they_pass_and_the_sensor_sends_both(home: Home) -> None:
    definitions = defined()
    domains, keys = asset_domains(graph(definitions), ASSETS), graph(definitions).asset_check_keys
    assert domains == {champion.key: "aviation"}
    assert declared_names(domains) == ({"late": "aviation"}, {})
    sensor, repository = alerts_sensor(), definitions.get_repository_def()

    def tick(instance: dg.DagsterInstance) -> str:
        resources = {"home": HomeResource(root=str(home.root), repository=str(ASSETS))}
        context = dg.build_sensor_context(instance, repository_def=repository, resources=resources)
        return str(sensor.evaluate_tick(context).skip_message)

    with dg.instance_for_test() as instance:
        run(instance, "performance_regression", "skew", "no_drift", "fitted")
        found = sorted(check_alerts(instance, keys, domains), key=lambda each: each.subject)
        ticks = [tick(instance), tick(instance)]
        run(instance, "run", **{"dagster/schedule_name": "late_monitor"})
        (failed,) = failed_run_alerts(instance, domains)
        assert sorted(check_alerts(instance, keys, domains), key=lambda each: each.subject) == found  # no new result
        run(instance)
        assert (check_alerts(instance, keys, domains), failed_run_alerts(instance, domains)) == ([], [])
        ticks.append(tick(instance))
        Path(os.environ[FILE_VARIABLE]).write_text("routes: {all: {receivers: [pager]}}")
        tick(instance)
    assert [(each.kind, each.subject, each.severity, each.domain) for each in found] == [
        ("performance_regression", "performance_regression of late/champion", "warning", "aviation"),
        ("check_failed", "skew of late/champion", "critical", "aviation"),
    ]
    assert found[1].what == "The check failed. skew is bad"
    assert found[1].link == "/go/webserver/assets/late/champion?view=checks&checkDetail=skew"
    assert (failed.subject, failed.severity, failed.domain) == ("__ASSET_JOB", "critical", "aviation")
    assert failed.what.startswith("The run failed. It was requested by late_monitor. late/champion: ")
    assert failed.link.startswith("/go/webserver/runs/")
    assert ticks == [
        "2 alerts opened, 0 recovered; 2 messages queued. 2 delivered.",
        "0 alerts opened, 0 recovered; 0 messages queued. 0 delivered.",
        "0 alerts opened, 2 recovered; 2 messages queued. 2 delivered.",
    ]
    lines = [json.loads(line) for line in alert_log(home).read_text().splitlines()]
    assert [each["stage"] for each in lines[:4]] == ["opened", "opened", "recovered", "recovered"]
    runbooks = {alert["kind"]: alert["runbook"] for each in lines[:2] for alert in each["alerts"]}
    assert runbooks["check_failed"] == "http://127.0.0.1:3001/docs/runbooks/check-failed.md"
    # A settings file with an error is an alert itself.
    (invalid,) = open_alerts(open_state(home))
    assert (invalid.kind, invalid.subject) == ("alert_source_failed", "alerts.yaml")
    assert "there is no receiver 'pager'" in invalid.what
