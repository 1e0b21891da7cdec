"""The rename of a model, after its declaration was renamed: its history follows, its old endpoint goes on for a time.

Versions are immutable, so a version keeps its number, files and manifest; the manifest names the model as it was called
in training. The audit log keeps every record as it is, and one record of the rename links both names. A bento answers
under the name in its contract, so the versions in service get a bento of the new name. A command that was killed does
the rest when it runs again.
"""

from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from ml_platform.data.lake import Lake
from ml_platform.monitoring.drift_history import move_drift_history
from ml_platform.monitoring.estimates import ESTIMATORS
from ml_platform.monitoring.maturity_record import LABEL_MATURITY
from ml_platform.registry.approvals import APPROVAL_KIND, require_decider
from ml_platform.registry.audit import MODEL_RENAMED
from ml_platform.registry.champion_history import CHAMPION_KIND, current_champion
from ml_platform.registry.open_waits import WAITING_AREA
from ml_platform.registry.promotion import CHALLENGER_KIND, reconcile
from ml_platform.registry.verdict_record import VERDICT_KIND
from ml_platform.serving.desired_state import ROLES, change_desired_state, read_desired_state
from ml_platform.serving.streams.declared_streams import rename_streams
from ml_platform.serving.verified_bentos import verified_bento_of
from ml_platform.state.cursors import cursors_below, delete_cursors, write_cursor
from ml_platform.state.schema import (
    cost_days,
    joined_labels,
    lake_pins,
    performance_periods,
    prediction_days,
    retraining_decisions,
    step_costs,
    verdicts,
)
from ml_platform.steps.lifecycle import (
    LifecycleDecision,
    LifecycleError,
    LifecycleStep,
    require_renamed_declaration,
)
from ml_platform.steps.model import BoundModel
from ml_platform.steps.orphans import DeclaredNames
from ml_platform.steps.packaging import package_version, verified_version_of
from ml_platform.steps.pins import HOLDER_PREFIX
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.steps.rollouts import record_rollout
from ml_platform.steps.table_move import copy_rows, record_move
from ml_platform.steps.version_cleaning import DELETED_VERSIONS

DECISIONS = (CHAMPION_KIND, CHALLENGER_KIND, VERDICT_KIND, APPROVAL_KIND)
"""Kinds of audit records that are the history of a model."""

RENAMED_TABLES = (
    *(joined_labels, prediction_days, performance_periods, verdicts, retraining_decisions),
    *(step_costs, cost_days),
)
"""Tables whose column `model` follows a rename; the assets in the costs keep their keys of that time."""


