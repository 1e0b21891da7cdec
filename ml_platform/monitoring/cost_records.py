"""The cost ledger: what each step used, and its sums by asset and day.

A step is recorded once, by its run, asset and attempt, and is added to the sums in the same transaction. Reads use the
sums, whose number does not depend on how many steps ran, and always name the days.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import UTC, date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from ml_platform.state.schema import cost_days, step_costs
from ml_platform.state.store import StateStore, time_text


@dataclass(frozen=True)
class Used:
    """Resources that one or more steps used. ``peak_memory_bytes`` is the highest of them, all others are sums."""

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    bytes_written: int = 0
    money: float = 0.0

    def plus(self, other: "Used") -> "Used":
        """Return both together.

        >>> Used(1.0, peak_memory_bytes=5).plus(Used(2.0, peak_memory_bytes=3))
        Used(wall_seconds=3.0, cpu_seconds=0.0, gpu_seconds=0.0, peak_memory_bytes=5, bytes_written=0, money=0.0)
        """
        added = Used(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))
        return Used(**{**vars(added), "peak_memory_bytes": max(self.peak_memory_bytes, other.peak_memory_bytes)})


@dataclass(frozen=True)
class StepCost:
    """One attempt of a step: ``asset`` is its key, with the name of a check after a colon.

    ``domain`` and ``model`` are empty for an asset that belongs to none. The aware time ``ended_at`` gives the day.
    """

    run_id: str
    asset: str
    attempt: int
    domain: str
    model: str
    failed: bool
    ended_at: datetime
    used: Used


@dataclass(frozen=True)
class AssetDay:
    """All steps of an asset that ended on a UTC day; ``failures`` of its ``steps`` failed."""

    day: date
    domain: str
    asset: str
    model: str
    steps: int
    failures: int
    used: Used


def record_step(state: StateStore, cost: StepCost) -> bool:
    """Record ``cost`` and add it to the sums of its day; return whether it was new.

    A step that is recorded a second time changes nothing.
    """
    day, used = cost.ended_at.astimezone(UTC).date().isoformat(), vars(cost.used)
    named = {"day": day, "domain": cost.domain, "asset": cost.asset, "model": cost.model}
    with state.write() as connection:
        added = connection.execute(
            _insert(connection, step_costs)
            .values(
                **named,
                run_id=cost.run_id,
                attempt=cost.attempt,
                failed=cost.failed,
                ended_at=time_text(cost.ended_at),
                **used,
            )
            .on_conflict_do_nothing()
            .returning(step_costs.c.day)
        )
        # The number of rows is not known for every dialect.
        if added.first() is None:
            return False
        query = _insert(connection, cost_days).values(**named, steps=1, failures=int(cost.failed), **used)
        new, stored = query.excluded, cost_days.c
        sums = {name: stored[name] + new[name] for name in ("steps", "failures", *used)}
        higher = sa.case((new.peak_memory_bytes > stored.peak_memory_bytes, new.peak_memory_bytes))
        sums["peak_memory_bytes"] = sa.func.coalesce(higher, stored.peak_memory_bytes)
        connection.execute(
            query.on_conflict_do_update(
                index_elements=[stored.day, stored.domain, stored.asset], set_={**sums, "model": new.model}
            )
        )
    return True


@dataclass(frozen=True)
class StepPeaks:
    """The highest use of cores, memory and accelerators by any of ``steps``, and the sums of their times (seconds).

    ``cores`` and ``gpus`` are means over a step, in which one that waits for data uses fewer.
    """

    steps: int
    cores: float
    memory_bytes: int
    gpus: float
    wall_seconds: float
    gpu_seconds: float


def step_peaks(state: StateStore, first: date, last: date, assets: Sequence[str]) -> dict[str, StepPeaks]:
    """Return the peaks of each of ``assets`` with a successful step on the days from ``first`` to ``last``.

    Single steps are kept for a shorter time than the sums of their days.
    """
    column = step_costs.c
    query = (
        sa.select(
            *(column.asset, sa.func.count(), sa.func.max(column.cpu_seconds / column.wall_seconds)),
            *(sa.func.max(column.peak_memory_bytes), sa.func.max(column.gpu_seconds / column.wall_seconds)),
            *(sa.func.sum(column.wall_seconds), sa.func.sum(column.gpu_seconds)),
        )
        .where(
            column.day.between(first.isoformat(), last.isoformat()),
            column.asset.in_(assets),
            column.failed.is_(False),
            column.wall_seconds > 0,
        )
        .group_by(column.asset)
    )
    with state.read() as connection:
        rows: Sequence[Any] = connection.execute(query).all()
    return {
        asset: StepPeaks(int(steps), float(cores), int(memory), float(gpus), float(wall), float(gpu))
        for asset, steps, cores, memory, gpus, wall, gpu in rows
    }


def steps_of_runs(state: StateStore, run_ids: Sequence[str]) -> list[StepCost]:
    """Return the measured steps of the runs ``run_ids`` of Dagster, in the order in which they ended."""
    columns = step_costs.c
    query = sa.select(step_costs).where(columns.run_id.in_(list(run_ids))).order_by(columns.ended_at, columns.asset)
    names = [each.name for each in fields(Used)]
    with state.read() as connection:
        return [
            StepCost(
                run_id=row.run_id,
                asset=row.asset,
                attempt=row.attempt,
                domain=row.domain,
                model=row.model,
                failed=row.failed,
                ended_at=datetime.fromisoformat(row.ended_at),
                used=Used(**{name: getattr(row, name) for name in names}),
            )
            for row in connection.execute(query)
        ]


def asset_days(
    state: StateStore,
    first: date,
    last: date,
    *,
    domain: str | None = None,
    model: str | None = None,
    assets: Sequence[str] | None = None,
) -> list[AssetDay]:
    """Return the sums of the days from ``first`` to ``last``, by day, domain and asset.

    Only those of ``domain``, of ``model``, or of ``assets`` with their checks.
    """
    query = _days(sa.select(cost_days), first, last).order_by(cost_days.c.day, cost_days.c.domain, cost_days.c.asset)
    if domain is not None:
        query = query.where(cost_days.c.domain == domain)
    if model is not None:
        query = query.where(cost_days.c.model == model)
    if assets is not None:
        own = [
            cost_days.c.asset.in_(assets),
            *(cost_days.c.asset.startswith(f"{each}:", autoescape=True) for each in assets),
        ]
        query = query.where(sa.or_(*own))
    with state.read() as connection:
        return list(_asset_days(connection.execute(query)))


def days_of_asset(state: StateStore, asset: str, first: date, last: date) -> list[AssetDay]:
    """Return the sums of ``asset`` by day; a day without a step is absent."""
    query = _days(sa.select(cost_days).where(cost_days.c.asset == asset), first, last).order_by(cost_days.c.day)
    with state.read() as connection:
        return list(_asset_days(connection.execute(query)))


def used_by_domain(state: StateStore, first: date, last: date) -> dict[str, Used]:
    """Return the sum of each domain that used anything on the days from ``first`` to ``last``, by its name."""
    return _grouped(state, cost_days.c.domain, first, last)


def used_by_model(state: StateStore, first: date, last: date) -> dict[str, Used]:
    """Return the sum of each model that used anything on the days from ``first`` to ``last``, by its name."""
    return {name: used for name, used in _grouped(state, cost_days.c.model, first, last).items() if name}


@dataclass(frozen=True)
class ModelSum:
    """The steps of a model, or of the assets of a domain that belong to no model, on several days."""

    domain: str
    model: str
    steps: int
    failures: int
    used: Used


def sums_by_model(state: StateStore, first: date, last: date) -> list[ModelSum]:
    """Return the sums of the days from ``first`` to ``last``, by domain and model."""
    columns = cost_days.c
    keys = (columns.domain, columns.model)
    counts = (sa.func.sum(columns.steps), sa.func.sum(columns.failures))
    query = _days(sa.select(*keys, *counts, *_sums()), first, last).group_by(*keys).order_by(*keys)
    with state.read() as connection:
        rows: Sequence[Any] = connection.execute(query).all()
    return [
        ModelSum(domain, model, int(steps), int(failures), _used(values))
        for domain, model, steps, failures, *values in rows
    ]


def total(costs: Iterable[Used]) -> Used:
    """Return all ``costs`` together."""
    found = Used()
    for each in costs:
        found = found.plus(each)
    return found


def days_before(state: StateStore, table: sa.Table, day: date) -> list[date]:
    """Return the days before ``day`` of which ``table``, one of the ledger, has rows, in order."""
    query = sa.select(table.c.day).where(table.c.day < day.isoformat()).distinct().order_by(table.c.day)
    with state.read() as connection:
        return [date.fromisoformat(found) for found in connection.execute(query).scalars()]


def forget_before(state: StateStore, table: sa.Table, day: date) -> None:
    """Delete the rows of ``table``, one of the ledger, from before ``day``."""
    with state.write() as connection:
        connection.execute(sa.delete(table).where(table.c.day < day.isoformat()))


def _grouped(state: StateStore, column: "sa.Column[Any]", first: date, last: date) -> dict[str, Used]:
    query = _days(sa.select(column, *_sums()), first, last).group_by(column).order_by(column)
    with state.read() as connection:
        rows: Sequence[Any] = connection.execute(query).all()
    return {name: _used(values) for name, *values in rows}


def _sums() -> "list[sa.Function[Any]]":
    columns = cost_days.c
    return [
        (sa.func.max if each.name == "peak_memory_bytes" else sa.func.sum)(columns[each.name]) for each in fields(Used)
    ]


def _used(values: Sequence[Any]) -> Used:
    # A sum of big integers is a decimal number in Postgres.
    wall, cpu, gpu, peak, written, money = values
    return Used(float(wall), float(cpu), float(gpu), int(peak), int(written), float(money))


def _days(query: sa.Select[Any], first: date, last: date) -> sa.Select[Any]:
    return query.where(cost_days.c.day.between(first.isoformat(), last.isoformat()))


def _asset_days(rows: Iterable[Any]) -> Iterator[AssetDay]:
    for row in rows:
        used = Used(*(getattr(row, each.name) for each in fields(Used)))
        yield AssetDay(date.fromisoformat(row.day), row.domain, row.asset, row.model, row.steps, row.failures, used)


def _insert(connection: sa.Connection, table: sa.Table) -> Any:
    # Both dialects have the same clause ON CONFLICT, which standard SQL lacks.
    return (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)
