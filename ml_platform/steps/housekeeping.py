"""Removes what a home no longer needs, by the retention of each kind, and reports what it freed.

Everything runs under the lock that a backup takes too. Each step may be killed at any line: a later cleaning finds what
is left. A dry run finds the same leftovers and changes nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

from ml_platform.data import lake_cleaning
from ml_platform.data.leftovers import Leftover, LeftoverSummary, before
from ml_platform.errors import PlatformError
from ml_platform.features.last_facts import LAST_FACTS
from ml_platform.monitoring import prediction_cleaning
from ml_platform.monitoring.prediction_log import QUARANTINE_SUFFIX
from ml_platform.registry.outbox import is_connection_error
from ml_platform.serving.access_log import access_logs
from ml_platform.state.cursors import cursors_below, delete_cursors
from ml_platform.steps import file_cleaning
from ml_platform.steps.backup import CLEANING_LOCK
from ml_platform.steps.cost_cleaning import old_costs
from ml_platform.steps.pins import pin_registered_versions
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.steps.retention import RetentionPolicies
from ml_platform.steps.version_cleaning import DELETED_VERSIONS, VersionCleaning

HOUSEKEEPING_KIND = "housekeeping"
"""Kind of the audit records of cleanings."""

ORPHAN_DAYS = 1
"""Age from which a file that no version names belongs to a killed writer."""

READER_DAYS = 1
"""Time for which replaced files of predictions and outcomes stay, so that running readers finish."""

FACT_TABLES = ("/predictions", f"/predictions{QUARANTINE_SUFFIX}", "/outcomes")
"""Ends of the names of tables of facts."""

Finder = Callable[[], Iterable[Leftover]]


@dataclass(frozen=True)
class CleaningReport:
    """The items that a cleaning removed, or would remove (``dry_run``), by kind.

    ``model_versions`` are the removed versions, like "late 3". ``problems`` has one text for each kind that could not
    be cleaned; the others were.
    """

    dry_run: bool
    kinds: list[LeftoverSummary]
    model_versions: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def items(self) -> int:
        return sum(each.items for each in self.kinds)

    @property
    def size_bytes(self) -> int:
        return sum(each.size_bytes for each in self.kinds)


def clean(
    stores: PlatformStores,
    policies: RetentionPolicies,
    *,
    now: datetime,
    by: str,
    dry_run: bool = False,
    more: Sequence[Finder] = (),
) -> CleaningReport:
    """Remove what the home no longer needs under ``policies`` and return what was removed.

    ``more`` are finders outside the steps, such as that of Dagster's runs. A cleaning that removed something is
    recorded in the audit log, as one record by ``by``. Raises :class:`~ml_platform.state.store.StateLockedError` at
    once when another cleaning or a backup runs.
    """
    versions = VersionCleaning(stores, policies, now)
    if dry_run:
        kinds, problems = _visit([*_finders(stores, policies, versions, now), *more], lambda _: True)
        return CleaningReport(True, kinds, problems=problems)
    with stores.state.lock(CLEANING_LOCK, seconds=0):
        repaired = _repair_pins(stores, versions)
        problems = [] if repaired is None else repaired
        if repaired is None:
            # Without all pins, a version of a table that a model needs could go.
            policies = replace(policies, keeps_tables=True)
            problems = ["Table versions were kept, because the model registry or its artifacts cannot be reached."]
        finders = [*_finders(stores, policies, versions, now), *more]
        kinds, found = _visit(finders, lambda leftover: leftover.remove() is not False)
        report = CleaningReport(False, kinds, _deleted_versions(stores), [*problems, *found])
        _record(stores, report, by=by, now=now)
    return report


def _finders(
    stores: PlatformStores, policies: RetentionPolicies, versions: VersionCleaning, now: datetime
) -> Iterator[Finder]:
    """Yield the finders in their order: content that names other content goes first."""
    lake, home = stores.lake, stores.home
    for find in (file_cleaning.raw_files, file_cleaning.old_reports, file_cleaning.old_logs):
        yield partial(find, stores, policies, now)
    for run in (home.run, home.run / "demo"):
        yield partial(access_logs, run / "gateway", before(now, policies.platform.logs_days), now)
    for find in (file_cleaning.old_checkpoints, file_cleaning.old_searches, file_cleaning.old_dead_letters):
        yield partial(find, stores, policies, now)
    yield partial(old_costs, stores, policies, now)
    yield versions.unused_bentos
    yield versions.old_downloads
    yield versions.old_versions
    yield versions.unused_evidence
    for model in _logged_models(stores, policies):
        yield partial(_facts_of, stores, policies, model, now)
    yield partial(prediction_cleaning.small_files, lake, now.astimezone(UTC).date())
    earlier = before(now, policies.platform.table_versions_days)
    if earlier is not None and not policies.keeps_tables:
        yield partial(lake_cleaning.earlier_tables, lake, policies.current_tables, earlier)
    yield partial(lake_cleaning.replaced_versions, lake, partial(_replaced_before, policies, now))
    orphaned = before(now, ORPHAN_DAYS)
    assert orphaned is not None
    yield partial(lake_cleaning.orphan_files, lake, orphaned)


def _facts_of(stores: PlatformStores, policies: RetentionPolicies, model: str, now: datetime) -> Iterator[Leftover]:
    """Yield the leftovers of the predictions and outcomes of ``model``."""
    lake, policy = stores.lake, policies.of_model(model)
    retention = policy.retention
    kept = before(now, retention.predictions_days)
    personal = before(now, retention.prediction_pii_days) if policy.pii_columns else None
    # Any line may contain a value that identifies a person.
    earliest = max((limit for limit in (kept, personal) if limit is not None), default=None)
    yield from prediction_cleaning.ingested_logs(
        lake, model, stores.home.prediction_logs / model, before(now, retention.prediction_logs_days), now
    )
    yield from prediction_cleaning.old_predictions(lake, model, kept)
    yield from prediction_cleaning.old_corrupt_lines(lake, model, earliest)
    yield from prediction_cleaning.personal_values(lake, model, policy.pii_columns, policy.identity, personal, kept)
    yield from prediction_cleaning.old_outcomes(lake, model, before(now, retention.outcomes_days))


def _replaced_before(policies: RetentionPolicies, now: datetime, table: str) -> datetime | None:
    # No manifest pins facts, and their replaced files may contain values that were removed.
    is_fact = table.startswith("models/") and table.endswith(FACT_TABLES)
    # Each publication replaces the last facts of a view, and nothing reads earlier ones.
    if is_fact or table.startswith(LAST_FACTS):
        return before(now, READER_DAYS)
    return None if policies.keeps_tables else before(now, policies.of_table(table).table_versions_days)


def _logged_models(stores: PlatformStores, policies: RetentionPolicies) -> list[str]:
    """Return the declared models, and those with predictions or prediction logs."""
    tables = stores.lake.catalog.tables()
    predicted = {table.split("/")[1] for table in tables if table.startswith("models/")}
    folder = stores.home.prediction_logs
    logged = {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
    return sorted({*policies.models, *predicted, *logged})


def _visit(finders: Iterable[Finder], accept: Callable[[Leftover], bool]) -> tuple[list[LeftoverSummary], list[str]]:
    """Return the summaries of the leftovers that ``accept`` counts, by kind, and the errors of single finders."""
    kinds: dict[str, LeftoverSummary] = {}
    problems: list[str] = []
    for find in finders:
        try:
            for leftover in find():
                if accept(leftover):
                    empty = LeftoverSummary(leftover.kind, 0, 0, None, ())
                    kinds[leftover.kind] = kinds.get(leftover.kind, empty).plus(leftover)
        except Exception as error:
            if not (isinstance(error, PlatformError | OSError) or is_connection_error(error)):
                raise
            # Other kinds are cleaned all the same, for example on a disk that is almost full.
            problems.append(str(error))
    return list(kinds.values()), problems


def _repair_pins(stores: PlatformStores, versions: VersionCleaning) -> list[str] | None:
    """Add missing pins, finish begun deletions and return problems; None when the registry cannot be reached."""
    # The pins are read before the versions: a registration that ends meanwhile keeps its pins.
    pinned = list(stores.lake.catalog.pins())
    try:
        report = pin_registered_versions(stores)
        versions.finish_deletions()
        versions.unpin_missing_versions(pinned)
    except Exception as error:
        if not is_connection_error(error):
            raise
        return None
    return report.problems if report.complete else None


def _deleted_versions(stores: PlatformStores) -> list[str]:
    entries = cursors_below(stores.state, DELETED_VERSIONS).values()
    return [f"{model} {version}" for model, version in sorted((each["model"], each["version"]) for each in entries)]


def _record(stores: PlatformStores, report: CleaningReport, *, by: str, now: datetime) -> None:
    """Record the cleaning and forget the deletions that it names, in one transaction."""
    if not report.items and not report.model_versions:
        return
    facts = {
        "items": {each.kind: each.items for each in report.kinds},
        "bytes": {each.kind: each.size_bytes for each in report.kinds},
        "model_versions": report.model_versions,
    }
    with stores.state.write():
        stores.audit.append(HOUSEKEEPING_KIND, actor=by, at=now, facts=facts)
        names = cursors_below(stores.state, DELETED_VERSIONS)
        delete_cursors(stores.state, (DELETED_VERSIONS + name for name in names))
