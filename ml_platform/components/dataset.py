"""The component `Dataset`: a landed file becomes `datasets/<name>`, with three blocking checks and a landing sensor.

The checks run inside the step of the asset, between staging and publishing, so that what breaks its contract is never
seen by a reader. Their results are recorded first; then the step fails, and nothing downstream runs.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import dagster as dg
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG
from pydantic import Field

from ml_platform.components.declaration import Declaration, months_definition
from ml_platform.components.materialized import newest, table_metadata
from ml_platform.components.scaffolding import DatasetScaffolder
from ml_platform.components.shown import with_unit
from ml_platform.data.canonical import value_digest
from ml_platform.data.contract import Contract, ContractReport
from ml_platform.data.partitions import MonthlyPartitions, shift_month
from ml_platform.data.source_hash import source_hash
from resources.lake import LakeResource

if TYPE_CHECKING:
    from ml_platform.data.dataset import Audit, Published, Source

LANDED_DIGEST = "landed_sha256"
"""Metadata of a materialization: the digest of the landed file that it read."""

CHECKS: Mapping[str, str] = {
    "landed": "The file has landed, can be read, and has enough rows.",
    "schema": "Every declared column is there with its type, and no other.",
    "expectations": "Values, keys and counts are as the contract says, according to Great Expectations.",
}

Owner = Annotated[str, Field(pattern=r"^(team:[\w.-]+|[^@\s]+@[^@\s]+)$")]


@dg.scaffold_with(DatasetScaffolder)
class Dataset(Declaration):
    """A table of the lake, read from landed files and published only while its contract holds."""

    name: str = Field(description="Name of the dataset: its asset is datasets/<name>.", pattern=r"^[a-z][a-z0-9_]*$")
    description: str = Field(description="What one row is, and where it comes from.")
    loader: str = Field(
        description="Function package.module:function(path, **lookups) that returns a Polars DataFrame."
    )
    lookups: list[str] = Field(
        default_factory=list,
        description="Datasets without partitions that the loader also receives, by name, as tables.",
    )
    keys: list[str] = Field(min_length=1, description="Columns that together identify one row of a partition.")
    partitions: MonthlyPartitions | None = Field(
        default=None, description="Months in which it lands; none for a table that is replaced as a whole."
    )
    event_time: str | None = Field(
        default=None, description="Timestamp column that must lie in the partition's month, in its time zone."
    )
    contract: Contract = Field(description="What the table promises.")
    retention_months: int | None = Field(
        default=None, ge=1, description="How many months stay in the newest version of the table; none keeps all."
    )
    owners: list[Owner] = Field(min_length=1, description="Who answers for it: an address, or team:<name>.")
    group: str = Field(default="datasets", description="Group in which the asset is shown.")
    tags: dict[str, str] = Field(default_factory=dict, description="Tags of the asset.")
    code_version: str | None = Field(
        default=None, description="Version of the loader and the contract; none: a hash of both, so none is forgotten."
    )

    @property
    def key(self) -> dg.AssetKey:
        return dg.AssetKey(["datasets", self.name])

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        self._demand_known_columns()
        self._demand_known_expectations()
        return dg.Definitions(assets=[self._table()], sensors=[self._landing_sensor()])

    def source(self, lake: LakeResource) -> "Source":
        """Return what the engine needs to know of this dataset, with its lookups read from ``lake``."""
        from ml_platform.data.dataset import Source, table_of

        return Source(
            name=self.name,
            loader=self.function_at("loader", self.loader),
            contract=self.contract,
            keys=self.keys,
            partitions=self.partitions,
            event_time=self.event_time,
            lookups={name: lake.lake().scan(table_of(name)).collect() for name in self.lookups},
            lines={
                rule.name: self.line("contract", "columns", place) for place, rule in enumerate(self.contract.columns)
            },
            declared_at=self.line("contract"),
        )

    def _table(self) -> dg.AssetsDefinition:
        self.function_at("loader", self.loader)

        @dg.asset(
            key=self.key,
            description=self.description,
            partitions_def=months_definition(self.partitions) if self.partitions else None,
            # A range of months is one step: its fixed costs are paid once.
            backfill_policy=dg.BackfillPolicy.single_run() if self.partitions else None,
            deps=[dg.AssetKey(["datasets", name]) for name in self.lookups],
            check_specs=[
                dg.AssetCheckSpec(name, asset=self.key, description=description, blocking=True)
                for name, description in CHECKS.items()
            ],
            kinds={"polars", "deltalake"},
            owners=self.owners,
            group_name=self.group,
            tags=self.tags,
            code_version=self.code_version or self._code_hash(),
            metadata={
                "dagster/column_schema": _column_schema(self.contract, self.keys),
                "dagster/table_name": f"datasets/{self.name}",
                "keys": self.keys,
                "loader": self.loader,
                **({"event_time": self.event_time} if self.event_time else {}),
            },
        )
        def dataset(
            context: dg.AssetExecutionContext, lake: LakeResource
        ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
            import tempfile
            from pathlib import Path

            from ml_platform.data.dataset import audit, expire, publish

            source = self.source(lake)
            partitions = list(context.partition_keys) if self.partitions else [None]
            with tempfile.TemporaryDirectory(prefix=f"{self.name}-") as staging:
                audits = [
                    audit(source, partition, lake.landing(), Path(staging), lake.data_docs())
                    for partition in partitions
                ]
                yield from _check_results(audits, lake)
                _fail_when_broken(audits)
                published = [publish(each, lake.lake()) for each in audits]
            if self.retention_months:
                context.log.info(f"Past retention: {expire(source, self.retention_months, lake.lake())}")
            for each in published:
                if each.audit.partition:
                    context.add_asset_metadata(_metadata(each, lake), partition_key=each.audit.partition)
            yield dg.MaterializeResult(
                metadata=_metadata(published[0], lake) if self.partitions is None else None,
                data_version=dg.DataVersion(_combined_digest(published)),
            )

        return dataset

    def _landing_sensor(self) -> dg.SensorDefinition:
        @dg.sensor(
            name=f"{self.name}_landed",
            target=dg.AssetSelection.assets(self.key),
            description=f"Materializes datasets/{self.name} for files that are new or have changed since.",
            minimum_interval_seconds=60,
            default_status=dg.DefaultSensorStatus.RUNNING,
        )
        def landed(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult | dg.SkipReason:
            waits = [each for each in self.lookups if not newest(context.instance, dg.AssetKey(["datasets", each]))]
            if waits:
                return dg.SkipReason(
                    f"'{self.name}' is read with the help of {', '.join(waits)}, not yet materialized."
                )
            files = lake.landing().landed(self.name)
            digests = {file.partition or "": file.sha256 for file in files}
            # The cursor is what was asked for, so that a broken file is asked for once; the rest the instance knows.
            asked: dict[str, str] = json.loads(context.cursor) if context.cursor else {}
            read = newest(context.instance, self.key, [name for name in digests if name])
            known = {name or "": made.shown(LANDED_DIGEST) for name, made in read.items()}
            changed = [name for name, digest in digests.items() if digest not in (asked.get(name), known.get(name))]
            if not changed:
                return dg.SkipReason(
                    f"Nothing new: {len(digests)} landed files of '{self.name}' are as they were read."
                )
            return dg.SensorResult(
                run_requests=[_run_request(self.key, months, digests) for months in _stretches(changed)],
                cursor=json.dumps(digests, sort_keys=True),
            )

        return landed

    def _code_hash(self) -> str:
        rules = [source_hash(self.loader), self.contract.model_dump(mode="json"), self.keys, self.event_time]
        return value_digest(rules)[:12]

    def _demand_known_columns(self) -> None:
        known = self.contract.column_names
        named: list[tuple[list[str | int], str]] = [(["keys", place], key) for place, key in enumerate(self.keys)]
        named += [(["event_time"], self.event_time)] if self.event_time else []
        for path, column in named:
            if column not in known:
                raise self.refuse_name(path, column, known, "a column of the contract")

    def _demand_known_expectations(self) -> None:
        from ml_platform.data.expectations import known_expectations

        known = known_expectations() if self.contract.expectations else []
        for place, each in enumerate(self.contract.expectations):
            if each.expectation not in known:
                path: list[str | int] = ["contract", "expectations", place, "expectation"]
                raise self.refuse_name(path, each.expectation, known, "an expectation of Great Expectations")


def _check_results(audits: "Sequence[Audit]", lake: LakeResource) -> Iterator[dg.AssetCheckResult]:
    """Yield one result per check that was evaluated: it passes when it was evaluated and passed for every partition."""
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


def _fail_when_broken(audits: "Sequence[Audit]") -> None:
    from ml_platform.data.contract import ContractViolatedError
    from ml_platform.data.dataset import refuse_broken

    try:
        refuse_broken(audits)
    except ContractViolatedError as error:
        # The same file breaks the same rule again: only a new file or contract helps, not a retry.
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
        metadata["violations"] = dg.MetadataValue.table(
            [
                dg.TableRecord(
                    {
                        "partition": report.subject.partition or "whole",
                        "column": violation.column or "",
                        "rule": violation.rule,
                        "count": violation.count,
                        "examples": json.dumps(violation.examples, default=str),
                        "message": violation.message,
                    }
                )
                for report, violation in violations
            ]
        )
    return metadata


def _metadata(published: "Published", lake: LakeResource) -> dict[str, Any]:
    version, landed = published.version, published.audit.landed
    return {
        **table_metadata(version),
        **({LANDED_DIGEST: landed.sha256, "landed_bytes": landed.size_bytes} if landed else {}),
        **({"data_docs": lake.link(published.audit.docs)} if published.audit.docs else {}),
    }


def _combined_digest(published: "Sequence[Published]") -> str:
    """Return the content hash of one partition, or one over those of several: equal content, equal data version."""
    from hashlib import sha256

    digests = [each.version.sha256 for each in published]
    return digests[0] if len(digests) == 1 else sha256("".join(digests).encode()).hexdigest()


def _column_schema(contract: Contract, keys: Sequence[str]) -> dg.TableSchema:
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=rule.name,
                type=rule.type,
                description=with_unit(rule.description, rule.unit),
                constraints=dg.TableColumnConstraints(nullable=rule.nullable, unique=[rule.name] == list(keys)),
                tags={"pii": "true"} if rule.pii else {},
            )
            for rule in contract.columns
        ]
    )


def _stretches(partitions: Sequence[str]) -> list[list[str]]:
    """Return ``partitions`` as runs of months that follow one another, so that each is one run."""
    stretches: list[list[str]] = []
    for name in sorted(partitions):
        if stretches and name and shift_month(stretches[-1][-1], 1) == name:
            stretches[-1].append(name)
        else:
            stretches.append([name])
    return stretches


def _run_request(key: dg.AssetKey, months: Sequence[str], digests: Mapping[str, str]) -> dg.RunRequest:
    # The digests make the key: the same files are never requested twice, a changed file is.
    run_key = "|".join([key.to_user_string(), *(f"{month}:{digests[month][:16]}" for month in months)])
    if months == [""]:
        return dg.RunRequest(run_key=run_key, asset_selection=[key])
    tags = {ASSET_PARTITION_RANGE_START_TAG: months[0], ASSET_PARTITION_RANGE_END_TAG: months[-1]}
    return dg.RunRequest(run_key=run_key, asset_selection=[key], tags=tags)
