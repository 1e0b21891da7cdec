"""The compliance report has the records of its period, says where there are none, and shows a changed log."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa
from pydantic import TypeAdapter

from benchmarks.home_page import write_records
from ml_platform.alerts.lifecycle import Transitions
from ml_platform.alerts.records import acknowledge, store_transitions
from ml_platform.components.project import read_project
from ml_platform.console.governance.compliance import (
    WITHOUT_KEY,
    ClientAccess,
    ComplianceError,
    ComplianceReport,
    compliance_report,
    report_period,
)
from ml_platform.console.governance.inventory import DeclaredUse, InventoryEntry, inventory
from ml_platform.console.governance.report_files import compliance_page, selected
from ml_platform.console.lineage import NO_LINEAGE, DatasetColumns, ModelInputs, ProjectLineage
from ml_platform.data.contract import ColumnRule
from ml_platform.data.contract_record import record_failed, record_passed
from ml_platform.data.lake import Lake
from ml_platform.features.lineage import SourceColumn
from ml_platform.monitoring.prediction_log import predictions_table
from ml_platform.registry.approvals import approve, reject
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.verdict_record import StoredVerdict, stored_verdict
from ml_platform.serving.client_keys import Client
from ml_platform.state.schema import audit_records
from ml_platform.state.store import StateStore
from ml_platform.steps.client_keys import KeyDecision, add, revoke
from ml_platform_tests.alerts.alerting import stored
from resources.profiles import REPOSITORY

NOW = datetime(2023, 4, 12, 9, tzinfo=UTC)
MARCH = (datetime(2023, 3, 1, tzinfo=UTC), datetime(2023, 4, 1, tzinfo=UTC))
RULES = [
    ColumnRule(name=name, type="integer", description=name, pii=name == "customer") for name in ("customer", "size")
]
LINEAGE = ProjectLineage(
    views={},
    models={"m00": ModelInputs("m00", "domain_0", [], "shop:rows", ["orders"], [SourceColumn("orders", "size")])},
    datasets={"orders": DatasetColumns("orders", "domain_0", {rule.name: rule for rule in RULES}, [])},
)


@pytest.fixture
def lake(state_store: StateStore, tmp_path: Path) -> Lake:
    """A model with a verdict a day and a champion every ten days until the 10th of April 2023."""
    write_records(state_store, ["m00"], 100)
    return Lake(str(tmp_path / "lake"), state_store)


def entry(name: str = "m00", **changes: object) -> InventoryEntry:
    use = DeclaredUse(
        *("domain_0", ["team:shop"], "Sizes of orders", "", [], "binary", "is large", "high", "It decides on people."),
        *(2, ["leak"], [], ["orders"], ["orders.customer"]),
    )
    values = {"declared": use, "version": 1, "since": NOW, "decided_by": "gates", "trained_for": "", "served": {}}
    return InventoryEntry(name, **{**values, **changes})  # type: ignore[arg-type]


def report(lake: Lake, lineage: ProjectLineage = LINEAGE) -> ComplianceReport:
    return compliance_report("m00", [entry()], lineage, lake, MARCH, NOW)


def test_report_has_the_versions_tests_and_decisions_of_its_period_only(lake: Lake) -> None:
    (model,) = report(lake).models
    assert [each.version for each in model.versions] == [5, 6, 7, 8]  # 5 was champion when March began
    assert model.versions[1].trained_for == "2023-03-10"
    assert len(model.tests) == 31
    assert {f"{each.at:%Y-%m}" for each in model.tests} == {"2023-03"}
    assert {gate.name for gate in model.tests[0].gates} == {f"gate_{at}" for at in range(12)}
    assert [each.text for each in model.decisions] == ["promote version 6", "promote version 7", "promote version 8"]
    assert {f"{each.start:%Y-%m}" for each in model.realised} == {"2023-03"}
    assert {each.partition for each in model.drift} <= {each.partition for each in model.tests}
    assert model.drift


def test_approvals_and_rejections_are_shown_with_name_and_reason(lake: Lake) -> None:
    audit = AuditLog(lake.state)
    late = datetime(2023, 4, 11, tzinfo=UTC)
    approve(audit, model="m00", version=9, evidence="e", by="ada", reason="seen", at=late)
    reject(audit, model="m00", version=9, evidence="e", by="bob", reason="too few rows", at=late + timedelta(hours=1))
    found = compliance_report("m00", [entry()], LINEAGE, lake, (MARCH[0], NOW), NOW).models[0].approvals
    assert [(each.actor, each.text, each.reason) for each in found] == [
        ("ada", "approve version 9", "seen"),
        ("bob", "reject version 9", "too few rows"),
    ]


def test_data_of_the_model_are_shown_with_failing_partitions_and_personal_columns(lake: Lake) -> None:
    record_passed(lake.state, "orders", "2023-01", content_digest="a", landed_sha256=None)
    record_passed(lake.state, "orders", "2023-02", content_digest="b", landed_sha256=None)
    record_failed(lake.state, "orders", "2023-02", check="columns", landed_sha256=None)
    (used,) = report(lake).models[0].data
    assert (used.passed_partitions, used.failed_partitions, used.personal_columns) == (1, 1, ["customer"])
    assert used.last is not None
    assert used.last.failed_check == "columns"


def test_incidents_are_the_alerts_about_the_model_and_its_data_in_the_period(lake: Lake) -> None:
    at = MARCH[0] + timedelta(days=3)
    alerts = [
        stored(kind="drift", subject="m00", since=at),
        stored(kind="contract_check_failed", subject="datasets/orders 2023-03", since=at),
        stored(kind="drift", subject="m001", since=at),
        stored(kind="check_failed", subject="m00/drift", since=MARCH[1] + timedelta(days=1)),
        stored(kind="run_failed", subject="m00/champion", since=at, resolved_at=MARCH[0] - timedelta(days=9)),
    ]
    store_transitions(lake.state, Transitions(opened=alerts, changed=[], resolved=[]))
    acknowledge(lake.state, [1], "ada", "looking", NOW)
    found = report(lake).models[0].incidents
    assert [(each.subject, each.acknowledged_by) for each in found] == [("m00", "ada"), ("datasets/orders 2023-03", "")]


def test_access_counts_predictions_by_client_and_names_clients_that_may_ask(lake: Lake) -> None:
    decision = KeyDecision("ada", "a new app", datetime(2023, 4, 11, tzinfo=UTC))
    for name, models in (("shop", ("m00",)), ("other", ("m01",)), ("old", None)):
        add(lake.state, Client(name=name, models=models), decision)
    revoke(lake.state, "old", KeyDecision("ada", "ended", datetime(2023, 4, 11, 12, tzinfo=UTC)))
    for day, clients in (("2023-02-28", ["shop"]), ("2023-03-02", ["shop", "shop", None, "other"])):
        lake.write(
            predictions_table("m00"), pl.DataFrame({"client": pl.Series(clients, dtype=pl.String)}), partition=day
        )
    found = compliance_report("m00", [entry()], LINEAGE, lake, (MARCH[0], NOW), NOW)
    assert sorted(found.models[0].access, key=lambda each: each.name) == [
        ClientAccess("old", 0, 0),
        ClientAccess("other", 0, 1),  # it may not ask any more
        ClientAccess("shop", 1, 2),
        ClientAccess(WITHOUT_KEY, 0, 1),
    ]
    assert [each.text for each in found.key_decisions][-1] == "client key revoked: old"


def test_page_and_json_have_the_same_content_and_say_where_nothing_is_recorded(lake: Lake) -> None:
    found = report(lake)
    page = compliance_page(found)
    values = json.loads(TypeAdapter(ComplianceReport).dump_json(found))
    assert values["chain"] == {
        "records": found.chain.records,
        "head": AuditLog(lake.state).head().digest,
        "problem": "",
    }
    assert f"all {found.chain.records} records and their links verify" in page
    assert found.chain.head in page
    assert all(each["content_digest"] in page for each in values["models"][0]["versions"])
    assert "2 people must approve" in page
    assert "No client has a key, and no prediction is logged" in page
    assert "No alert about the model" in page
    assert "<script" not in page
    assert "http:" not in page


def test_changed_log_is_named_and_none_of_its_decisions_is_shown(lake: Lake) -> None:
    with lake.state.write() as connection:
        connection.execute(sa.text("DROP TRIGGER audit_records_update"))
        connection.execute(audit_records.update().where(audit_records.c.sequence == 40).values(actor="mallory"))
    found = report(lake)
    assert "40" in found.chain.problem
    assert (found.models[0].versions, found.models[0].tests, found.models[0].decisions) == ([], [], [])
    page = compliance_page(found)
    assert "The log was changed." in page
    assert "the log of decisions does not verify" in page
    assert "mallory" not in page


def test_early_period_reads_none_of_the_later_verdicts(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(state: StateStore, digest: str) -> StoredVerdict:
        read.append(digest)
        return stored_verdict(state, digest)

    monkeypatch.setattr("ml_platform.console.governance.compliance.stored_verdict", counted)
    first_week = (datetime(2023, 1, 1, tzinfo=UTC), datetime(2023, 1, 8, tzinfo=UTC))
    found = compliance_report("m00", [entry()], NO_LINEAGE, lake, first_week, NOW)
    assert len(found.models[0].tests) == len(read) == 7
    assert found.models[0].versions == []


def test_inventory_has_every_declared_model_and_those_with_a_champion_alone(lake: Lake) -> None:
    found = {each.name: each for each in inventory(AuditLog(lake.state), read_project(REPOSITORY))}
    credit, gone = found["credit_default"], found["m00"]
    assert credit.declared is not None
    assert (credit.declared.risk, credit.declared.owners, credit.version) == ("high", ["team:credit"], None)
    assert credit.declared.data == ["credit_applications", "credit_outcomes", "credit_statements"]
    assert (gone.declared, gone.version) == (None, 9)


def test_name_and_period_that_cannot_be_reported_are_refused() -> None:
    with pytest.raises(ComplianceError, match=r"m01.*Did you mean 'm00'"):
        selected([entry()], "m01", "")
    with pytest.raises(ComplianceError, match="--domain"):
        selected([entry()], "", "")
    assert selected([entry(), entry("gone", declared=None)], "", "domain_0") == [entry()]
    with pytest.raises(ComplianceError, match="an end after its begin"):
        report_period(NOW, NOW, NOW)
    assert report_period(None, None, NOW) == (NOW - timedelta(days=365), NOW)
