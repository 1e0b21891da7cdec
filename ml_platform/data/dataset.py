"""Write, audit, publish: load a landed file, check it against its contract, and only then write it to the lake.

The checks read the staged file, not the frame in memory. A file that fails stays out of the lake, so readers keep the
last good partition.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from ml_platform.data.cadences import months_before
from ml_platform.data.contract import (
    Contract,
    ContractReport,
    ContractSubject,
    ContractViolatedError,
    Violation,
)
from ml_platform.data.contract_record import record_failed, record_passed
from ml_platform.data.data_docs import results_page
from ml_platform.data.evolution_record import EarlierFiles, Evolution, as_changed, earlier_columns
from ml_platform.data.expectations import Period, check_expectations
from ml_platform.data.lake import Lake, TableVersion
from ml_platform.data.landed_bytes import LandedFileError
from ml_platform.data.landed_read import land_read
from ml_platform.data.landing import LandedFile, Landing, LandingError
from ml_platform.data.partitions import PartitionScheme, file_stem
from ml_platform.data.pii import shown_error
from ml_platform.data.quality_record import forget_landings
from ml_platform.data.reading import ColumnsMissingError, reading_earlier
from ml_platform.data.schema import check_schema, conform, missing_columns, stored_type
from ml_platform.data.scratch import scratch_folder
from ml_platform.data.source_record import record_broken_read, record_read
from ml_platform.data.sources.source import Slice, Source, SourceEmptyError
from ml_platform.errors import PlatformError, listed

Loader = Callable[..., pl.DataFrame]
"""``loader(path, **lookups) -> frame`` reads one landed file; each lookup is a whole table under its dataset's name."""


class LoaderError(PlatformError):
    """Raised when a loader's own code fails; the landed file is not the cause."""


@dataclass(frozen=True)
class DatasetSource:
    """One dataset: its loader, its contract, and where these are declared.

    ``event_time`` is the column whose values must lie within the partition. ``lookups`` are the tables that the loader
    takes besides the landed file. ``lines`` maps columns to the place of their rule in the YAML file. ``origin`` is
    read and landed first; without it, another system lands the files. ``typed`` says that no loader of one's own parses
    the columns, so the origin does. ``earlier`` has the changes of the columns since files landed.
    """

    name: str
    loader: Loader
    contract: Contract
    keys: Sequence[str] = ()
    partitions: PartitionScheme | None = None
    event_time: str | None = None
    lookups: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    lines: Mapping[str, str] = field(default_factory=dict)
    declared_at: str | None = None
    origin: Source | None = None
    typed: bool = False
    earlier: EarlierFiles = field(default_factory=EarlierFiles)

    @property
    def table(self) -> str:
        return table_of(self.name)

    def period(self, partition: str | None) -> Period | None:
        """Return the time range of the events of ``partition``; None without partitions or without ``event_time``."""
        if partition is None or self.partitions is None or self.event_time is None:
            return None
        return Period(self.event_time, *self.partitions.bounds(partition))

    def slice(self, partition: str | None) -> Slice:
        """Return the part of the origin that is ``partition``."""
        return slice_of(self.partitions, partition)

    def subject(self, partition: str | None) -> ContractSubject:
        return ContractSubject(self.name, partition, self.lines, self.declared_at)


@dataclass(frozen=True)
class PartitionAudit:
    """Reports on one partition; ``staged`` is the checked file, or None when a rule of severity error is broken."""

    source: DatasetSource
    partition: str | None
    landed: LandedFile | None
    reports: tuple[ContractReport, ...]
    staged: Path | None
    docs: Path | None = None

    @property
    def passed(self) -> bool:
        return self.staged is not None

    @property
    def violations(self) -> tuple[Violation, ...]:
        return tuple(violation for report in self.reports for violation in report.violations)


@dataclass(frozen=True)
class PublishedPartition:
    """One partition in the lake, and the audit that it passed."""

    audit: PartitionAudit
    version: TableVersion


def table_of(dataset: str) -> str:
    """Return the name of the lake table of ``dataset``."""
    return f"datasets/{dataset}"


def slice_of(partitions: PartitionScheme | None, partition: str | None) -> Slice:
    """Return the part of a source that is ``partition`` of ``partitions``, with its bounds in their zone."""
    if partition is None or partitions is None or not partitions.is_timed:
        return Slice(partition)
    start, end = (instant.astimezone(partitions.zone) for instant in partitions.bounds(partition))
    return Slice(partition, start, end)


