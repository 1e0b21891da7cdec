"""Alerts about costs: a budget that is almost spent, and a day on which an asset used far more than usual."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from ml_platform.alerts.alert import Alert
from ml_platform.data.domains import Budget
from ml_platform.monitoring.cost_records import StepCost, Used, record_step
from ml_platform.state.store import StateStore
from ml_platform.steps.cost_alerts import MINIMUM_DAYS, cost_sources

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
BUDGETS = {"shops": Budget(per_month=50, warn_at=0.8), "parcels": Budget(cpu_hours_per_month=1)}
ASSET = "late/candidate_trees"


def spend(state: StateStore, used: Used, days_ago: int = 0, domain: str = "shops", asset: str = ASSET) -> None:
    run = f"{days_ago} {domain} {asset} {used}"
    record_step(state, StepCost(run, asset, 0, domain, "late", False, NOW - timedelta(days=days_ago), used))


def firing(state: StateStore, now: datetime = NOW) -> list[Alert]:
    return [alert for source in cost_sources(state, BUDGETS, "USD", now) for alert in source.find()]


def usual_days(state: StateStore, seconds: Sequence[float]) -> None:
    """Spend ``seconds`` of processors on the days before yesterday, the last of them first."""
    for days_ago, each in enumerate(seconds, start=2):
        spend(state, Used(cpu_seconds=each), days_ago)


def test_budget_warns_at_its_share_is_critical_when_spent_and_begins_again_with_the_month(
    state_store: StateStore,
) -> None:
    spend(state_store, Used(money=39.0), days_ago=20)
    spend(state_store, Used(money=500.0), days_ago=29)  # the month before
    spend(state_store, Used(money=99.0, cpu_seconds=60.0), domain="parcels")  # its limit is in hours
    assert firing(state_store) == []

    spend(state_store, Used(money=2.0))
    (warning,) = firing(state_store)
    assert (warning.key, warning.domain, warning.severity) == (("budget", "shops"), "shops", "warning")
    assert "has used 41 of 50 USD (82 %)." in warning.what

    spend(state_store, Used(money=10.0))
    (spent,) = firing(state_store)
    assert spent.severity == "critical"
    assert "train no model until the next month" in spent.what
    assert firing(state_store, NOW + timedelta(days=3)) == []


@pytest.mark.parametrize(
    ("usual", "today", "is_unusual"),
    [
        ([600.0] * 15, 2_400.0, True),
        ([600.0] * 15, 1_500.0, False),  # less than three times the median
        ([600.0] * (MINIMUM_DAYS - 1), 9_000.0, False),  # too few days to know
        ([10.0] * 15, 200.0, False),  # less than five minutes
        ([200.0, 1_000.0, 3_000.0] * 5, 4_000.0, False),  # it varies as much by itself
        ([600.0, 600.0, 90_000.0] * 5, 2_400.0, True),  # some backfills do not make a dear day usual
        ([0.0] * 15, 400.0, True),
    ],
)
def test_day_is_unusual_far_above_the_median_of_enough_days(
    state_store: StateStore, usual: list[float], today: float, is_unusual: bool
) -> None:
    usual_days(state_store, usual)
    spend(state_store, Used(cpu_seconds=today))
    assert [each.key for each in firing(state_store)] == [("unusual_cost", ASSET)] * is_unusual


def test_unusual_day_says_how_much_it_was_and_ends_with_the_day_after(state_store: StateStore) -> None:
    usual_days(state_store, [600.0] * 20)
    spend(state_store, Used(cpu_seconds=3_000.0))
    (found,) = firing(state_store)
    assert found.what == (
        "On 2026-11-28 (UTC) 1 step used 50 minutes of processors. Usual are 10.0 minutes, the median of the last "
        "20 days with a step."
    )
    assert (found.domain, found.since) == ("shops", datetime(2026, 11, 28, tzinfo=UTC))
    assert len(firing(state_store, NOW + timedelta(days=1))) == 1
    assert firing(state_store, NOW + timedelta(days=2)) == []


def test_use_of_accelerators_is_compared_too(state_store: StateStore) -> None:
    for days_ago in range(2, 14):
        spend(state_store, Used(cpu_seconds=900.0, gpu_seconds=300.0), days_ago)
    spend(state_store, Used(cpu_seconds=900.0, gpu_seconds=1_800.0))
    (found,) = firing(state_store)
    assert "used 30 minutes of accelerators" in found.what
