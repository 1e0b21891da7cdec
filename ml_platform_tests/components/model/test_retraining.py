"""The sensor acts on recorded decisions: once for each window, with counted failures, and without double retraining."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from dagster._core.test_utils import create_run_for_test

from ml_platform.components.model.automation import due_window, new_window_sensor
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.model.retraining import request_by_policy
from ml_platform.data.canonical import value_digest
from ml_platform.monitoring.drift_history import DriftSummary
from ml_platform.monitoring.loss_test import LossTest, write_loss_test
from ml_platform.monitoring.retraining_policy import RetrainingDecision, Spending, decide
from ml_platform.monitoring.retraining_records import (
    RESUMED_KIND,
    RETRAINING_KIND,
    last_decisions,
    record_decision,
    spending,
)
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import CHAMPION_KIND, PROMOTE
from ml_platform.registry.verdict_record import record_verdict
from ml_platform.state.cursors import write_cursor
from ml_platform.state.schema import performance_periods
from ml_platform.steps.retraining import RetrainingError, evidence_of, resume_training
from ml_platform_tests.components.delivery_model import delivery_model
from ml_platform_tests.monitoring.test_track_record import period
from resources.decision_events import report_decisions
from resources.home import Home
from resources.lake import LakeResource
from resources.mlflow import MlflowResource

NOW = datetime(2014, 1, 1, tzinfo=UTC)
MLFLOW = MlflowResource(tracking_uri="http://127.0.0.1:9")
"""No server; none is needed while no budget of the domain is declared."""


class Automated:
    """A model with a policy, whose sensor ticks against an instance of Dagster; no run is executed."""

    def __init__(self, home: Home, instance: dg.DagsterInstance, policy: dict[str, Any] | None) -> None:
        self.instance, self.resource = instance, LakeResource.for_home(home)
        self.lake = self.resource.lake()
        self.audit = AuditLog(self.lake.state)
        self.model: ModelAssets = delivery_model(retraining={} if policy is None else {"policy": policy})

    def land(self, *months: str, row: str = "a") -> None:
        for month in months:
            self.lake.write(self.model.table, pl.DataFrame({"example_id": [row]}), month)
            made = dg.AssetMaterialization(self.model.key("training_set"), partition=month)
            self.instance.report_runless_asset_event(made)

    def tick(self) -> dg.RunRequest | str:
        resources = {"lake": self.resource, "mlflow": MLFLOW}
        with dg.build_sensor_context(instance=self.instance, resources=resources) as context:
            return shown(new_window_sensor(self.model)(context))

    def request(self, now: datetime = NOW) -> dg.RunRequest | str:
        """Return what follows for the due window at ``now``."""
        due = due_window(self.instance, self.model, self.lake, NOW)
        if isinstance(due, dg.SkipReason):
            return str(due.skip_message)
        return shown(request_by_policy(self.instance, self.model, *due, [], self.lake, now))

    def start(self, request: dg.RunRequest | str) -> dg.DagsterRun:
        assert isinstance(request, dg.RunRequest)
        tags = {
            **request.tags,
            "dagster/run_key": str(request.run_key),
            "dagster/partition": str(request.partition_key),
        }
        return create_run_for_test(self.instance, job_name="cycle", tags=tags, status=dg.DagsterRunStatus.STARTED)

    def fail(self, request: dg.RunRequest | str) -> dg.DagsterRun:
        run = self.start(request)
        self.instance.report_run_failed(run)
        return run

    def judge(self, month: str, version: int = 0, **metrics: float) -> None:
        """Record that the candidate of ``month`` was trained and judged, and with ``version`` that it is champion."""
        for key in self.model.candidate_keys.values():
            self.instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=month))
        digest = value_digest(["verdict", month])
        verdict = {"model": "late", "partition": month, "candidate": f"c{month}", "evidence": "e", "digest": digest}
        record_verdict(self.audit, verdict | {"decision": "PROMOTE"}, metrics, actor="gates", at=NOW)
        if version:
            facts = {"model": "late", "version": version, "reason": "better", "action": PROMOTE, "partition": month}
            facts |= {"content_digest": f"c{month}", "manifest": {}, "verdict": digest, "approved_by": []}
            self.audit.append(CHAMPION_KIND, actor="gates", at=NOW, facts={**facts, "previous_version": None})

    def decisions(self) -> list[tuple[str, bool]]:
        """Return window and decision of all records, oldest first."""
        found = last_decisions(self.lake.state, "late", 99)
        return [(each.window, each.decision.retrain) for each in reversed(found)]

    def measure_drift(self, month: str, decision: Any) -> None:
        found = DriftSummary(partition=month, decision=decision, reason="Scores shifted.", columns={}, drifted=[])
        write_cursor(self.lake.state, "drift/late", [found.model_dump(mode="json")])


def shown(result: Any) -> dg.RunRequest | str:
    assert isinstance(result, dg.RunRequest | dg.SkipReason)
    return result if isinstance(result, dg.RunRequest) else str(result.skip_message)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def test_model_without_a_policy_is_trained_on_each_window_as_before(home: Home, instance: dg.DagsterInstance) -> None:
    automated = Automated(home, instance, None)
    automated.land("2013-01")
    requests = [automated.tick(), automated.tick()]
    digest = value_digest(automated.lake.digests(automated.model.table))[:12]
    for each in requests:
        assert isinstance(each, dg.RunRequest)
        assert each.run_key == f"late|2013-01|{digest}"
        assert each.partition_key == "2013-01"
        assert each.tags == {"trigger": "new window", "ml_platform/trained_model": "late"}
    assert automated.decisions() == [("2013-01", True)]
    assert automated.audit.head().sequence == 0
    automated.fail(requests[0])
    assert "Stopped after 1 run that failed" in str(automated.tick())
    automated.judge("2013-01")
    automated.land("2013-02", "2013-03")
    request = automated.tick()
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == "2013-02"


def test_windows_wait_for_the_declared_number_and_each_decision_is_recorded_once(
    home: Home, instance: dg.DagsterInstance
) -> None:
    automated = Automated(home, instance, {"new_data": {"every_windows": 2}})
    automated.land("2013-01")
    first = automated.tick()
    assert isinstance(first, dg.RunRequest)
    automated.judge("2013-01", version=1)
    automated.land("2013-02")
    declined = "2013-02: Don't retrain: 1 window has closed since 2013-01; 2 call for a retraining."
    assert [automated.tick(), automated.tick()] == [declined, declined]
    automated.land("2013-03")
    third = automated.tick()
    assert isinstance(third, dg.RunRequest)
    assert third.partition_key == "2013-03"  # the declined window is passed over
    assert automated.decisions() == [("2013-01", True), ("2013-02", False), ("2013-03", True)]
    records = automated.audit.records(RETRAINING_KIND, "late")
    assert [each.facts["action"] for each in records] == ["retrain", "don't retrain", "retrain"]
    assert records[1].facts["reason"] == "1 window has closed since 2013-01; 2 call for a retraining."

    write_cursor(automated.lake.state, "dagster_events/late", 0)
    for _ in range(2):  # the second call has nothing to write
        report_decisions(instance, automated.lake.state, "late")
    observed = instance.fetch_observations(automated.model.key("evaluation"), limit=10).records
    assert [each.partition_key for each in reversed(observed)] == ["2013-01", "2013-02", "2013-03"]
    assert observed[1].asset_observation is not None
    assert observed[1].asset_observation.metadata["action"].value == "don't retrain"


def test_training_that_fails_three_times_stops_until_a_person_resumes_it(
    home: Home, instance: dg.DagsterInstance
) -> None:
    automated = Automated(home, instance, {"new_data": {}})
    automated.land("2013-01")
    runs = [automated.fail(automated.request())]
    assert "1 of at most 3 runs failed" in str(automated.request(datetime.now(UTC)))
    later = datetime.now(UTC) + timedelta(days=2)
    second = automated.request(later)
    runs.append(automated.fail(second))
    runs.append(automated.fail(automated.request(later)))
    assert isinstance(second, dg.RunRequest)
    assert str(second.run_key).endswith("|2")
    stopped = str(automated.request(later))
    assert f"Stopped after 3 runs that failed, the last one run {runs[2].run_id}. The champion stays." in stopped
    assert "ml-platform resume-retraining late" in stopped

    resume_training("late", automated.audit, by="ada", reason="The disk was full.", now=NOW)
    (resumed,) = automated.audit.records(RESUMED_KIND, "late")
    assert (resumed.actor, resumed.facts["reason"]) == ("ada", "The disk was full.")
    fourth = automated.request(later + timedelta(days=9))
    assert isinstance(fourth, dg.RunRequest)
    assert str(fourth.run_key).endswith("|4")
    with pytest.raises(RetrainingError, match="expected a training that has stopped after failed runs"):
        resume_training("late", automated.audit, by="ada", reason="Again.", now=NOW)


def test_another_window_leads_to_another_decision_after_a_stop(home: Home, instance: dg.DagsterInstance) -> None:
    automated = Automated(home, instance, {"new_data": {}, "max_attempts": 1})
    automated.land("2013-01")
    automated.judge("2013-01", version=1)
    automated.land("2013-02")
    automated.fail(automated.request())
    assert "Stopped" in str(automated.request())
    automated.land("2013-03")
    request = automated.request()
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == "2013-03"
    (last, _) = last_decisions(automated.lake.state, "late", 2)
    assert last.state == "requested"


def test_run_of_a_decision_is_named_and_a_cancelled_one_is_not_repeated(
    home: Home, instance: dg.DagsterInstance
) -> None:
    automated = Automated(home, instance, {"new_data": {}})
    automated.land("2013-01")
    run = automated.start(automated.request())
    assert str(automated.request()) == f"Run {run.run_id} trains 'late' on 2013-01."
    instance.report_run_canceling(run)
    instance.report_run_canceled(run)
    assert str(automated.request()) == f"2013-01: A person cancelled run {run.run_id}."


def test_drift_is_measured_before_its_rule_decides(home: Home, instance: dg.DagsterInstance) -> None:
    automated = Automated(home, instance, {"drift": {}})
    automated.land("2013-01")
    automated.judge("2013-01", version=1)
    automated.land("2013-02")
    measuring = automated.request()
    assert isinstance(measuring, dg.RunRequest)
    assert measuring.asset_selection == [automated.model.key("drift")]
    assert "ml_platform/trained_model" not in measuring.tags
    run = automated.start(measuring)
    assert automated.request() == f"Run {run.run_id} measures the drift of 2013-02."
    instance.report_run_failed(run)
    assert automated.request() == "2013-02: Don't retrain: The drift of 2013-02 is not measured yet."
    automated.measure_drift("2013-02", "alert")
    assert isinstance(automated.request(), dg.RunRequest)
    assert automated.decisions() == [("2013-02", False), ("2013-02", True)]


def test_window_that_disappears_again_starts_no_second_retraining(home: Home, instance: dg.DagsterInstance) -> None:
    automated = Automated(home, instance, {"new_data": {}})
    automated.land("2013-01")
    automated.judge("2013-01", version=1)
    automated.land("2013-02")
    automated.judge("2013-02")
    automated.lake.drop_partitions(automated.model.table, ["2013-02"])
    automated.land("2013-01", row="corrected")
    reason = str(automated.request())
    assert "it landed late, or the data clock went back" in reason


def test_rows_that_land_twice_with_equal_content_are_not_trained_on_twice(
    home: Home, instance: dg.DagsterInstance
) -> None:
    automated = Automated(home, instance, {"new_data": {}})
    automated.land("2013-01")
    run = automated.start(automated.request())
    automated.land("2013-01")
    assert "trains 'late' on 2013-01" in str(automated.request())
    instance.report_run_failed(run)
    second = automated.request(datetime.now(UTC) + timedelta(days=1))
    assert isinstance(second, dg.RunRequest)
    assert str(second.run_key).endswith("|2")
    assert automated.decisions() == [("2013-01", True)]


def test_loss_of_another_version_or_rule_is_no_evidence(home: Home, instance: dg.DagsterInstance) -> None:
    automated = Automated(home, instance, {"loss": {"tolerance": 0.02}})
    automated.judge("2013-01", version=3)
    test = LossTest(version=3, metric="log_loss", promised=0.4, tolerance=0.02).after("2013-02-01", 0.9, 40)
    for stored, expected in (
        (test, test.evidence),
        (test.model_copy(update={"version": 2}), None),
        (test.model_copy(update={"tolerance": 0.05}), None),
    ):
        write_loss_test(automated.lake.state, "late", stored)
        assert evidence_of(automated.model, "2013-02", [], automated.audit).realised == expected


@pytest.mark.parametrize("declared", [True, False])
def test_estimated_loss_is_evidence_only_where_it_is_declared(
    home: Home, instance: dg.DagsterInstance, declared: bool
) -> None:
    automated = Automated(home, instance, {"loss": {"tolerance": 0.02, "estimated": declared}})
    automated.judge("2013-01", version=7, log_loss=0.3, log_loss_high=0.35)
    state = automated.lake.state
    with state.write() as connection:
        for at, realised in enumerate([0.4, 0.4, 0.4, None]):
            each = period(at, realised)
            stored = {"start": each.start.isoformat(), "digest": "", "result": each.model_dump_json()}
            connection.execute(performance_periods.insert().values(model="late", version="7", **stored))
    found = evidence_of(automated.model, "2013-02", [], automated.audit).estimated
    assert (found is not None) is declared
    if found is not None:
        assert (found.version, found.mean, found.promised, found.days) == (7, 0.4, 0.35, 1)
        assert found.since == "2013-10-02"


def test_budget_counts_runs_within_its_time_on_the_data_clock(home: Home, instance: dg.DagsterInstance) -> None:
    automated = Automated(home, instance, {"new_data": {}, "budget": {"days": 40, "runs": 1}})
    automated.land("2013-01")
    automated.fail(automated.request())
    automated.request()
    state = automated.lake.state
    end = automated.model.partitions.bounds("2013-01")[1]
    assert spending(state, "late", end - timedelta(days=1), end).runs == 1
    assert spending(state, "late", end, end + timedelta(days=99)) == Spending()
    automated.judge("2013-01", version=1)
    automated.land("2013-02")
    assert "The budget is spent: 1 of 1 training runs in the 40 days" in str(automated.request())


def test_equal_decisions_are_one_record_and_other_numbers_alone_are_no_new_one(home: Home) -> None:
    state = LakeResource.for_home(home).lake().state
    evidence = evidence_of(delivery_model(), "2013-01", [], AuditLog(state))
    decision: RetrainingDecision = decide(None, evidence)
    first, is_new = record_decision(state, "late", "2013-01", "abc", None, decision, NOW)
    again, is_new_again = record_decision(state, "late", "2013-01", "abc", None, decision, NOW + timedelta(hours=1))
    other, is_other = record_decision(state, "late", "2013-01", "abd", None, decision, NOW)
    assert (is_new, is_new_again, is_other) == (True, False, True)
    assert again == first
    assert other.id != first.id
    assert first.decision == decision
