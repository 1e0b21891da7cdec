"""Finds broken contracts in the data of a model, from the check records of the instance and the digests of the lake.

The datasets already publish no broken data. The contract gate verifies this independently, so that it can fail.
"""

import dagster as dg
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)

from ml_platform.components.dataset.table import CHECKS
from ml_platform.components.materializations import CONTENT_DIGEST, MaterializationRecord, latest_materializations
from ml_platform.data.dataset import table_of
from ml_platform.data.lake import Lake
from ml_platform.steps.model import BoundModel

EVALUATIONS_READ = 200
"""Number of the latest failed evaluations of a check that are read."""


def broken_contracts(instance: dg.DagsterInstance, model: BoundModel, month: str, lake: Lake) -> list[str]:
    """Return one message per partition up to ``month`` with a broken contract, among the datasets that ``model`` reads.

    A partition must meet three conditions. Its checks passed on record. The lake contains the rows that passed, by the
    digests of its commits. No blocking check has failed since then; after such a failure, the lake still contains the
    earlier rows.
    """
    names = {*model.declared.examples.sources, *(s.dataset for view in model.stored_views for s in view.sources)}
    return [message for name in sorted(names) for message in _broken(instance, name, month, lake)]


def _broken(instance: dg.DagsterInstance, name: str, month: str, lake: Lake) -> list[str]:
    key = dg.AssetKey(["datasets", name])
    digests = {part: digest for part, digest in lake.digests(table_of(name)).items() if part is None or part <= month}
    if not digests:
        return [f"{name}: no rows are published"]
    materialized, failed = latest_materializations(instance, key), _failures(instance, key)
    messages = []
    for part, digest in digests.items():
        message = _digest_mismatch(materialized.get(part), digest) or _failed_since(
            materialized.get(part), failed.get(part)
        )
        messages += [f"{name}{f' {part}' if part else ''}: {message}"] if message else []
    return messages


def _digest_mismatch(materialized: MaterializationRecord | None, digest: str) -> str | None:
    if materialized is None:
        return "no passed contract check is recorded"
    passed = materialized.metadata(CONTENT_DIGEST)
    return None if passed == digest else f"contains rows {digest[:12]}, but the checks passed for {str(passed)[:12]}"


def _failures(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str | None, tuple[float, str]]:
    """Return time and name of the last failed blocking check, by partition (None: the whole table)."""
    found: dict[str | None, tuple[float, str]] = {}
    for check in CHECKS:
        records = instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(key, check),
            limit=EVALUATIONS_READ,
            status={AssetCheckExecutionRecordStatus.FAILED},
        )
        for record in records:
            for part in _partitions_of(record):
                found[part] = max(found.get(part, (0.0, "")), (record.create_timestamp, check))
    return found


def _partitions_of(record: AssetCheckExecutionRecord) -> list[str | None]:
    evaluation = record.evaluation
    if evaluation is None or evaluation.severity != dg.AssetCheckSeverity.ERROR:
        return []
    table = evaluation.metadata.get("violations")
    named = {str(row.data["partition"]) for row in table.records} if isinstance(table, dg.TableMetadataValue) else set()
    return [None if name == "whole" else name for name in sorted(named)]


def _failed_since(materialized: MaterializationRecord | None, failed: tuple[float, str] | None) -> str | None:
    if failed is None:
        return None
    at, check = failed
    return f"check '{check}' failed for a later landed file" if materialized is None or at > materialized.at else None
