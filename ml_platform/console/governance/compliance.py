"""The content of the compliance report: the records about models in a period, as an auditor reads them.

Everything comes from records that exist, and nothing is measured again. A report costs what its period contains.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from ml_platform.alerts.records import alerts_between
from ml_platform.console.governance.inventory import InventoryEntry
from ml_platform.console.lineage import ProjectLineage
from ml_platform.console.site.model_overview import DECISION_KINDS, Decision, decision_of
from ml_platform.data.contract_record import ContractResult, contract_counts, latest_result
from ml_platform.data.lake import Lake
from ml_platform.data.quality_record import last_landings
from ml_platform.errors import PlatformError
from ml_platform.monitoring.drift_history import DriftSummary, drift_history
from ml_platform.monitoring.performance import Period
from ml_platform.monitoring.performance_periods import periods_between
from ml_platform.monitoring.prediction_days import DAY_FORMAT
from ml_platform.monitoring.prediction_log import predictions_table
from ml_platform.registry.approvals import APPROVAL_KIND
from ml_platform.registry.audit import AuditError, AuditLog, AuditRecord
from ml_platform.registry.champion_history import CHAMPION_KIND, ChampionRecord, champion_at, read_champion_record
from ml_platform.registry.verdict_record import VERDICT_KIND, PromotionError, stored_verdict
from ml_platform.serving.client_keys import read_clients
from ml_platform.steps.client_keys import KEY_KINDS

WITHOUT_KEY = "without a key"
"""Client of the requests that the gateway accepted without a key."""

LANDINGS_READ = 60
"""Last landings of a dataset of which the unusual ones are shown."""


class ComplianceError(PlatformError):
    """Raised for a period that cannot be reported, and for an unknown name."""


@dataclass(frozen=True)
class ChainState:
    """The state of the audit log: the number of its records, the digest of the last one, and what is wrong with it.

    Keep the digest outside of the home, to compare a later report with it.
    """

    records: int
    head: str
    problem: str


@dataclass(frozen=True)
class UsedVersion:
    """A version that was champion in the period, and what its manifest says about its origin."""

    version: int
    since: datetime
    action: str
    decided_by: str
    approved_by: Sequence[str]
    reason: str
    content_digest: str
    trained_for: str
    tables: Mapping[str, int]
    training_set: str
    training_rows: int | None
    commit: str | None
    uncommitted_changes: bool | None
    lock: str | None
    seeds: Mapping[str, int]
    verdict: str | None


@dataclass(frozen=True)
class FeatureOrigin:
    """A column of the training set, and the columns of datasets from which it comes; none: the request."""

    column: str
    sources: Sequence[str]


@dataclass(frozen=True)
class UsedDataset:
    """A dataset of the model: the state of its contract, and its unusual landings in the period."""

    name: str
    personal_columns: Sequence[str]
    passed_partitions: int
    failed_partitions: int
    last: ContractResult | None
    unusual: Sequence[str]


@dataclass(frozen=True)
class GateOutcome:
    """The result of one gate."""

    name: str
    passed: bool
    undecided: bool
    reason: str


@dataclass(frozen=True)
class TestedCandidate:
    """A candidate that was judged in the period. ``problem`` says why its gates cannot be shown; empty: they are."""

    at: datetime
    partition: str
    version: int | None
    decision: str
    gates: Sequence[GateOutcome]
    problem: str = ""


@dataclass(frozen=True)
class Incident:
    """An alert that was open in the period."""

    kind: str
    subject: str
    severity: str
    text: str
    since: datetime
    resolved_at: datetime | None
    acknowledged_by: str
    note: str


@dataclass(frozen=True)
class ClientAccess:
    """A client that may ask the model, its valid keys, and its logged predictions in the period (UTC days)."""

    name: str
    valid_keys: int
    predictions: int


@dataclass(frozen=True)
class ModelCompliance:
    """The records about one model. ``decisions`` has neither verdicts, which are ``tests``, nor ``approvals``."""

    entry: InventoryEntry
    versions: Sequence[UsedVersion]
    features: Sequence[FeatureOrigin]
    data: Sequence[UsedDataset]
    tests: Sequence[TestedCandidate]
    approvals: Sequence[Decision]
    decisions: Sequence[Decision]
    realised: Sequence[Period]
    drift: Sequence[DriftSummary]
    incidents: Sequence[Incident]
    access: Sequence[ClientAccess]

    @property
    def name(self) -> str:
        return self.entry.name


@dataclass(frozen=True)
class ComplianceReport:
    """The records about ``models`` from ``start`` until before ``end``, and the decisions about keys of clients."""

    subject: str
    start: datetime
    end: datetime
    made_at: datetime
    chain: ChainState
    models: Sequence[ModelCompliance]
    key_decisions: Sequence[Decision]


def report_period(first: datetime | None, last: datetime | None, now: datetime) -> tuple[datetime, datetime]:
    """Return the period of a report: until ``now`` by default, and from a year before its end.

    Raises :class:`ComplianceError` for an empty period.
    """
    end = last or now
    start = first or end - timedelta(days=365)
    if end <= start:
        raise ComplianceError(
            "Period of the report",
            expected="an end after its begin",
            found=f"{start.isoformat()} to {end.isoformat()}",
            fix="Correct --from or --to.",
        )
    return start, end


def compliance_report(
    subject: str,
    entries: Sequence[InventoryEntry],
    lineage: ProjectLineage,
    lake: Lake,
    period: tuple[datetime, datetime],
    now: datetime,
) -> ComplianceReport:
    """Return the report on ``entries`` for ``period``.

    With a broken audit log, no decision of it is shown: then nobody knows which of them are true.
    """
    audit, (start, end) = AuditLog(lake.state), period
    chain = _chain_state(audit)
    records = [] if chain.problem else audit.between(start, end)
    return ComplianceReport(
        subject=subject,
        start=start,
        end=end,
        made_at=now,
        chain=chain,
        models=[_model(each, lineage, lake, audit, records, period, now, chain) for each in entries],
        key_decisions=[_key_decision(each) for each in records if each.kind in KEY_KINDS],
    )


def _chain_state(audit: AuditLog) -> ChainState:
    try:
        count = audit.verify()
        return ChainState(count, audit.head().digest, "")
    except AuditError as error:
        return ChainState(0, "", str(error))


def _model(
    entry: InventoryEntry,
    lineage: ProjectLineage,
    lake: Lake,
    audit: AuditLog,
    records: Sequence[AuditRecord],
    period: tuple[datetime, datetime],
    now: datetime,
    chain: ChainState,
) -> ModelCompliance:
    (start, end), name, state = period, entry.name, audit.state
    names = {name} if chain.problem else {name, *audit.former_names(name)}
    own = [each for each in records if each.facts.get("model") in names]
    tests = [_tested(audit, each) for each in own if each.kind == VERDICT_KIND]
    first = None if chain.problem else champion_at(audit, name, start)
    champions = [read_champion_record(each, name) for each in own if each.kind == CHAMPION_KIND]
    windows = {each.partition for each in tests}
    others = [each for each in own if each.kind in DECISION_KINDS and each.kind not in (VERDICT_KIND, APPROVAL_KIND)]
    declared = name in lineage.models
    return ModelCompliance(
        entry=entry,
        versions=[_used(each) for each in ([] if first is None else [first]) + champions],
        features=_features(lineage, name) if declared else [],
        data=[_dataset(lineage, state, each, start, end) for each in lineage.datasets_of(name)] if declared else [],
        tests=tests,
        approvals=[decision_of(each) for each in own if each.kind == APPROVAL_KIND],
        decisions=[decision_of(each) for each in others],
        realised=periods_between(state, name, start, end),
        drift=[each for each in drift_history(state, name) if each.partition in windows],
        incidents=_incidents(lineage, state, names, start, end),
        access=_access(lake, name, start, end, now),
    )


def _used(record: ChampionRecord) -> UsedVersion:
    manifest = record.manifest
    code: Mapping[str, Any] = manifest.get("code") or {}
    return UsedVersion(
        version=record.version,
        since=record.since,
        action=record.action,
        decided_by=record.decided_by,
        approved_by=record.approved_by,
        reason=record.reason,
        content_digest=record.content_digest,
        trained_for=record.partition,
        tables=manifest.get("tables") or {},
        training_set=str(manifest.get("training_set") or ""),
        training_rows=manifest.get("training_rows"),
        commit=code.get("commit"),
        uncommitted_changes=code.get("dirty"),
        lock=manifest.get("lock"),
        seeds=manifest.get("seeds") or {},
        verdict=record.verdict,
    )


def _features(lineage: ProjectLineage, name: str) -> list[FeatureOrigin]:
    views = lineage.model(name, {}).views
    return [FeatureOrigin(own.column, [str(each) for each in own.sources]) for view in views for own in view.features]


def _dataset(lineage: ProjectLineage, state: Any, name: str, start: datetime, end: datetime) -> UsedDataset:
    rules = lineage.datasets[name].columns if name in lineage.datasets else {}
    passed, failed = contract_counts(state, name)
    unusual = [
        f"{each.partition or 'the table'}: {'; '.join(finding['what'] for finding in each.findings)}"
        for each in last_landings(state, name, LANDINGS_READ)
        if each.state in ("warning", "critical") and start <= datetime.fromisoformat(each.landed_at) < end
    ]
    personal = [column for column, rule in rules.items() if rule.pii]
    return UsedDataset(name, personal, passed, failed, latest_result(state, name), unusual)


def _tested(audit: AuditLog, record: AuditRecord) -> TestedCandidate:
    facts = record.facts
    gates, problem = [], ""
    try:
        content = stored_verdict(audit.state, str(facts["digest"])).content
        gates = [
            GateOutcome(each["name"], each["passed"], bool(each.get("undecided")), str(each.get("reason", "")))
            for each in content["gates"]
        ]
    except PromotionError as error:
        problem = str(error)
    return TestedCandidate(
        record.at, str(facts["partition"]), facts.get("version"), str(facts["decision"]), gates, problem
    )


def _incidents(
    lineage: ProjectLineage, state: Any, names: Collection[str], start: datetime, end: datetime
) -> list[Incident]:
    """Return the alerts about the model under any of its ``names``, and about its datasets and views."""
    subjects = set(names)
    for name in names:
        if name in lineage.models:
            subjects |= {f"datasets/{each}" for each in lineage.datasets_of(name)}
            subjects |= {f"features/{each}" for each in lineage.models[name].views}
    return [
        Incident(
            kind=each.kind,
            subject=each.subject,
            severity=each.severity,
            text=each.what,
            since=each.since,
            resolved_at=each.resolved_at,
            acknowledged_by=each.acknowledged_by,
            note=each.note,
        )
        for each in alerts_between(state, start, end)
        if _is_about(each.subject, subjects)
    ]


def _is_about(subject: str, names: Collection[str]) -> bool:
    # A subject is a name, an asset of it, or either with a partition or a check.
    return any(subject == name or subject.startswith((f"{name}/", f"{name} ", f"{name}:")) for name in names)


def _access(lake: Lake, model: str, start: datetime, end: datetime, now: datetime) -> list[ClientAccess]:
    """Return the clients that may ask ``model`` now, and all that did in the period."""
    clients, keys = read_clients(lake.state)
    allowed = [each.name for each in clients.values() if each.models is None or model in each.models]
    counts = _predictions_by_client(lake, model, start, end)
    valid = [each.client for each in keys if each.is_valid(now)]
    return [
        ClientAccess(name, valid.count(name) if name in allowed else 0, counts.get(name, 0))
        for name in dict.fromkeys([*allowed, *counts])
    ]


def _predictions_by_client(lake: Lake, model: str, start: datetime, end: datetime) -> dict[str, int]:
    table = predictions_table(model)
    if not lake.exists(table):
        return {}
    first, last = (each.astimezone(UTC).strftime(DAY_FORMAT) for each in (start, end - timedelta(microseconds=1)))
    days = [str(day) for day in lake.digests(table) if day is not None and first <= str(day) <= last]
    if not days:
        return {}
    counted = lake.scan(table, partitions=days).group_by(pl.col("client").fill_null(WITHOUT_KEY)).len()
    rows = counted.collect(engine="streaming").sort("len", descending=True).rows()
    return {str(client): int(count) for client, count in rows}


def _key_decision(record: AuditRecord) -> Decision:
    facts = record.facts
    text = f"{record.kind.replace('_', ' ')}: {facts['client']}"
    return Decision(record.at, "", text, str(facts.get("reason", "")), record.actor)
