"""Orphans: what a home still serves or stores although its declaration was deleted, and the verb that ends each."""

from collections import defaultdict
from collections.abc import Set
from dataclasses import dataclass

import sqlalchemy as sa

from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import CHAMPION_KIND, current_champion
from ml_platform.serving.desired_state import all_desired_states
from ml_platform.state.schema import lake_segments
from ml_platform.state.store import StateStore


@dataclass(frozen=True)
class DeclaredNames:
    """The names that the project declares, by kind."""

    datasets: Set[str]
    views: Set[str]
    models: Set[str]

    def owner_of(self, table: str) -> tuple[str, bool] | None:
        """Return the name of the declaration that a table of the lake belongs to, and whether it exists.

        None for a table that belongs to no declaration.
        """
        area, _, rest = table.partition("/")
        kinds = {"datasets": self.datasets, "features": self.views, "online": self.views, "models": self.models}
        name = rest.partition("/")[0]
        return (name, name in kinds[area]) if area in kinds and name else None


@dataclass(frozen=True)
class Orphan:
    """Something without a declaration: ``name`` is that of a model, or of a table or folder of tables in the lake."""

    kind: str
    name: str
    found: str
    verb: str

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}' has no declaration, but {self.found}. End it with `{self.verb}`."


def orphans(state: StateStore, declared: DeclaredNames) -> list[Orphan]:
    """Return the orphans of a home: models that serve or are champion, then tables with current rows.

    The tables of a model that was retired stay as evidence, until a person drops them.
    """
    return [*_models(state, declared), *_tables(state, declared)]


def _models(state: StateStore, declared: DeclaredNames) -> list[Orphan]:
    audit, stored = AuditLog(state), all_desired_states(state)
    found: dict[str, list[str]] = defaultdict(list)
    for name, desired in stored.readable.items():
        if desired.served_versions:
            found[name].append("it is served")
    for name in audit.models(CHAMPION_KIND):
        if (champion := current_champion(audit, name)) is not None:
            found[name].append(f"version {champion.version} is champion")
    return [
        Orphan("model", name, " and ".join(reasons), f"ml-platform model retire {name} --by … --reason …")
        for name, reasons in sorted(found.items())
        if name not in declared.models
    ]


def _tables(state: StateStore, declared: DeclaredNames) -> list[Orphan]:
    segment = lake_segments.c
    query = (
        sa.select(segment.table_name, sa.func.sum(segment.rows))
        .where(segment.replaced_in.is_(None))
        .group_by(segment.table_name)
    )
    with state.read() as connection:
        rows_of: dict[str, int] = {name: int(rows) for name, rows in connection.execute(query)}
    totals: dict[tuple[str, str], int] = defaultdict(int)
    for table, rows in rows_of.items():
        owner = declared.owner_of(table)
        if owner is not None and not owner[1]:
            totals[table.partition("/")[0], owner[0]] += rows
    return [
        Orphan(
            "dataset" if area == "datasets" else "table",
            name if area == "datasets" else f"{area}/{name}",
            f"{rows} rows are stored",
            f"ml-platform dataset drop {name} --by … --reason …"
            if area == "datasets"
            else f"ml-platform table drop {area}/{name} --by … --reason …",
        )
        for (area, name), rows in sorted(totals.items())
    ]
