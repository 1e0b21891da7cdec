"""Alerts about costs: a domain that has used most of its budget, and an asset that used far more than usual."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from statistics import median

from ml_platform.alerts.alert import Alert
from ml_platform.alerts.evaluation import AlertSource
from ml_platform.data.domains import Budget
from ml_platform.monitoring.cost_budget import budget_use
from ml_platform.monitoring.cost_records import AssetDay, asset_days, days_of_asset, used_by_domain
from ml_platform.state.store import StateStore
from resources.addresses import stored_address

USUAL_DAYS = 60
"""Days before a day in which its usual cost is looked for."""

MINIMUM_DAYS = 10
"""Days with a step of the asset that are needed to know what is usual."""

MINIMUM_SECONDS = 300.0
"""Use of processors or accelerators below which no day is unusual."""

TIMES, DEVIATIONS = 3.0, 6.0
"""A day is unusual above this multiple of the median, and so many robust standard deviations above it."""

NORMAL = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""

ANOMALIES_SHOWN = 30
"""Assets that are alerts at the same time, those with the largest use first."""

MEASURES = {"cpu_seconds": "processors", "gpu_seconds": "accelerators"}


@dataclass(frozen=True)
class UnusualDay:
    """An asset used ``seconds`` of ``measure`` on a day; the median of ``days`` earlier days is ``usual``."""

    of: AssetDay
    measure: str
    seconds: float
    usual: float
    days: int

    @property
    def text(self) -> str:
        steps = f"{self.of.steps} step{'s' * (self.of.steps != 1)}"
        return (
            f"On {self.of.day} (UTC) {steps} used {self.seconds / 60:,.0f} minutes of {self.measure}. Usual are "
            f"{self.usual / 60:,.1f} minutes, the median of the last {self.days} days with a step."
        )


def cost_sources(
    state: StateStore, budgets: Mapping[str, Budget], currency: str | None, now: datetime
) -> list[AlertSource]:
    """Return the sources of alerts about costs; ``budgets`` are those of the domains, by name."""
    return [
        AlertSource("budgets", frozenset({"budget"}), lambda: budget_alerts(state, budgets, currency, now)),
        AlertSource("unusual costs", frozenset({"unusual_cost"}), lambda: unusual_cost_alerts(state, now)),
    ]


def budget_alerts(state: StateStore, budgets: Mapping[str, Budget], currency: str | None, now: datetime) -> list[Alert]:
    """Return one alert per domain that has used the declared share of its budget in the calendar month (UTC)."""
    if not budgets:
        return []
    today = now.astimezone(UTC).date()
    used = used_by_domain(state, today.replace(day=1), today)
    found = []
    for domain, budget in budgets.items():
        use = budget_use(budget, used.get(domain), currency)
        if use.share >= budget.warn_at:
            stop = " Its sensors and schedules train no model until the next month." if use.is_spent else ""
            found.append(
                Alert(
                    kind="budget",
                    subject=domain,
                    what=f"Since {today:%Y-%m}-01 (UTC) the domain has used {use.text}.{stop}",
                    link=f"{stored_address('reports')}/",
                    domain=domain,
                    severity="critical" if use.is_spent else "warning",
                )
            )
    return found


def unusual_cost_alerts(state: StateStore, now: datetime) -> list[Alert]:
    """Return one alert per asset that used far more than usual today or yesterday (UTC)."""
    today = now.astimezone(UTC).date()
    recent = [
        each
        for each in asset_days(state, today - timedelta(days=1), today)
        if max(each.used.cpu_seconds, each.used.gpu_seconds) >= MINIMUM_SECONDS
    ]
    latest: dict[str, UnusualDay] = {}
    for each in recent:  # in order of the days: the latest unusual one counts
        first, last = each.day - timedelta(days=USUAL_DAYS), each.day - timedelta(days=1)
        found = unusual_day(each, days_of_asset(state, each.asset, first, last))
        if found is not None:
            latest[each.asset] = found
    worst = sorted(latest.values(), key=lambda found: -found.seconds)[:ANOMALIES_SHOWN]
    return [_unusual_cost(each) for each in worst]


def unusual_day(of: AssetDay, earlier: Sequence[AssetDay]) -> UnusualDay | None:
    """Return what is unusual about the day ``of``; None if it is as usual, or too few ``earlier`` days have a step.

    The median and the median absolute deviation ignore single expensive days, such as those of a backfill.
    """
    if len(earlier) < MINIMUM_DAYS:
        return None
    for name, measure in MEASURES.items():
        seconds, before = getattr(of.used, name), [getattr(each.used, name) for each in earlier]
        usual = median(before)
        spread = NORMAL * median(abs(value - usual) for value in before)
        if seconds >= MINIMUM_SECONDS and seconds > max(TIMES * usual, usual + DEVIATIONS * spread):
            return UnusualDay(of, measure, seconds, usual, len(earlier))
    return None


def _unusual_cost(found: UnusualDay) -> Alert:
    of = found.of
    page = f"/assets/{of.asset.partition(':')[0]}"
    return Alert(
        kind="unusual_cost",
        subject=of.asset,
        what=found.text,
        link=f"{stored_address('webserver')}{page}",
        domain=of.domain,
        since=datetime.combine(of.day, time(), UTC),
    )