def load_and_publish(
    source: DatasetSource,
    partitions: Sequence[str | None],
    landing: Landing,
    lake: Lake,
    docs_folder: Path | None = None,
) -> list[PublishedPartition]:
    """Load, check and publish ``partitions`` (``[None]`` for a dataset without partitions): all of them, or none.

    Raises :class:`ContractViolatedError`, with all reports, when one of them breaks a rule of severity error.
    """
    with scratch_folder(source.name) as staging:
        audits = [audit_partition(source, partition, landing, staging, docs_folder) for partition in partitions]
        require_passed(audits)
        return [publish(audit, lake) for audit in audits]


def audit_partition(
    source: DatasetSource, partition: str | None, landing: Landing, staging: Path, docs_folder: Path | None = None
) -> PartitionAudit:
    """Load one partition into the folder ``staging``, read it back and check it, without touching the lake.

    The checks run in the order landed, schema, expectations; ``reports`` ends with the first one that fails. Data Docs
    are written to ``docs_folder/<dataset>/<partition>``. Raises :class:`LoaderError` when the loader's own code fails,
    and :class:`SourceError` when the origin cannot be read.
    """
    subject = source.subject(partition)
    try:
        landed = _landed_file(source, partition, landing)
    except (LandingError, SourceEmptyError, LandedFileError) as error:
        return PartitionAudit(source, partition, None, (_unreadable(subject, "landed", error),), None)
    changes = source.earlier.after(landed.sha256) or source.earlier.after_read(partition, landed.fingerprint)
    try:
        loaded = _load(source, landed, subject, changes)
    except ColumnsMissingError as error:
        undeclared = _undeclared_columns(error.present, source.contract)
        hint = source.earlier.hint(undeclared)
        missing = missing_columns(error.missing, undeclared, subject, hint)
        schema = ContractReport(subject, "schema", 0, len(error.missing), tuple(missing))
        return PartitionAudit(source, partition, landed, (_landed(subject, 0), schema), None)
    except LandedFileError as error:
        return PartitionAudit(source, partition, landed, (_unreadable(subject, "readable", error),), None)
    if loaded.height < source.contract.minimum_rows:
        return PartitionAudit(source, partition, landed, (_too_few_rows(subject, loaded, source.contract),), None)

    staged = staging / f"{file_stem(partition or 'whole')}.parquet"
    loaded.write_parquet(staged)
    reports = [_landed(subject, loaded.height)]
    stored = pl.read_parquet(staged)
    hint = source.earlier.hint(_undeclared_columns(stored.columns, source.contract))
    reports.append(check_schema(stored, source.contract, subject, source.keys, hint))
    if not reports[-1].passed:
        return PartitionAudit(source, partition, landed, tuple(reports), None)

    conform(stored, source.contract).write_parquet(staged)
    docs = docs_folder / source.name / file_stem(partition or "whole") if docs_folder else None
    reports.append(
        check_expectations(
            pl.read_parquet(staged), source.contract, source.keys, subject, docs, source.period(partition)
        )
    )
    return PartitionAudit(
        source,
        partition,
        landed,
        tuple(reports),
        staged if reports[-1].passed else None,
        results_page(docs) if docs else None,
    )


def publish(
    audited: PartitionAudit, lake: Lake, on_record: Callable[[TableVersion], None] = lambda _written: None
) -> PublishedPartition:
    """Write the staged, checked file of ``audited`` as its partition of the lake, and record that it passed.

    ``on_record`` is called in the transaction of both.
    """
    require_passed([audited])
    assert audited.staged is not None
    dataset, landed = audited.source.name, audited.landed

    def record(written: TableVersion) -> None:
        record_passed(
            lake.state,
            dataset,
            audited.partition,
            content_digest=written.sha256,
            landed_sha256=None if landed is None else landed.sha256,
        )
        if landed is not None and landed.fingerprint is not None:
            record_read(lake.state, dataset, audited.partition, landed.fingerprint)
        on_record(written)

    rows = pl.read_parquet(audited.staged)
    return PublishedPartition(audited, lake.write(audited.source.table, rows, audited.partition, record))


def record_failures(audits: Sequence[PartitionAudit], lake: Lake) -> None:
    """Record the failed check of each partition of ``audits`` that broke its contract."""
    for audit in audits:
        if not audit.passed:
            landed = audit.landed
            record_failed(
                lake.state,
                audit.source.name,
                audit.partition,
                check=audit.reports[-1].check,
                landed_sha256=None if landed is None else landed.sha256,
            )
            if landed is not None and landed.fingerprint is not None:
                check = audit.reports[-1].check
                record_broken_read(lake.state, audit.source.name, audit.partition, landed.fingerprint, check)


