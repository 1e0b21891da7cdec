"""Which contracts are broken in the data that a model is judged on, by what the instance recorded and the lake holds.

Apart because the gate must be able to fail: that broken data are never published is what is checked here, not assumed.
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
"""Newest evaluations of a check that are looked at."""


def broken_contracts(instance: dg.DagsterInstance, model: BoundModel, month: str, lake: Lake) -> list[str]:
    """Return what breaks a contract among the datasets that ``model`` reads, up to ``month``; none where all holds.

    A partition must be on record as let through by its checks, must hold the rows that they let through (by the
    digests of the lake's commits), and none of its blocking checks may have failed since: the lake then still holds
    what was there before.
    """
    names = {*model.declared.examples.sources, *(s.dataset for view in model.stored_views for s in view.sources)}
    return [message for name in sorted(names) for message in _broken(instance, name, month, lake)]


def _broken(instance: dg.DagsterInstance, name: str, month: str, lake: Lake) -> list[str]:
    key = dg.AssetKey(["datasets", name])
    digests = {part: digest for part, digest in lake.digests(table_of(name)).items() if part is None or part <= month}
    if not digests:
        return [f"{name}: nothing is published"]
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
        return "no contract check is on record"
    passed = materialized.metadata(CONTENT_DIGEST)
    return None if passed == digest else f"holds {digest[:12]}, its checks let {str(passed)[:12]} through"


def _failures(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str | None, tuple[float, str]]:
    """Return when which blocking check last failed, by partition (None: the whole table)."""
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
    return f"'{check}' failed since, on what landed last" if materialized is None or at > materialized.at else None
