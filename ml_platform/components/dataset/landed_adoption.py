"""Takes over what earlier releases knew about landed files and contract checks, once in a migrated home.

Those releases stored the digest of a published file in Dagster's materialization, the digests of requested files in the
cursor of the landing sensor, and a failed check in Dagster's history. Without them, the first tick would request every
file again, and the contract gate would not know of a failure.
"""

import json

import dagster as dg
import sqlalchemy as sa
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)

from ml_platform.components.dataset.table import CHECKS
from ml_platform.components.materializations import CONTENT_DIGEST, LANDED_DIGEST, latest_materializations
from ml_platform.data.contract_record import awaiting_adoption, end_adoption, record_failed
from ml_platform.data.lake import Lake
from ml_platform.state.schema import WHOLE, contract_results, landed_files

EVALUATIONS_READ = 200
"""Number of the latest failed evaluations of a check that are read."""


def adopt_published_files(lake: Lake, instance: dg.DagsterInstance) -> int:
    """Record the landed file of each published partition, and later failed checks; return the number of files.

    A file counts only when its materialization wrote the rows that the lake has. A home is adopted once; afterwards a
    call costs one query.
    """
    return sum(_adopt(lake, instance, dataset) for dataset in awaiting_adoption(lake.state))


def adopt_requests(lake: Lake, dataset: str, cursor: str | None) -> int:
    """Record the requests in ``cursor``, a JSON object of digests by partition; return the number of new ones.

    A file that has changed since is not marked, so it is requested. Another cursor counts as empty.
    """
    table, adopted = landed_files, 0
    with lake.state.write() as connection:
        for partition, digest in _old_cursor(cursor).items():
            same = (table.c.dataset == dataset) & (table.c.partition == partition) & (table.c.sha256 == digest)
            marked = sa.update(table).where(same, table.c.requested_sha256.is_(None))
            adopted += connection.execute(marked.values(requested_sha256=digest, requested_tick=0)).rowcount
    return adopted


def _adopt(lake: Lake, instance: dg.DagsterInstance, dataset: str) -> int:
    key = dg.AssetKey(["datasets", dataset])
    records = latest_materializations(instance, key)
    failed = _failures(instance, key)
    digests = lake.digests(f"datasets/{dataset}")
    table, adopted = contract_results, 0
    with lake.state.write() as connection:
        for partition, record in records.items():
            content, landed = record.metadata(CONTENT_DIGEST), record.metadata(LANDED_DIGEST)
            if landed is not None and content is not None and digests.get(partition) == content:
                same = (table.c.dataset == dataset) & (table.c.partition == (WHOLE if partition is None else partition))
                unknown = (table.c.passed_digest == content) & table.c.passed_landed_sha256.is_(None)
                adopted += connection.execute(
                    sa.update(table).where(same, unknown).values(passed_landed_sha256=landed)
                ).rowcount
        for partition, (at, check) in failed.items():
            if partition not in records or at > records[partition].at:
                record_failed(lake.state, dataset, partition, check=check, landed_sha256=None)
        end_adoption(lake.state, dataset)
    return adopted


def _failures(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str | None, tuple[float, str]]:
    """Return time and name of the last failed blocking check, by partition (None: the whole table)."""
    found: dict[str | None, tuple[float, str]] = {}
    for check in CHECKS:
        records = instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(key, check), limit=EVALUATIONS_READ, status={AssetCheckExecutionRecordStatus.FAILED}
        )
        for record in records:
            for partition in _partitions_of(record):
                found[partition] = max(found.get(partition, (0.0, "")), (record.create_timestamp, check))
    return found


def _partitions_of(record: AssetCheckExecutionRecord) -> list[str | None]:
    evaluation = record.evaluation
    if evaluation is None or evaluation.severity != dg.AssetCheckSeverity.ERROR:
        return []
    table = evaluation.metadata.get("violations")
    named = {str(row.data["partition"]) for row in table.records} if isinstance(table, dg.TableMetadataValue) else set()
    return [None if name == "whole" else name for name in sorted(named)]


def _old_cursor(cursor: str | None) -> dict[str, str]:
    try:
        stored = json.loads(cursor or "{}")
    except ValueError:
        return {}
    return {str(name): str(digest) for name, digest in stored.items()} if isinstance(stored, dict) else {}
