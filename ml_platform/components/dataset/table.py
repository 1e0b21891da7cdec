"""The asset `datasets/<name>`: a table in the lake, and its blocking checks.

The checks run inside the step of the asset, between staging and publishing, so readers never see rows that break the
contract. The step records the results first. Then it fails, and no downstream asset runs. The check `quality` compares
the rows with the usual ones, and stops them only if the dataset declares so.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from ml_platform.components.code_record import record_code
from ml_platform.components.dataset.declaration import DatasetDeclaration
from ml_platform.components.dataset.quality import DESCRIPTION, fail_when_blocked, quality_metadata, quality_result
from ml_platform.components.declaration import on_changed_code, partitions_definition
from ml_platform.components.materializations import COVERED_CODE, LANDED_DIGEST, table_metadata
from ml_platform.components.metadata import description_with_unit, records_table
from ml_platform.components.metered import metered
from ml_platform.data.contract import Contract, ContractReport
from ml_platform.data.quality_settings import CHECK
from resources.isolated_steps import imports_tag
from resources.lake import LakeResource

if TYPE_CHECKING:
    from ml_platform.data.dataset import PartitionAudit, PublishedPartition
    from ml_platform.data.landing_quality import JudgedPartition

SOURCE_RETRIES = 3
"""Further attempts to read a source that is away or that changes."""

SOURCE_RETRY_SECONDS = 20.0
"""Time before the first of them; each further one waits twice as long."""

CHECKS: Mapping[str, str] = {
    "landed": "The file has landed, can be read, and has at least the minimum number of rows.",
    "schema": "The file has exactly the declared columns, with their types.",
    "expectations": "Values, keys and row counts meet the contract (Great Expectations).",
}


def table(declared: DatasetDeclaration) -> dg.AssetsDefinition:
    """Return the asset `datasets/<name>`: the rows of the landed files, published only if they meet the contract."""

    @dg.asset(
        key=declared.key,
        description=declared.description,
        partitions_def=partitions_definition(declared.partitions) if declared.partitions else None,
        # One step per range of partitions, so imports and start-up happen once.
        backfill_policy=dg.BackfillPolicy.single_run() if declared.partitions else None,
        deps=[dg.AssetKey(["datasets", name]) for name in declared.lookups],
        op_tags=imports_tag("great_expectations"),
        check_specs=[
            *(
                dg.AssetCheckSpec(name, asset=declared.key, description=description, blocking=True)
                for name, description in CHECKS.items()
            ),
            dg.AssetCheckSpec(
                CHECK,
                asset=declared.key,
                description=DESCRIPTION,
                blocking=declared.quality.on_critical == "block",
            ),
        ],
        kinds={"polars", "deltalake"},
        freshness_policy=_freshness_policy(declared),
        owners=declared.owners,
        group_name=declared.group,
        tags=declared.tags,
        code_version=declared.code_version or declared.code_hash(),
        automation_condition=on_changed_code() if declared.on_code_change == "automatic" else None,
        metadata={
            "dagster/column_schema": _column_schema(declared.contract, declared.keys),
            "dagster/table_name": f"datasets/{declared.name}",
            COVERED_CODE: declared.covered_code(),
            "keys": declared.keys,
            **({"loader": declared.loader} if declared.loader else {}),
            **({"source": declared.source.describe()} if declared.source else {}),
            **({"event_time": declared.event_time} if declared.event_time else {}),
        },
    )
    @metered
    def dataset(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[Any]]:
        from ml_platform.data.dataset import audit_partition, expire, publish, record_failures
        from ml_platform.data.landing_quality import judge_landed, record_blocked, record_judged
        from ml_platform.data.scratch import scratch_folder

        record_code(context, lake.lake().state)
        source = declared.engine_source(lake)
        partitions = list(context.partition_keys) if declared.partitions else [None]
        with scratch_folder(declared.name) as staging:
            with _retried_when_away(context):
                audits = [
                    audit_partition(source, partition, lake.landing(), staging, lake.data_docs())
                    for partition in partitions
                ]
            record_failures(audits, lake.lake())
            yield from _check_results(audits, lake)
            _fail_when_broken(audits)
            judged = judge_landed(audits, declared.quality, lake.lake(), datetime.now(UTC), declared.arrival_in_zone)
            yield quality_result(judged, declared.quality)
            if declared.quality.on_critical == "block":
                record_blocked(judged, lake.lake())
            fail_when_blocked(judged, declared.quality)
            published = [publish(each.audit, lake.lake(), partial(record_judged, each, lake.lake())) for each in judged]
        if declared.retention_months:
            expired = expire(source, declared.retention_months, lake.lake())
            context.log.info(f"Partitions removed after their retention: {expired}")
        for each, compared in zip(published, judged, strict=True):
            if each.audit.partition:
                metadata = _metadata(each, compared, lake)
                context.add_asset_metadata(metadata, partition_key=each.audit.partition)
        yield dg.MaterializeResult(
            metadata=_metadata(published[0], judged[0], lake) if declared.partitions is None else None,
            data_version=dg.DataVersion(_combined_digest(published)),
        )

    return dataset


def _freshness_policy(declared: DatasetDeclaration) -> dg.FreshnessPolicy | None:
    found = declared.freshness
    if found is None:
        return None
    return dg.FreshnessPolicy.time_window(fail_window=found.fail_window, warn_window=found.warn_window)


@contextmanager
def _retried_when_away(context: dg.AssetExecutionContext) -> Iterator[None]:
    """Ask Dagster for another attempt when the source is away or changes; nothing was published yet.

    After the last attempt the run fails, and the sensor requests the partitions again.
    """
    from ml_platform.data.sources.source import SourceAwayError, SourceChangedError

    try:
        yield
    except (SourceAwayError, SourceChangedError) as error:
        if context.retry_number < SOURCE_RETRIES:
            context.log.warning(str(error))
            wait = SOURCE_RETRY_SECONDS * 2**context.retry_number
            raise dg.RetryRequested(max_retries=SOURCE_RETRIES, seconds_to_wait=wait) from error
        raise dg.Failure(str(error), allow_retries=False) from error


def _check_results(audits: "Sequence[PartitionAudit]", lake: LakeResource) -> Iterator[dg.AssetCheckResult]:
    """Yield one result per evaluated check. It passes if it was evaluated and passed for every partition."""
    for name in CHECKS:
        reports = [report for each in audits for report in each.reports if report.check == name]
        if reports:
            errors = [violation for report in reports for violation in report.errors]
            warned = any(report.violations for report in reports) and not errors
            docs = {
                each.partition or "whole": lake.link(each.docs)
                for each in audits
                if each.docs and name == "expectations"
            }
            yield dg.AssetCheckResult(
                check_name=name,
                passed=not errors and not warned and len(reports) == len(audits),
                severity=dg.AssetCheckSeverity.WARN if warned else dg.AssetCheckSeverity.ERROR,
                description=errors[0].message if errors else CHECKS[name],
                metadata=_check_metadata(reports, docs),
            )


def _fail_when_broken(audits: "Sequence[PartitionAudit]") -> None:
    from ml_platform.data.contract import ContractViolatedError
    from ml_platform.data.dataset import require_passed

    try:
        require_passed(audits)
    except ContractViolatedError as error:
        # No retry: the same file would break the same rule again.
        raise dg.Failure(str(error), allow_retries=False) from error


def _check_metadata(reports: Sequence[ContractReport], docs: Mapping[str, dg.UrlMetadataValue]) -> dict[str, Any]:
    violations = [(report, violation) for report in reports for violation in report.violations]
    metadata: dict[str, Any] = {
        "rows": sum(report.rows for report in reports),
        "checked_rules": sum(report.checked_rules for report in reports),
        "broken_rules": len(violations),
    }
    metadata |= {f"data_docs {partition}": link for partition, link in docs.items()}
    if violations:
        metadata["violations"] = records_table(
            {
                "partition": report.subject.partition or "whole",
                "column": violation.column or "",
                "rule": violation.rule,
                "count": violation.count,
                "examples": json.dumps(violation.examples, default=str),
                "message": violation.message,
            }
            for report, violation in violations
        )
    return metadata


def _metadata(published: "PublishedPartition", judged: "JudgedPartition", lake: LakeResource) -> dict[str, Any]:
    version, landed = published.version, published.audit.landed
    return {
        **table_metadata(version),
        **({LANDED_DIGEST: landed.sha256, "landed_size_bytes": landed.size_bytes} if landed else {}),
        **({"data_docs": lake.link(published.audit.docs)} if published.audit.docs else {}),
        **quality_metadata(judged),
    }


def _combined_digest(published: "Sequence[PublishedPartition]") -> str:
    """Return the content digest of one partition, or a digest of several: equal content gives an equal data version."""
    from hashlib import sha256

    digests = [each.version.sha256 for each in published]
    return digests[0] if len(digests) == 1 else sha256("".join(digests).encode()).hexdigest()


def _column_schema(contract: Contract, keys: Sequence[str]) -> dg.TableSchema:
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=rule.name,
                type=rule.type,
                description=description_with_unit(rule.description, rule.unit),
                constraints=dg.TableColumnConstraints(nullable=rule.nullable, unique=[rule.name] == list(keys)),
                tags={"pii": "true"} if rule.pii else {},
            )
            for rule in contract.columns
        ]
    )
