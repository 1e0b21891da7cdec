"""The report of a month has the records of that month, says in words whether promises were kept, and is one file."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from benchmarks.home_page import SyntheticDeclarations, write_records
from ml_platform.console.site.monthly_report import MonthError, MonthlyReport, monthly_report, read_month
from ml_platform.console.site.pages import month_page
from ml_platform.monitoring.cost_records import StepCost, Used, record_step
from ml_platform.monitoring.performance import Period
from ml_platform.registry.audit import AuditLog
from ml_platform.state.schema import performance_periods, prediction_days
from ml_platform.state.store import StateStore

NOW = datetime(2023, 4, 12, 9, tzinfo=UTC)


@pytest.fixture
def state(state_store: StateStore) -> StateStore:
    """The records of a model from January to the 10th of April 2023, with a version promoted every ten days."""
    write_records(state_store, ["m00"], 100)
    with state_store.write() as connection:
        for day, count in (("2023-02-28", 5), ("2023-03-01", 70), ("2023-03-31", 8), ("2023-04-01", 900)):
            row: dict[str, Any] = {"model": "m00", "day": day, "predict_day": day, "outcomes": 0, "labelled": 0}
            connection.execute(prediction_days.insert().values(**row, predictions=count))
    return state_store


def report(state: StateStore, month: str | None, zone: str = "UTC") -> MonthlyReport:
    with dg.DagsterInstance.ephemeral() as instance:
        return monthly_report(
            read_month(month, zone, NOW), AuditLog(state), SyntheticDeclarations(1).current(), None, instance
        )


def test_report_has_the_champion_the_decisions_and_the_predictions_of_its_month(state: StateStore) -> None:
    found = report(state, "2023-03")
    (model,) = found.models["domain_0"]
    assert model.champion is not None
    assert (model.champion.version, f"{model.champion.since:%Y-%m-%d}") == (8, "2023-03-30")
    assert {f"{each.at:%Y-%m}" for each in model.decisions} == {"2023-03"}
    assert [each.text for each in model.decisions] == ["promote version 6", "promote version 7", "promote version 8"]
    assert (model.verdicts["PROMOTE"], sum(model.verdicts.values())) == (3, 31)
    assert model.predictions == 78
    assert set(model.promised) == {"auc", "log_loss"}
    assert [f"{each.start:%m-%d}" for each in model.realised] == ["03-28", "03-29", "03-30", "03-31"]
    assert found.failure_count == 0
    assert found.month.is_over


def test_last_month_that_is_over_is_the_default_and_a_month_under_way_ends_now(state: StateStore) -> None:
    assert read_month(None, "UTC", NOW).label == "2023-03"
    under_way = read_month("2023-04", "America/New_York", NOW)
    assert (under_way.end, under_way.is_over) == (NOW, False)
    assert "the month is not over" in month_page(report(state, "2023-04"), "USD")


def test_cost_of_a_model_is_that_of_the_steps_that_ended_in_the_month(state: StateStore) -> None:
    assert report(state, "2023-03").models["domain_0"][0].cost is None  # neither a ledger nor MLflow
    for day, money in ((28, 1.0), (31, 2.5)):
        ended, used = datetime(2023, 3, day, 23, 59, tzinfo=UTC), Used(money=money)
        record_step(state, StepCost(str(day), "m00/champion", 0, "domain_0", "m00", False, ended, used))
    record_step(
        state, StepCost("april", "m00/champion", 0, "", "m00", False, datetime(2023, 4, 1, tzinfo=UTC), Used(money=9.0))
    )
    found = report(state, "2023-03")
    assert found.models["domain_0"][0].cost == Used(money=3.5)
    assert "cost 3.50 EUR" in month_page(found, "EUR")


@pytest.mark.parametrize(("month", "zone"), [("2023-4-1", "UTC"), ("2023-05", "UTC"), ("2023-03", "Mars/Olympus")])
def test_month_that_cannot_be_reported_is_refused(month: str, zone: str) -> None:
    with pytest.raises(MonthError):
        read_month(month, zone, NOW)


def test_page_says_whether_the_promise_was_kept(state: StateStore) -> None:
    page = month_page(report(state, "2023-03"), "USD")
    assert "quality as promised" in page
    assert "<script" not in page
    assert "http:" not in page

    with state.write() as connection:
        last = sa.and_(performance_periods.c.start == "2023-03-31T00:00:00+00:00", performance_periods.c.model == "m00")
        stored = connection.scalar(sa.select(performance_periods.c.result).where(last))
        worse = Period.model_validate_json(str(stored)).model_copy(update={"regressed_metrics": ["log_loss"]})
        connection.execute(performance_periods.update().where(last).values(result=worse.model_dump_json()))
    assert "worse than promised: log loss" in month_page(report(state, "2023-03"), "USD")


def test_report_of_an_early_month_reads_few_records(state: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    audit, read = AuditLog(state), 0
    verified = AuditLog._verified

    def counted(self: AuditLog, row: Any) -> Any:
        nonlocal read
        read += 1
        return verified(self, row)

    monkeypatch.setattr(AuditLog, "_verified", counted)
    found = audit.between(datetime(2023, 1, 1, tzinfo=UTC), datetime(2023, 1, 8, tzinfo=UTC))
    assert [f"{each.at:%m-%d}" for each in found] == [f"01-{day:02d}" for day in range(1, 8)]
    assert read < 20
    assert audit.between(datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC)) == []


def test_failed_runs_of_the_month_are_counted_with_their_reason(state: StateStore) -> None:
    @dg.op
    def broken() -> None:
        raise ValueError("no lake")

    @dg.job
    def nightly() -> None:
        broken()

    month = read_month(f"{datetime.now(UTC):%Y-%m}", "UTC", datetime.now(UTC))
    with dg.DagsterInstance.ephemeral() as instance:
        nightly.execute_in_process(instance=instance, raise_on_error=False)
        ended = read_month(month.label, "UTC", datetime.now(UTC))
        found = monthly_report(ended, AuditLog(state), SyntheticDeclarations(1).current(), None, instance)
        earlier = monthly_report(
            read_month("2023-03", "UTC", NOW), AuditLog(state), SyntheticDeclarations(1).current(), None, instance
        )
    assert (found.failure_count, earlier.failure_count) == (1, 0)
    assert "no lake" in found.failures[0]["reason"]
    assert "nightly" in month_page(found, "USD")