def rename_of_model(
    old: str, model: BoundModel, stores: PlatformStores, decision: LifecycleDecision, declared: DeclaredNames
) -> list[LifecycleStep]:
    """Return the steps that give the history and the service of ``old`` to ``model``; none when all have moved.

    The service of the old name goes on until `ml-platform model retire` ends it. Raises
    :class:`~ml_platform.steps.lifecycle.LifecycleError` for an old name that is declared, a new one that is not or that
    has a history of its own, and an old one without any.
    """
    require_decider(f"Rename of '{old}'", decision.by, decision.reason)
    new = model.name
    require_renamed_declaration("model", old, new, declared.models)
    steps, tables = [], _tables(old, stores.lake)
    last = stores.audit.latest(MODEL_RENAMED, new)
    if last is None or last.facts["renamed_from"] != old:
        _require_history(old, new, stores)
        steps.append(
            LifecycleStep(
                f"move the rows of {len(tables)} tables below 'models/{old}' to 'models/{new}', and link the verdicts, "
                "approvals, champions and predictions; earlier versions of the tables stay under the old name",
                lambda: _move(old, new, stores, decision),
            )
        )
    else:
        steps += [
            LifecycleStep(f"publish '{table}' as a Delta table", _publication(stores.lake, table))
            for table in stores.lake.catalog.tables()
            if table.startswith((f"models/{old}/", f"models/{new}/")) and not stores.lake.shows_current_version(table)
        ]
    if _is_registered(old, new, stores):
        steps.append(
            LifecycleStep(
                f"rename model and experiment '{old}' to '{new}' in MLflow; versions keep their numbers and aliases",
                lambda: _rename_registered(old, new, stores),
            )
        )
    if studies := _studies(old, stores):
        steps.append(
            LifecycleStep(f"rename {len(studies)} files of searches", lambda: _rename_studies(old, new, stores))
        )
    served = read_desired_state(stores.state, old)
    serving = [] if served.successor == new else [int(each.version) for each in served.served_versions]
    steps += [_packaging(model, version, stores) for version in serving if not _has_bento(new, version, stores)]
    if serving:
        versions = ", ".join(map(str, serving))
        steps.append(
            LifecycleStep(
                f"serve version {versions} as '{new}'; '/v1/{old}/' goes on, its answers carry the header Deprecation",
                lambda: _roll_out(old, new, stores, decision),
            )
        )
    # The bento for a rollback comes last: if it cannot be built, the service has its new name all the same.
    champion = current_champion(stores.audit, new) or current_champion(stores.audit, old)
    rollback = [] if champion is None else [champion.version, champion.previous_version]
    steps += [
        _packaging(model, version, stores)
        for version in rollback
        if version is not None
        and version not in serving
        and verified_bento_of(stores.state, old, str(version)) is not None
        and not _has_bento(new, version, stores)
    ]
    return steps


def _require_history(old: str, new: str, stores: PlatformStores) -> None:
    taken = [
        *(["recorded decisions"] if _decisions(new, stores) else []),
        *(["rows"] if _tables(new, stores.lake) else []),
        *(["versions in MLflow"] if new in stores.registry.names() else []),
    ]
    if taken:
        raise LifecycleError(
            f"Model '{new}'",
            expected="no history under the new name",
            found=" and ".join(taken),
            fix="Choose a name that no model has had.",
        )
    if not (_decisions(old, stores) or _tables(old, stores.lake) or old in stores.registry.names()):
        raise LifecycleError(
            f"Model '{old}'",
            expected="rows, versions or decisions under the old name",
            found="none",
            fix="Correct the name; `ml-platform status` lists the models without a declaration.",
        )


def _decisions(model: str, stores: PlatformStores) -> bool:
    return any(stores.audit.latest(kind, model) is not None for kind in DECISIONS)


def _tables(model: str, lake: Lake) -> list[str]:
    """Return the tables of ``model`` with current rows: training sets, predictions, outcomes."""
    tables = [name for name in lake.catalog.tables() if name.startswith(f"models/{model}/")]
    return [name for name in tables if lake.catalog.segments(name, with_files=False)]


def _is_registered(old: str, new: str, stores: PlatformStores) -> bool:
    tracking = stores.registry.tracking
    return old in stores.registry.names() or (tracking.has_experiment(old) and not tracking.has_experiment(new))


def _has_bento(model: str, version: int, stores: PlatformStores) -> bool:
    return verified_bento_of(stores.state, model, str(version)) is not None


def _packaging(model: BoundModel, version: int, stores: PlatformStores) -> LifecycleStep:
    def package() -> None:
        registered = stores.registry.version(model.name, version)
        package_version(model, registered, registered.partition, stores)

    return LifecycleStep(f"build and verify the bento of version {version} as '{model.name}'", package)