def expire(source: DatasetSource, months: int, lake: Lake) -> list[str]:
    """Keep the last ``months`` months of the table, counted from the end of its latest partition.

    Partitions that end earlier are dropped; their names are returned.
    """
    scheme, stored = source.partitions, lake.partitions(source.table)
    if scheme is None or not stored:
        return []
    limit = months_before(scheme.bounds(scheme.latest(stored))[1], months, scheme.zone)
    expired = [name for name in scheme.sort(stored) if scheme.bounds(name)[1] <= limit]
    lake.drop_partitions(source.table, expired, lambda: forget_landings(lake.state, source.name, expired))
    return expired


def require_passed(audits: Sequence[PartitionAudit]) -> None:
    """Raise :class:`ContractViolatedError` when one of ``audits`` has a broken rule of severity error."""
    broken = [audit for audit in audits if not audit.passed]
    if not broken:
        return
    source = broken[0].source
    errors = [violation for audit in broken for report in audit.reports for violation in report.errors]
    names = [audit.partition for audit in broken if audit.partition]
    good = [audit.partition for audit in audits if audit.passed and audit.partition]
    raise ContractViolatedError(
        f"Dataset '{source.name}'" + (f", partitions {listed(names)}" if names else ""),
        expected="a contract that holds",
        found=f"{len(errors)} broken: " + " ".join(violation.message for violation in errors[:3]).rstrip("."),
        fix="Nothing was published; the last good version stays readable."
        + (f" Materialize the good partitions on their own: {listed(good)}." if good else ""),
        reports=tuple(report for audit in audits for report in audit.reports),
    )


def _landed_file(source: DatasetSource, partition: str | None, landing: Landing) -> LandedFile:
    if source.origin is None:
        return landing.find(source.name, partition)
    columns = {rule.name: stored_type(rule) for rule in source.contract.columns} if source.typed else {}
    part = source.slice(partition)
    changes = source.earlier.after_read(partition, source.origin.fingerprint(part)) if source.earlier.changes else []
    with reading_earlier(earlier_columns(changes)):
        return land_read(source.origin, source.name, part, landing, columns)


def _load(
    source: DatasetSource, landed: LandedFile, subject: ContractSubject, changes: Sequence[Evolution]
) -> pl.DataFrame:
    try:
        with reading_earlier(earlier_columns(changes)):
            loaded = source.loader(landed.path, **source.lookups)
    except LandedFileError:
        raise
    except Exception as error:
        pii_columns = source.contract.pii_columns
        raise LoaderError(
            f"{subject}: loader '{source.loader.__module__}:{source.loader.__qualname__}'",
            expected=f"a table from {landed.path.name}",
            found=shown_error(error, pii_columns),
            fix="Fix the loader. Keep values that do not parse as text, so that the contract can report them.",
        ) from (None if pii_columns else error)
    if not isinstance(loaded, pl.DataFrame):
        raise LoaderError(
            f"{subject}: loader '{source.loader.__module__}:{source.loader.__qualname__}'",
            expected="a Polars DataFrame",
            found=type(loaded).__name__,
            fix="Return the collected table from the loader.",
        )
    return as_changed(loaded, changes, source.contract) if changes else loaded


def _landed(subject: ContractSubject, rows: int) -> ContractReport:
    return ContractReport(subject, "landed", rows, 3)


def _unreadable(subject: ContractSubject, rule: str, error: PlatformError) -> ContractReport:
    message = f"{subject}: expected {error.expected}, found {error.found}. {error.fix}"
    return ContractReport(subject, "landed", 0, 1, (Violation(None, rule, 1, (), message),))


def _too_few_rows(subject: ContractSubject, loaded: pl.DataFrame, contract: Contract) -> ContractReport:
    message = (
        f"{subject}: expected at least {contract.minimum_rows} rows, found {loaded.height}. "
        f"Land the whole file, or lower minimum_rows in {subject.line(None)}."
    )
    violation = Violation(None, "minimum_rows", contract.minimum_rows - loaded.height, (), message)
    return ContractReport(subject, "landed", loaded.height, 3, (violation,))


def _undeclared_columns(present: Sequence[str], contract: Contract) -> list[str]:
    return [name for name in present if name not in contract.column_names]
