"""Each source of alerts in the home: what makes it fire, and what ends it."""

import os
import shutil
from collections import namedtuple
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ml_platform.alerts.alert import Alert
from ml_platform.data.contract_record import record_failed, record_passed
from ml_platform.monitoring.retraining_policy import Reason, RetrainingDecision
from ml_platform.monitoring.retraining_records import record_decision, update_training
from ml_platform.serving.desired_state import DesiredState, ServedVersion, swap_desired_state
from ml_platform.serving.rollout import Rollout, write_rollout
from ml_platform.serving.rollout_settings import RolloutSettings
from ml_platform.serving.serving_status import ServingStatus, write_serving_status
from ml_platform.state.cursors import write_cursor
from ml_platform.state.store import StateStore
from ml_platform.steps.alert_sources import Declared, home_sources
from resources.home import Home

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DECLARED = Declared(models={"late": "aviation"}, datasets={"flights": "aviation"})
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 100 * 2**30))
    return Home(tmp_path / "home")


def firing(home: Home, state: StateStore, now: datetime = NOW) -> list[Alert]:
    return [alert for source in home_sources(home, state, DECLARED, now) for alert in source.find()]


def only(home: Home, state: StateStore, now: datetime = NOW) -> Alert:
    (found,) = firing(home, state, now)
    return found


def test_nothing_fires_in_a_new_home(home: Home, state_store: StateStore) -> None:
    assert firing(home, state_store) == []


def test_broken_contract_of_an_earlier_partition_stays_until_that_partition_passes(
    home: Home, state_store: StateStore
) -> None:
    record_failed(state_store, "flights", "2013-03", check="schema", landed_sha256="a")
    record_failed(state_store, "undeclared", "2013-03", check="schema", landed_sha256="a")
    record_passed(state_store, "flights", "2013-04", content_digest="b", landed_sha256="b")
    found = only(home, state_store)
    assert (found.key, found.domain) == (("contract_check_failed", "datasets/flights 2013-03"), "aviation")
    assert (found.what[:22], found.link) == (
        "Check 'schema' failed.",
        "/go/webserver/assets/datasets/flights?view=checks",
    )
    record_passed(state_store, "flights", "2013-03", content_digest="c", landed_sha256="c")
    assert firing(home, state_store) == []


def test_drift_of_the_last_partition_fires(home: Home, state_store: StateStore) -> None:
    def measured(*decisions: str) -> None:
        stored = [
            {"partition": f"2013-0{n}", "decision": each, "reason": "Scores moved.", "columns": {}, "drifted": []}
            for n, each in enumerate(decisions, start=1)
        ]
        write_cursor(state_store, "drift/late", stored)

    measured("alert", "steady")
    assert firing(home, state_store) == []
    measured("steady", "alert")
    found = only(home, state_store)
    assert (found.kind, found.what) == ("drift", "Drift on 2013-02. Scores moved.")
    assert found.link == "/go/reports/drift/late/2013-02/report.html"


def test_retraining_fires_when_it_stopped_after_its_attempts(home: Home, state_store: StateStore) -> None:
    decision = RetrainingDecision(
        True, (Reason(rule="new_data", effect="retrain", text="A window closed."),), NOW - timedelta(days=1)
    )
    recorded, _ = record_decision(state_store, "late", "2013-06", "a", None, decision, NOW)
    failed = update_training(state_store, recorded, "failed", run_id="r2", runs=2, failures=2, run_seconds=1.0)
    assert firing(home, state_store) == []
    update_training(state_store, failed, "stopped", run_id="r3", runs=3, failures=3, run_seconds=2.0)
    found = only(home, state_store)
    assert (found.kind, found.subject) == ("retraining_stopped", "late")
    assert found.what == ("On 2013-06. Stopped after 3 runs that failed, the last one run r3. The champion stays.")


def test_rollback_fires_while_the_former_version_serves_and_is_recent(home: Home, state_store: StateStore) -> None:
    one, two = (ServedVersion(version=each, bento=f"bentos/late/{each}") for each in ("1", "2"))
    ended = NOW - timedelta(hours=1)
    rollout = Rollout(candidate=two, stable=one, settings=RolloutSettings(), started=ended)
    desired = swap_desired_state(state_store, "late", DesiredState(stable=one, weights={"stable": 100}), 0)
    write_rollout(state_store, "late", rollout)
    assert firing(home, state_store) == []
    back = rollout.model_copy(update={"outcome": "rolled_back", "reason": "Errors rose.", "ended": ended})
    write_rollout(state_store, "late", back)
    found = only(home, state_store)
    assert (found.what, found.since) == ("Version 2 was taken out; version 1 serves. Errors rose.", ended)
    assert firing(home, state_store, NOW + timedelta(days=8)) == []
    other = DesiredState(stable=two, weights={"stable": 100})
    swap_desired_state(state_store, "late", other, desired.generation)
    assert firing(home, state_store) == []


def test_service_fires_after_some_minutes_in_which_it_is_not_ready(home: Home, state_store: StateStore) -> None:
    status = ServingStatus(gateway="http://127.0.0.1:8080", models={}, waiting=["late.2"])
    file = home.run / "status.json"
    write_serving_status(file, status)
    os.utime(file, (NOW.timestamp(), NOW.timestamp()))
    assert firing(home, state_store, NOW + timedelta(minutes=2)) == []
    found = only(home, state_store, NOW + timedelta(minutes=4))
    assert (found.kind, found.subject, found.since) == ("service_not_ready", "late.2", NOW)


def test_lost_predictions_fire_for_a_day_after_the_last_loss(home: Home, state_store: StateStore) -> None:
    def lost(count: int) -> None:
        write_cursor(state_store, "lost_predictions/late", {"lost": count, "dropped": 1, "counted": []})

    lost(4)
    assert only(home, state_store).what.startswith("5 answered predictions are in no log; 5 since")
    later = NOW + timedelta(hours=25)
    assert firing(home, state_store, later) == []
    lost(6)
    assert only(home, state_store, later).what.startswith("2 answered predictions are in no log; 7 since")
    lost(0)
    assert firing(home, state_store, later) == []


@pytest.mark.parametrize(("gib", "severity"), [(0.5, "critical"), (5, "warning")])
def test_full_disk_fires(
    home: Home, state_store: StateStore, monkeypatch: pytest.MonkeyPatch, gib: float, severity: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, int(gib * 2**30)))
    found = only(home, state_store)
    assert (found.kind, found.severity) == ("disk_low", severity)
