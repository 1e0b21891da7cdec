"""The cost ledger counts each step once, sums by asset and day, and forgets by days."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa

from ml_platform.console.costs import NO_DOMAIN, CostsError, cost_report, report_of_name
from ml_platform.monitoring.cost_records import (
    StepCost,
    Used,
    asset_days,
    days_before,
    days_of_asset,
    forget_before,
    record_step,
    sums_by_model,
    used_by_domain,
    used_by_model,
)
from ml_platform.state.schema import cost_days, step_costs
from ml_platform.state.store import StateStore
from ml_platform.training.resource_usage import PriceList
from ml_platform_tests.state.test_migrations import postgres_store as postgres_store

DAY = date(2026, 11, 27)
NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
FIT = StepCost(
    run_id="run",
    asset="late/candidate_trees",
    attempt=0,
    domain="shops",
    model="late",
    failed=False,
    ended_at=NOON,
    used=Used(10.0, 20.0, 2.0, 500, 70, 0.25),
)
LANDING = replace(
    FIT, asset="datasets/orders", model="", used=Used(wall_seconds=4.0, cpu_seconds=3.0, peak_memory_bytes=900)
)


def test_step_that_is_recorded_twice_counts_once_and_a_second_attempt_counts_again(state_store: StateStore) -> None:
    assert record_step(state_store, FIT)
    assert not record_step(state_store, replace(FIT, used=Used(cpu_seconds=999.0)))
    assert record_step(state_store, replace(FIT, attempt=1, failed=True, used=Used(1.0, 5.0, 0.0, 800, 30, 0.05)))

    (found,) = asset_days(state_store, DAY, DAY)
    assert (found.steps, found.failures) == (2, 1)
    assert replace(found.used, money=round(found.used.money, 9)) == Used(11.0, 25.0, 2.0, 800, 100, 0.3)


def test_peak_memory_of_a_day_is_the_highest_of_its_steps(state_store: StateStore) -> None:
    record_step(state_store, FIT)
    record_step(state_store, replace(FIT, run_id="second", used=Used(peak_memory_bytes=100)))
    assert asset_days(state_store, DAY, DAY)[0].used.peak_memory_bytes == 500


def test_day_of_a_step_is_the_utc_day_of_its_end(state_store: StateStore) -> None:
    evening = datetime(2026, 11, 27, 23, 30, tzinfo=timezone(timedelta(hours=-5)))
    record_step(state_store, replace(FIT, ended_at=evening))
    assert [each.day for each in days_of_asset(state_store, FIT.asset, DAY, date(2026, 11, 30))] == [date(2026, 11, 28)]


def test_sums_by_domain_and_model_are_those_of_their_days(state_store: StateStore) -> None:
    for cost in (FIT, LANDING, replace(FIT, run_id="late", ended_at=NOON + timedelta(days=1))):
        record_step(state_store, cost)
    record_step(state_store, replace(LANDING, asset="datasets/parcels", domain="parcels"))

    of_day = used_by_domain(state_store, DAY, DAY)
    assert {name: used.cpu_seconds for name, used in of_day.items()} == {"shops": 23.0, "parcels": 3.0}
    assert of_day["shops"] == Used(14.0, 23.0, 2.0, 900, 70, 0.25)
    assert used_by_model(state_store, DAY, DAY + timedelta(days=1)) == {"late": Used(20.0, 40.0, 4.0, 500, 140, 0.5)}
    assert [each.asset for each in asset_days(state_store, DAY, DAY, domain="shops")] == [LANDING.asset, FIT.asset]


def test_records_before_a_day_are_forgotten_and_their_sums_stay(state_store: StateStore) -> None:
    for days in (0, 1, 2):
        record_step(state_store, replace(FIT, run_id=str(days), ended_at=NOON + timedelta(days=days)))
    last = DAY + timedelta(days=2)
    assert days_before(state_store, step_costs, last) == [DAY, DAY + timedelta(days=1)]
    forget_before(state_store, step_costs, last)
    assert days_before(state_store, step_costs, last + timedelta(days=1)) == [last]
    assert len(asset_days(state_store, DAY, last)) == 3


@pytest.mark.parametrize(
    "query",
    [
        sa.select(cost_days).where(cost_days.c.day.between("2026-11-01", "2026-11-30")),
        sa.select(cost_days).where(cost_days.c.model == "late", cost_days.c.day >= "2026-11-01"),
        sa.select(cost_days).where(cost_days.c.asset == "late/champion", cost_days.c.day >= "2026-11-01"),
        sa.select(step_costs.c.day).where(step_costs.c.day < "2026-11-01").distinct(),
    ],
)
def test_every_read_searches_an_index(state_store: StateStore, query: sa.Select[tuple[str]]) -> None:
    text = str(query.compile(compile_kwargs={"literal_binds": True}))
    with state_store.read() as connection:
        plan = [row.detail for row in connection.execute(sa.text(f"EXPLAIN QUERY PLAN {text}"))]
    assert plan
    assert all(line.startswith("SEARCH") for line in plan)


def test_report_names_domains_then_models_then_assets(state_store: StateStore) -> None:
    record_step(state_store, FIT)
    record_step(state_store, LANDING)
    record_step(state_store, replace(LANDING, asset="platform/other", domain=""))
    prices = PriceList()

    everything = report_of_name(state_store, "", 30, DAY, prices)
    assert [each.name for each in everything.lines] == ["shops", NO_DOMAIN]
    assert (everything.total.steps, everything.total.used.cpu_seconds) == (3, 26.0)
    assert [each.name for each in report_of_name(state_store, "shops", 30, DAY, prices).lines] == [
        "late",
        LANDING.asset,
    ]
    assert [each.name for each in report_of_name(state_store, "late", 30, DAY, prices).lines] == [FIT.asset]
    assert report_of_name(state_store, "late", 1, DAY + timedelta(days=1), prices, ["late"]).lines == []
    with pytest.raises(CostsError, match=r"found neither; declared are 'late'.* Did you mean 'late'\?"):
        report_of_name(state_store, "lat", 30, DAY, prices, ["late"])


def test_report_without_prices_has_hours_and_no_money(state_store: StateStore) -> None:
    record_step(state_store, FIT)
    free = PriceList(cpu_hour=0, gpu_hour=0)
    values = cost_report(state_store, 30, DAY, free).json_values()
    assert (values["currency"], values["total"]["money"], values["total"]["cpu_seconds"]) == (None, None, 20.0)
    assert cost_report(state_store, 30, DAY, PriceList()).json_values()["domains"]["shops"]["money"] == 0.25


def test_ledger_in_postgres_has_the_same_sums(postgres_store: StateStore) -> None:
    postgres_store.migrate()
    assert record_step(postgres_store, FIT)
    assert not record_step(postgres_store, FIT)
    assert record_step(postgres_store, replace(FIT, attempt=1, failed=True))
    assert used_by_domain(postgres_store, DAY, DAY) == {"shops": Used(20.0, 40.0, 4.0, 500, 140, 0.5)}
    (found,) = sums_by_model(postgres_store, DAY, DAY)
    assert (found.model, found.steps, found.failures) == ("late", 2, 1)
