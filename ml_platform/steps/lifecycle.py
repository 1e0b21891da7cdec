"""The end of a model, a dataset or a table: steps that can each run again, with a record of who decided and why.

A change and its record are one transaction. A command that was killed between two steps does the rest when it runs
again.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from ml_platform.data.evolution_record import EVOLUTIONS
from ml_platform.data.lake import Lake
from ml_platform.errors import PlatformError
from ml_platform.registry.approvals import require_decider
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import current_champion
from ml_platform.registry.missing_champion import retire_champion
from ml_platform.serving.desired_state import DesiredState, all_desired_states, change_desired_state
from ml_platform.serving.streams.declared_streams import store_streams
from ml_platform.state.cursors import cursors_below, delete_cursors
from ml_platform.state.schema import TABLES_OF_DATASETS
from ml_platform.state.store import StateStore
from ml_platform.steps.orphans import DeclaredNames
from ml_platform.steps.platform_stores import PlatformStores

MODEL_RETIRED, TABLE_DROPPED = "model_retired", "table_dropped"
"""Kinds of the audit records."""


class LifecycleError(PlatformError):
    """Raised when a model, dataset or table must not end, or does not exist."""


@dataclass(frozen=True)
class LifecycleDecision:
    """Who decided, why, and when."""

    by: str
    reason: str
    at: datetime


@dataclass(frozen=True)
class LifecycleStep:
    """One step: what it does, in words, and the function that does it."""

    text: str
    run: Callable[[], object]


def require_renamed_declaration(kind: str, old: str, new: str, declared: Collection[str]) -> None:
    """Raise :class:`LifecycleError` unless ``new`` and not ``old`` is among the ``declared`` names of ``kind``."""
    subject = kind.capitalize()
    if old in declared:
        raise LifecycleError(
            f"{subject} '{old}'",
            expected="an old name that no declaration has",
            found="its declaration",
            fix=f"Rename the declaration in defs.yaml to '{new}' first.",
        )
    if new not in declared:
        raise LifecycleError(
            f"{subject} '{new}'",
            expected="a declaration of the new name",
            found="none",
            fix=f"Rename the declaration of '{old}' in defs.yaml to '{new}' first, or correct the name.",
        )


def retirement_of_model(model: str, stores: PlatformStores, decision: LifecycleDecision) -> list[LifecycleStep]:
    """Return the steps that end the service and the champion of ``model``; none when both have ended.

    Versions, verdicts, predictions and tables stay. Raises
    :class:`~ml_platform.registry.approvals.ApprovalError` without a name and a reason, and :class:`LifecycleError` for
    a model without a service or champion that never had one.
    """
    require_decider(f"Retirement of '{model}'", decision.by, decision.reason)
    states = all_desired_states(stores.state)
    served = states.readable.get(model)
    champion = current_champion(stores.audit, model)
    steps = []
    if model in states.unreadable or (served is not None and served.served_versions):
        versions = ", ".join(each.version for each in served.served_versions) if served else "unreadable"
        steps.append(
            LifecycleStep(
                f"end the service of '{model}' (version {versions}); its endpoint answers no more",
                lambda: _end_service(model, stores, decision),
            )
        )
    if champion is not None:
        steps.append(
            LifecycleStep(
                f"end its champion, version {champion.version}",
                lambda: retire_champion(
                    stores.registry,
                    stores.audit,
                    model,
                    decided_by=decision.by,
                    reason=decision.reason,
                    at=decision.at,
                ),
            )
        )
    if not steps and served is None and not stores.audit.records(model=model):
        raise LifecycleError(
            f"Model '{model}'",
            expected="a model with a service, a champion or a decision",
            found="none of that name",
            fix="Correct the name; `ml-platform status` lists the models.",
        )
    return steps


def removal_of_tables(
    prefix: str, lake: Lake, audit: AuditLog, decision: LifecycleDecision, declared: DeclaredNames
) -> list[LifecycleStep]:
    """Return the steps that drop the rows of the table ``prefix`` and of all tables below it.

    Earlier versions of the rows stay until `ml-platform clean` removes them; a version that a model pins stays as long
    as the model. Raises :class:`LifecycleError` for tables of a declaration that exists, and for no table of that name.
    """
    require_decider(f"Removal of '{prefix}'", decision.by, decision.reason)
    tables = [name for name in lake.catalog.tables() if name == prefix or name.startswith(f"{prefix}/")]
    owner = declared.owner_of(prefix)
    if not tables or owner is None:
        raise LifecycleError(
            f"Table '{prefix}'",
            expected="tables of one dataset, view or model, such as features/<view>",
            found="none of that name",
            fix="Correct the name; `ml-platform status` lists the tables without a declaration.",
        )
    if owner[1]:
        raise LifecycleError(
            f"Table '{prefix}'",
            expected="a table without a declaration",
            found=f"the declaration of '{owner[0]}'",
            fix="Delete the declaration first; otherwise the next run writes the table again.",
        )
    steps = []
    for table in tables:
        rows = lake.summary(table).rows if lake.catalog.segments(table, with_files=False) else 0
        if rows or not lake.shows_current_version(table):
            steps.append(LifecycleStep(f"drop the {rows} rows of '{table}'", _removal(table, lake, audit, decision)))
    return steps


def removal_of_dataset(
    dataset: str, lake: Lake, audit: AuditLog, decision: LifecycleDecision, declared: DeclaredNames
) -> list[LifecycleStep]:
    """Return the steps that drop the table of ``dataset`` and forget what was landed and checked.

    The landed files stay; they are data from outside. Raises :class:`LifecycleError` as :func:`removal_of_tables`.
    """
    steps = removal_of_tables(f"datasets/{dataset}", lake, audit, decision, declared)
    if _remembers(lake.state, dataset):
        steps.append(
            LifecycleStep(
                f"forget which files of '{dataset}' were read and checked; the files stay in the landing folder",
                lambda: _forget(lake.state, dataset),
            )
        )
    return steps


def _end_service(model: str, stores: PlatformStores, decision: LifecycleDecision) -> None:
    with stores.state.write():
        empty = change_desired_state(
            stores.state,
            model,
            lambda current: DesiredState(generation=current.generation),
            replace_unreadable=True,
        )
        store_streams(stores.state, model, [])
        facts = {"model": model, "reason": decision.reason, "generation": empty.generation}
        stores.audit.append(MODEL_RETIRED, actor=decision.by, at=decision.at, facts=facts)


def _removal(table: str, lake: Lake, audit: AuditLog, decision: LifecycleDecision) -> Callable[[], None]:
    def remove() -> None:
        partitions = sorted({each.partition for each in lake.catalog.segments(table, with_files=False)})
        facts = {"table": table, "partitions": len(partitions), "reason": decision.reason}

        def record() -> None:
            audit.append(TABLE_DROPPED, actor=decision.by, at=decision.at, facts=facts)

        if lake.drop_partitions(table, partitions, record) is None:
            lake.publish(table)

    return remove


def _remembers(state: StateStore, dataset: str) -> bool:
    with state.read() as connection:
        for table in TABLES_OF_DATASETS:
            if connection.scalar(sa.select(sa.func.count()).where(table.c.dataset == dataset)):
                return True
    return bool(_cursors(state, dataset))


def _forget(state: StateStore, dataset: str) -> None:
    with state.write() as connection:
        for table in TABLES_OF_DATASETS:
            connection.execute(sa.delete(table).where(table.c.dataset == dataset))
        delete_cursors(state, _cursors(state, dataset))


def _cursors(state: StateStore, dataset: str) -> list[str]:
    folders = (f"landing_requests/{dataset}/", f"source/{dataset}/")
    names = [folder + name for folder in folders for name in cursors_below(state, folder)]
    for own in (f"landing/{dataset}", EVOLUTIONS + dataset):
        names += [own for rest in cursors_below(state, own) if not rest]
    return names
