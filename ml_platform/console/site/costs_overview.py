"""The content of the page of costs: each domain with the use of its budget, and what could be saved."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from ml_platform.console.costs import CostReport, cost_report
from ml_platform.console.savings import Saving, SavingSettings, find_savings
from ml_platform.console.site.home_overview import Declarations
from ml_platform.monitoring.cost_budget import BudgetUse, budget_use
from ml_platform.monitoring.cost_records import used_by_domain
from ml_platform.state.store import StateStore
from ml_platform.training.resource_usage import PriceList
from resources.home import Home

DAYS = 30
"""Days of which the page shows the costs."""


@dataclass(frozen=True)
class CostsOverview:
    """The costs of the last days by domain, the use of each budget since the month began (UTC), and the savings.

    ``warned`` are the domains whose budget is used so far that an alert warns.
    """

    report: CostReport
    budgets: Mapping[str, BudgetUse]
    warned: Collection[str]
    savings: Sequence[Saving]
    settings: SavingSettings

    @property
    def unused_budgets(self) -> list[str]:
        """Domains with a budget and without a step in the days."""
        return sorted(set(self.budgets) - {each.name for each in self.report.lines})


def costs_overview(
    state: StateStore,
    declared: Declarations,
    prices: PriceList,
    settings: SavingSettings,
    today: date,
    home: Home | None,
) -> CostsOverview:
    """Return the content of the page; ``home`` None leaves out the running services and their logs."""
    used = used_by_domain(state, today.replace(day=1), today)
    folders = (None, None) if home is None else (home.run, home.prediction_logs)
    limits = declared.budgets
    budgets = {name: budget_use(each, used.get(name), prices.shown_currency) for name, each in limits.items()}
    return CostsOverview(
        report=cost_report(state, DAYS, today, prices),
        budgets=budgets,
        warned=[name for name, use in budgets.items() if use.share >= limits[name].warn_at],
        savings=find_savings(state, declared.resources, prices, settings, today, DAYS, *folders),
        settings=settings,
    )
