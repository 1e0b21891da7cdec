"""The change of a dataset's history to its contract: one version of the table, with the record of who decided and why.

Rows, contract records, the record of the change and the audit record are one transaction. A command that was killed
before has changed nothing; one that was killed afterwards has left only the report to Dagster, which a repeated command
makes.
"""

from collections.abc import Callable, Sequence

import polars as pl

from ml_platform.data.contract import ContractReport
from ml_platform.data.contract_record import record_changed_rows
from ml_platform.data.dataset import DatasetSource
from ml_platform.data.evolution import ColumnChanges, EvolutionError, EvolutionRequest, column_changes
from ml_platform.data.evolution_record import Evolution, evolutions, record_evolution
from ml_platform.data.expectations import check_expectations
from ml_platform.data.lake import PARTITION, Lake
from ml_platform.data.lake_rewrite import RewrittenTable, rewrite
from ml_platform.data.schema import check_schema
from ml_platform.registry.approvals import require_decider
from ml_platform.registry.audit import AuditLog
from ml_platform.state.schema import WHOLE
from ml_platform.state.store import now_text
from ml_platform.steps.lifecycle import LifecycleDecision, LifecycleStep

DATASET_EVOLVED = "dataset_evolved"
"""Kind of the audit record."""


def evolution_of_dataset(
    source: DatasetSource,
    request: EvolutionRequest,
    lake: Lake,
    audit: AuditLog,
    decision: LifecycleDecision,
    report: Callable[[], object],
    *,
    check: bool = False,
) -> list[LifecycleStep]:
    """Return the steps that bring the stored rows of a dataset to its contract; none when they have its columns.

    With ``check``, all rows are changed and checked in memory first, as a dry run does. ``report`` tells Dagster of the
    new rows. Earlier versions of the table keep their columns, so a model that pins one
    still reproduces. Raises :class:`~ml_platform.data.evolution.EvolutionError` as
    :func:`~ml_platform.data.evolution.column_changes`, and for a dataset without a table.
    """
    require_decider(f"Evolution of '{source.name}'", decision.by, decision.reason)
    stored = lake.catalog.table(source.table)
    if stored is None:
        raise EvolutionError(
            f"Dataset '{source.name}'",
            expected="a table with the columns of an earlier contract",
            found="no table",
            fix=f"Nothing has to change: `ml-platform materialize --select 'key:\"{source.table}\"'` makes it.",
        )
    changes = column_changes(source.name, stored.columns.schema, source.contract, request)
    steps = []
    if changes and check:
        for partition in lake.partitions(source.table) if stored.partitioned else [None]:
            rows = lake.scan(source.table, partitions=None if partition is None else [partition]).collect()
            _changed(source, changes, partition or WHOLE, rows.drop(PARTITION, strict=False))
    if changes:
        partitions = len({each.partition for each in lake.catalog.segments(source.table, with_files=False)})
        count, _ = lake.catalog.totals(source.table)
        where = f"{count} rows of '{source.table}'" + (f", {partitions} partitions" if stored.partitioned else "")
        text = f"{'; '.join(changes.texts())}: in {where}, as version {stored.version + 1}; earlier versions stay"
        steps.append(LifecycleStep(text, lambda: _evolve(source, changes, lake, audit, decision)))
    elif not lake.shows_current_version(source.table):
        steps.append(LifecycleStep(f"publish '{source.table}' as a Delta table", lambda: lake.publish(source.table)))
    if changes or any(not each.is_reported for each in evolutions(lake.state, source.name)):
        steps.append(LifecycleStep(f"report the rows of '{source.table}' to Dagster", report))
    return steps


def _evolve(
    source: DatasetSource, changes: ColumnChanges, lake: Lake, audit: AuditLog, decision: LifecycleDecision
) -> None:
    def record(written: RewrittenTable) -> None:
        record_changed_rows(lake.state, source.name, written.digests)
        made = Evolution(now_text(), written.version, changes.renamed, changes.added, changes.dropped)
        record_evolution(lake.state, source.name, made)
        facts = {
            "dataset": source.name,
            "table_version": written.version,
            "changes": changes.texts(),
            "reason": decision.reason,
        }
        audit.append(DATASET_EVOLVED, actor=decision.by, at=decision.at, facts=facts)

    rewrite(lake, source.table, lambda partition, rows: _changed(source, changes, partition, rows), record)


def _changed(source: DatasetSource, changes: ColumnChanges, partition: str, rows: pl.DataFrame) -> pl.DataFrame:
    changed = changes.apply(rows, partition)
    if changed.height:
        _require_contract(source, partition, changed)
    return changed


def _require_contract(source: DatasetSource, partition: str, rows: pl.DataFrame) -> None:
    name = partition or None
    subject = source.subject(name)
    checks: Sequence[Callable[[], ContractReport]] = (
        lambda: check_schema(rows, source.contract, subject, source.keys),
        lambda: check_expectations(rows, source.contract, source.keys, subject, None, source.period(name)),
    )
    for check in checks:
        if errors := check().errors:
            raise EvolutionError(
                str(subject),
                expected="rows that meet the contract after the change",
                found=f"{len(errors)} broken rules: {errors[0].message.rstrip('.')}",
                fix="Correct --fill or the contract. Nothing was changed.",
            )
