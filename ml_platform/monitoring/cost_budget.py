"""How much of its monthly budget a domain has used."""

from dataclasses import dataclass

from ml_platform.data.cadences import SECONDS_PER_HOUR
from ml_platform.data.domains import Budget
from ml_platform.monitoring.cost_records import Used


@dataclass(frozen=True)
class BudgetUse:
    """The used ``share`` of a budget, that of the limit which is closest to its end, with a text about it."""

    share: float
    text: str

    @property
    def is_spent(self) -> bool:
        return self.share >= 1


def budget_use(budget: Budget, used: Used | None, currency: str | None) -> BudgetUse:
    """Return the use of ``budget`` by ``used``, the costs of the calendar month; None: nothing was used.

    ``currency`` is None where nothing has a price: then a limit in money is never reached.

    >>> budget_use(Budget(per_month=50), Used(money=45.5), "USD").text
    '45.5 of 50 USD (91 %)'
    >>> budget_use(Budget(cpu_hours_per_month=2), Used(cpu_seconds=9000), None).is_spent
    True
    """
    cost = used or Used()
    uses = [BudgetUse(0.0, "nothing")]
    for limit, spent, unit in (
        (budget.per_month, cost.money, currency or "in money without prices"),
        (budget.cpu_hours_per_month, cost.cpu_seconds / SECONDS_PER_HOUR, "CPU-hours"),
    ):
        if limit is not None:
            share = spent / limit
            uses.append(BudgetUse(share, f"{spent:,.4g} of {limit:,.4g} {unit} ({100 * share:.0f} %)"))
    return max(uses, key=lambda use: use.share)
