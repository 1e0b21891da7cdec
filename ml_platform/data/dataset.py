"""Write, audit, publish: a landed file becomes a partition of the lake only after its contract was found to hold.

What is checked is read back from the staged file, not the frame in memory; what failed stays out of the lake, so the
last good partition remains what everybody reads.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from ml_platform.data.contract import Contract, ContractReport, ContractViolatedError, Subject, Violation
from ml_platform.data.data_docs import results_page
from ml_platform.data.expectations import Period, check_expectations
from ml_platform.data.lake import Lake, TableVersion
from ml_platform.data.landing import LandedFile, Landing, LandingError
from ml_platform.data.partitions import MonthlyPartitions, month_bounds, shift_month
from ml_platform.data.reading import ColumnsMissingError, LandedFileError
from ml_platform.data.schema import check_schema, conform, missing_columns
from ml_platform.errors import PlatformError, listed

Loader = Callable[..., pl.DataFrame]
"""``loader(path, **lookups) -> frame`` reads one landed file; lookups are whole tables, by name of their dataset."""


class LoaderError(PlatformError):
    """Raised when a loader fails for a reason that is not the landed file's: its code has to be mended."""


@dataclass(frozen=True)
class Source:
    """How one dataset is read and what it promises."""

    name: str
    loader: Loader
    contract: Contract
    keys: Sequence[str] = ()
    partitions: MonthlyPartitions | None = None
    event_time: str | None = None
    lookups: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    lines: Mapping[str, str] = field(default_factory=dict)
    declared_at: str | None = None

    @property
    def table(self) -> str:
        return table_of(self.name)

    def period(self, partition: str | None) -> Period | None:
        """Return the time in which all events of ``partition`` lie, None where nothing is declared about it."""
        if partition is None or self.partitions is None or self.event_time is None:
            return None
        return Period(self.event_time, *month_bounds(partition, self.partitions.time_zone))

    def subject(self, partition: str | None) -> Subject:
        return Subject(self.name, partition, self.lines, self.declared_at)


@dataclass(frozen=True)
class Audit:
    """What was found for one partition; ``staged`` is the checked file where all rules of severity error hold."""

    source: Source
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
class Published:
    """One partition in the lake, and the audit that let it in."""

    audit: Audit
    version: TableVersion


def table_of(dataset: str) -> str:
    """Return the name of the lake table of ``dataset``."""
    return f"datasets/{dataset}"


def load_and_publish(
    source: Source, partitions: Sequence[str | None], landing: Landing, lake: Lake, docs_folder: Path | None = None
) -> list[Published]:
    """Load, check and publish ``partitions`` (``[None]`` for a dataset without): all of them, or none.

    Raises :class:`ContractViolatedError`, which carries every report, when one of them breaks a rule.
    """
    with tempfile.TemporaryDirectory(prefix=f"{source.name}-") as staging:
        audits = [audit(source, partition, landing, Path(staging), docs_folder) for partition in partitions]
        refuse_broken(audits)
        return [publish(each, lake) for each in audits]


def audit(
    source: Source, partition: str | None, landing: Landing, staging: Path, docs_folder: Path | None = None
) -> Audit:
    """Load one partition into the folder ``staging``, read it back and check it, without touching the lake.

    The schema is asked only of a file that could be read, expectations only of a table whose schema holds: ``reports``
    ends with the first check that failed. Data Docs go to ``docs_folder/<dataset>/<partition>``. Raises
    :class:`LoaderError` when the loader's own code fails.
    """
    subject = source.subject(partition)
    try:
        landed = landing.find(source.name, partition)
    except LandingError as error:
        return Audit(source, partition, None, (_unreadable(subject, "landed", error),), None)
    try:
        loaded = _load(source, landed, subject)
    except ColumnsMissingError as error:
        missing = missing_columns(error.missing, _strangers(error.present, source.contract), subject)
        schema = ContractReport(subject, "schema", 0, len(error.missing), tuple(missing))
        return Audit(source, partition, landed, (_landed(subject, 0), schema), None)
    except LandedFileError as error:
        return Audit(source, partition, landed, (_unreadable(subject, "readable", error),), None)
    if loaded.height < source.contract.minimum_rows:
        return Audit(source, partition, landed, (_too_few_rows(subject, loaded, source.contract),), None)

    staged = staging / f"{partition or 'whole'}.parquet"
    loaded.write_parquet(staged)
    reports = [_landed(subject, loaded.height)]
    stored = pl.read_parquet(staged)
    reports.append(check_schema(stored, source.contract, subject, source.keys))
    if not reports[-1].passed:
        return Audit(source, partition, landed, tuple(reports), None)

    conform(stored, source.contract).write_parquet(staged)
    docs = docs_folder / source.name / (partition or "whole") if docs_folder else None
    reports.append(
        check_expectations(
            pl.read_parquet(staged), source.contract, source.keys, subject, docs, source.period(partition)
        )
    )
    return Audit(
        source,
        partition,
        landed,
        tuple(reports),
        staged if reports[-1].passed else None,
        results_page(docs) if docs else None,
    )


