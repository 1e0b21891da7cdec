"""Finds the records of the cost ledger that are past their retention."""

from collections.abc import Iterator
from datetime import UTC, datetime, time
from functools import partial

import sqlalchemy as sa

from ml_platform.data.leftovers import Leftover, before
from ml_platform.monitoring.cost_records import days_before, forget_before
from ml_platform.state.schema import cost_days, step_costs
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.steps.retention import RetentionPolicies

STEP_COSTS, COST_DAYS = "costs of steps", "costs of days"


def old_costs(stores: PlatformStores, policies: RetentionPolicies, now: datetime) -> Iterator[Leftover]:
    """Yield the records of steps and of days from before their retention, each kind by its days."""
    platform = policies.platform
    yield from _days(stores, STEP_COSTS, step_costs, before(now, platform.step_costs_days))
    yield from _days(stores, COST_DAYS, cost_days, before(now, platform.cost_days))


def _days(stores: PlatformStores, kind: str, table: sa.Table, limit: datetime | None) -> Iterator[Leftover]:
    if limit is None:
        return
    last = limit.astimezone(UTC).date()
    found = days_before(stores.state, table, last)
    if found:
        oldest = datetime.combine(found[0], time(), UTC)
        names = [day.isoformat() for day in found]
        # The rows are in the database, whose file keeps its size.
        yield Leftover(kind, names, 0, oldest, partial(forget_before, stores.state, table, last))