def _move(old: str, new: str, stores: PlatformStores, decision: LifecycleDecision) -> None:
    lake = stores.lake
    with stores.audit.exclusive(old), stores.audit.exclusive(new):
        copied = [
            copy_rows(lake, table, f"models/{new}/{table.removeprefix(f'models/{old}/')}")
            for table in _tables(old, lake)
        ]
        with stores.state.write() as connection:
            for each in copied:
                record_move(lake, each, f"Model '{old}'")
            for table in (
                joined_labels,
                prediction_days,
                performance_periods,
                verdicts,
                retraining_decisions,
                step_costs,
                cost_days,
            ):
                renamed = sa.update(table).where(table.c.model == old).values(model=new)
                connection.execute(renamed)
            _move_pins(connection, old, new)
            _move_cursors(old, new, stores)
            facts = {
                "model": new,
                "renamed_from": old,
                "tables": [each.source for each in copied],
                "reason": decision.reason,
            }
            stores.audit.append(MODEL_RENAMED, actor=decision.by, at=decision.at, facts=facts)
    for each in copied:
        lake.publish(each.target)
        lake.publish(each.source)


def _move_pins(connection: sa.Connection, old: str, new: str) -> None:
    # Without a holder of a known model, cleaning would release the rows that the versions were trained on.
    holder, prefix = lake_pins.c.holder, f"{HOLDER_PREFIX}{old}/"
    pins = connection.execute(sa.select(holder).where(holder.startswith(prefix, autoescape=True)).distinct())
    for found in list(pins.scalars()):
        moved = f"{HOLDER_PREFIX}{new}/{found.removeprefix(prefix)}"
        connection.execute(sa.update(lake_pins).where(holder == found).values(holder=moved))


def _move_cursors(old: str, new: str, stores: PlatformStores) -> None:
    deleted = f"{DELETED_VERSIONS}{old}/"
    for name, entry in cursors_below(stores.state, deleted).items():
        write_cursor(stores.state, f"{DELETED_VERSIONS}{new}/{name}", {**entry, "model": new})
        delete_cursors(stores.state, [deleted + name])
    move_drift_history(stores.state, old, new)
    # The outcomes and the removal of personal values count segments; the copied ones are new. Waits are found again.
    areas = ("outcomes", "personal_values", WAITING_AREA)
    delete_cursors(stores.state, [f"{area}/{name}" for area in areas for name in (old, new)])
    # These are computed again from the outcomes and from the evaluations.
    estimators = [f"{ESTIMATORS}{old}/{version}" for version in cursors_below(stores.state, f"{ESTIMATORS}{old}/")]
    delete_cursors(stores.state, [LABEL_MATURITY + old, *estimators])


def _rename_registered(old: str, new: str, stores: PlatformStores) -> None:
    with stores.audit.exclusive(new):
        stores.registry.rename(old, new)
        if new in stores.registry.names():
            reconcile(stores.registry, stores.audit, new)


def _studies(model: str, stores: PlatformStores) -> list[Path]:
    """Return the files with the trials of the searches of ``model``, one for each trainer."""
    return sorted((stores.home.models / "studies").glob(f"{model}-*.db"))


def _rename_studies(old: str, new: str, stores: PlatformStores) -> None:
    for path in _studies(old, stores):
        path.rename(path.with_name(new + path.name.removeprefix(old)))


def _roll_out(old: str, new: str, stores: PlatformStores, decision: LifecycleDecision) -> None:
    before = read_desired_state(stores.state, old)
    served = {role: each for role in ROLES if (each := getattr(before, role)) is not None}
    verified = {
        role: verified_version_of(stores.registry.version(new, int(each.version)), stores)
        for role, each in served.items()
    }
    deprecated = {"successor": new, "deprecated_since": int(decision.at.timestamp())}
    with stores.state.write():
        desired = change_desired_state(
            stores.state,
            new,
            lambda current: before.model_copy(
                update={**verified, "successor": None, "deprecated_since": None, "generation": current.generation}
            ),
            replace_unreadable=True,
        )
        change_desired_state(stores.state, old, lambda current: current.model_copy(update=deprecated))
        rename_streams(stores.state, old, new)
        record_rollout(stores.audit, new, desired, by=decision.by, at=decision.at)


def _publication(lake: Lake, table: str) -> Callable[[], object]:
    return lambda: lake.publish(table)
