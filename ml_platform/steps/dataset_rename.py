"""The move of a dataset's history to another name, after its declaration was renamed.

Rows and records move in one transaction, then the landing folder. The table of the old name keeps its earlier versions,
because models pin them by that name. A command that was killed does the rest when it runs again.
"""

from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from ml_platform.data.dataset import table_of
from ml_platform.data.evolution_record import EVOLUTIONS
from ml_platform.data.lake import Lake
from ml_platform.data.landing import Landing
from ml_platform.registry.approvals import require_decider
from ml_platform.registry.audit import AuditLog
from ml_platform.state.cursors import cursors_below, delete_cursors, read_cursor, write_cursor
from ml_platform.state.schema import TABLES_OF_DATASETS, landed_files
from ml_platform.state.store import StateStore
from ml_platform.steps.lifecycle import (
    LifecycleDecision,
    LifecycleError,
    LifecycleStep,
    require_renamed_declaration,
)
from ml_platform.steps.orphans import DeclaredNames
from ml_platform.steps.table_move import copy_rows, record_move

DATASET_RENAMED = "dataset_renamed"
"""Kind of the audit record."""

RENAMED = "renamed_dataset/"
"""Prefix of the cursor with the old name of a dataset, and whether Dagster has its rows under the new one."""


def rename_of_dataset(
    old: str,
    new: str,
    lake: Lake,
    landing: Landing,
    audit: AuditLog,
    decision: LifecycleDecision,
    declared: DeclaredNames,
    report: Callable[[], object],
) -> list[LifecycleStep]:
    """Return the steps that move rows, records and landed files of ``old`` to ``new``; none when all have moved.

    ``report`` tells Dagster of the rows. Raises :class:`~ml_platform.steps.lifecycle.LifecycleError` for an old name
    that is declared, a new one that is not, a new one with rows or files, and an old one without any.
    """
    require_decider(f"Rename of '{old}'", decision.by, decision.reason)
    require_renamed_declaration("dataset", old, new, declared.datasets)
    steps = []
    done = read_cursor(lake.state, RENAMED + new)
    if done is None or done["from"] != old:
        _require_history(old, new, lake, landing)
        rows = _rows(lake, old)
        steps.append(
            LifecycleStep(
                f"move the {rows} rows of '{table_of(old)}' to '{table_of(new)}', with the records of its files and "
                "checks; earlier versions stay under the old name",
                lambda: _move(old, new, lake, audit, decision),
            )
        )
    else:
        steps += [
            LifecycleStep(f"publish '{table}' as a Delta table", _publication(lake, table))
            for table in (table_of(old), table_of(new))
            if lake.exists(table) and not lake.shows_current_version(table)
        ]
    if (landing.root / old).exists():
        steps.append(
            LifecycleStep(
                f"move the landing folder '{old}' to '{new}'",
                lambda: _move_folder(landing.root / old, landing.root / new),
            )
        )
    if steps or not done["is_reported"]:
        steps.append(LifecycleStep(f"report the rows of '{table_of(new)}' to Dagster", report))
    return steps


def record_rename_reported(state: StateStore, new: str) -> None:
    """Record that Dagster has the rows of ``new``."""
    write_cursor(state, RENAMED + new, {**read_cursor(state, RENAMED + new), "is_reported": True})


def _require_history(old: str, new: str, lake: Lake, landing: Landing) -> None:
    files = landing.root / new
    taken = [
        *([f"{_rows(lake, new)} rows"] if _rows(lake, new) else []),
        *(["landed files"] if files.exists() and any(files.iterdir()) else []),
    ]
    if taken:
        raise LifecycleError(
            f"Dataset '{new}'",
            expected="no rows and no landed files under the new name",
            found=" and ".join(taken),
            fix="Choose another name, or drop what the new name has: take its declaration away, run `ml-platform "
            f"dataset drop {new}`, move its landed files elsewhere, and declare it again.",
        )
    if not _rows(lake, old) and not (landing.root / old).exists():
        raise LifecycleError(
            f"Dataset '{old}'",
            expected="rows or landed files under the old name",
            found="none",
            fix="Correct the name; `ml-platform status` lists the datasets without a declaration.",
        )


def _rows(lake: Lake, dataset: str) -> int:
    return lake.catalog.totals(table_of(dataset))[0]


def _move(old: str, new: str, lake: Lake, audit: AuditLog, decision: LifecycleDecision) -> None:
    source, target = table_of(old), table_of(new)
    copied = copy_rows(lake, source, target)
    with lake.state.write() as connection:
        version = record_move(lake, copied, f"Dataset '{old}'")
        for table in TABLES_OF_DATASETS:
            connection.execute(sa.delete(table).where(table.c.dataset == new))
            connection.execute(sa.update(table).where(table.c.dataset == old).values(dataset=new))
        # The sensor of the new name counts its ticks from 0, and requests only files that are not published.
        of_new = sa.update(landed_files).where(landed_files.c.dataset == new)
        connection.execute(of_new.values(requested_sha256=None, requested_tick=None))
        _move_cursors(lake.state, old, new)
        write_cursor(lake.state, RENAMED + new, {"from": old, "is_reported": False})
        facts = {"dataset": new, "renamed_from": old, "table_version": version, "reason": decision.reason}
        audit.append(DATASET_RENAMED, actor=decision.by, at=decision.at, facts=facts)
    for name in (target, source):
        lake.publish(name)


def _move_cursors(state: StateStore, old: str, new: str) -> None:
    requests = f"landing_requests/{old}/"
    delete_cursors(
        state, [f"landing/{new}", f"landing/{old}", *(requests + name for name in cursors_below(state, requests))]
    )
    for name, value in cursors_below(state, f"source/{old}/").items():
        write_cursor(state, f"source/{new}/{name}", value)
        delete_cursors(state, [f"source/{old}/{name}"])
    delete_cursors(state, [RENAMED + old])
    changes = read_cursor(state, EVOLUTIONS + old)
    if changes is not None:
        write_cursor(state, EVOLUTIONS + new, changes)
        delete_cursors(state, [EVOLUTIONS + old])


def _move_folder(old: Path, new: Path) -> None:
    if new.exists():
        new.rmdir()
    old.rename(new)


def _publication(lake: Lake, table: str) -> Callable[[], None]:
    return lambda: lake.publish(table)