def publish(audited: Audit, lake: Lake) -> Published:
    """Write the staged, checked file of ``audited`` as its partition of the lake."""
    refuse_broken([audited])
    assert audited.staged is not None
    return Published(audited, lake.write(audited.source.table, pl.read_parquet(audited.staged), audited.partition))


def expire(source: Source, months: int, lake: Lake) -> list[str]:
    """Drop the partitions that lie more than ``months`` months before the newest one; return their names."""
    held = lake.partitions(source.table)
    expired = [name for name in held if name <= shift_month(held[-1], -months)]
    lake.drop_partitions(source.table, expired)
    return expired


def refuse_broken(audits: Sequence[Audit]) -> None:
    """Raise :class:`ContractViolatedError` when one of ``audits`` has a broken rule of severity error."""
    broken = [each for each in audits if not each.passed]
    if not broken:
        return
    source = broken[0].source
    errors = [violation for each in broken for report in each.reports for violation in report.errors]
    names = [each.partition for each in broken if each.partition]
    good = [each.partition for each in audits if each.passed and each.partition]
    raise ContractViolatedError(
        f"Dataset '{source.name}'" + (f", partitions {listed(names)}" if names else ""),
        expected="a contract that holds",
        found=f"{len(errors)} broken: " + " ".join(violation.message for violation in errors[:3]).rstrip("."),
        mend="Nothing was published; the last good version stays readable."
        + (f" Good are {listed(good)}: materialize them on their own." if good else ""),
        reports=tuple(report for each in audits for report in each.reports),
    )


def _load(source: Source, landed: LandedFile, subject: Subject) -> pl.DataFrame:
    try:
        loaded = source.loader(landed.path, **source.lookups)
    except LandedFileError:
        raise
    except Exception as error:
        raise LoaderError(
            f"{subject}: loader '{source.loader.__module__}:{source.loader.__qualname__}'",
            expected=f"a table from {landed.path.name}",
            found=f"{type(error).__name__}: {' '.join(str(error).split())}",
            mend="Mend the loader: what cannot be parsed should stay text, for the contract to name it.",
        ) from error
    if not isinstance(loaded, pl.DataFrame):
        raise LoaderError(
            f"{subject}: loader '{source.loader.__module__}:{source.loader.__qualname__}'",
            expected="a polars DataFrame",
            found=type(loaded).__name__,
            mend="Return the table, collected.",
        )
    return loaded


def _landed(subject: Subject, rows: int) -> ContractReport:
    return ContractReport(subject, "landed", rows, 3)


def _unreadable(subject: Subject, rule: str, error: PlatformError) -> ContractReport:
    message = f"{subject}: expected {error.expected}, found {error.found}. {error.mend}"
    return ContractReport(subject, "landed", 0, 1, (Violation(None, rule, 1, (), message),))


def _too_few_rows(subject: Subject, loaded: pl.DataFrame, contract: Contract) -> ContractReport:
    message = (
        f"{subject}: expected at least {contract.minimum_rows} rows, found {loaded.height}. "
        f"Land the whole file, or lower minimum_rows in {subject.line(None)}."
    )
    violation = Violation(None, "minimum_rows", contract.minimum_rows - loaded.height, (), message)
    return ContractReport(subject, "landed", loaded.height, 3, (violation,))


def _strangers(present: Sequence[str], contract: Contract) -> list[str]:
    return [name for name in present if name not in contract.column_names]
