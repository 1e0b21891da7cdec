"""`ml-platform history`: champions of a model, verdicts and decisions on its versions, from the audit log."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from ml_platform.console.arguments import ArgumentError
from ml_platform.console.verdicts import VerdictEntry, verdict_entries
from ml_platform.registry.champion_history import ChampionRecord
from resources.home import Home

if TYPE_CHECKING:
    from ml_platform.registry.audit import AuditLog
    from ml_platform.steps.request_lookup import RequestAnswer

    HistoryEntry: TypeAlias = "ChampionRecord | VersionDecision | VerdictEntry | RequestAnswer"


@dataclass(frozen=True)
class VersionDecision:
    """A decision that does not change the champion: on a version, or on a window that is left out."""

    at: datetime
    decision: str
    version: int | None
    decided_by: str
    reason: str


def history_entries(home: Home, model: str, at: datetime | None, request_id: str) -> "list[HistoryEntry]":
    """Return the answers to ``request_id`` if it is given, else the champion at ``at``, else every decision."""
    if request_id:
        return [*answers(home, model, request_id)]
    return [champion_at_instant(home, model, at)] if at else [*decisions(home, model)]


def decisions(home: Home, model: str) -> "list[ChampionRecord | VersionDecision | VerdictEntry]":
    """Return every change of the champion of ``model``, every verdict and decision on its versions, oldest first.

    The list is empty when nothing was decided. Raises
    :class:`~ml_platform.components.loading.DeclarationUnknownError` when ``model`` has no record and no declaration.
    """
    from ml_platform.registry.approvals import APPROVAL_KIND, DECISION_KEY
    from ml_platform.registry.promotion import CHALLENGER_KIND
    from ml_platform.steps.window_backlog import WINDOW_SKIPPED

    audit = _audit(home)
    promotions = _champion_records(home, model)
    approvals = [
        VersionDecision(
            record.at, record.facts[DECISION_KEY], record.facts["version"], record.actor, record.facts["reason"]
        )
        for record in audit.records(APPROVAL_KIND, model)
    ]
    nominations = [
        VersionDecision(record.at, "challenger", record.facts["version"], record.actor, record.facts["reason"])
        for record in audit.records(CHALLENGER_KIND, model)
    ]
    skipped = [
        VersionDecision(
            record.at, f"skip the window {record.facts['partition']}", None, record.actor, record.facts["reason"]
        )
        for record in audit.records(WINDOW_SKIPPED, model)
    ]
    verdicts = verdict_entries(audit, model)
    return sorted([*verdicts, *nominations, *approvals, *promotions, *skipped], key=_decided_at)


def champion_at_instant(home: Home, model: str, at: datetime) -> ChampionRecord:
    """Return the record of the version that was champion at ``at``.

    Raises :class:`~ml_platform.console.arguments.ArgumentError` when there was no champion yet, and for an unknown
    model the same error as :func:`decisions`.
    """
    from ml_platform.registry.champion_history import RETIRE, champion_at

    records = _champion_records(home, model)
    champion = champion_at(_audit(home), model, at)
    if champion is None:
        retired = [record for record in records if record.action == RETIRE and record.since <= at]
        first = f"the first promotion at {_utc_text(records[0].since)}" if records else "no promotion"
        first = f"no champion since its retirement at {_utc_text(retired[-1].since)}" if retired else first
        raise ArgumentError(
            f"Champion of '{model}' at {_utc_text(at)}",
            expected="a time after its first promotion",
            found=first,
            fix="Use the time of the decision, not of the data: `ml-platform history` lists all decisions.",
        )
    return champion


def answers(home: Home, model: str, request_id: str) -> "list[RequestAnswer]":
    """Return the versions that answered a request; raises for a request that no log contains, and an unknown model."""
    from ml_platform.steps.monitoring import logged_names
    from ml_platform.steps.request_lookup import lookup_request
    from resources.home_lake import open_lake

    _champion_records(home, model)
    audit = _audit(home)
    names = logged_names(model, audit)
    return lookup_request(
        model,
        request_id,
        lake=open_lake(home),
        logs=[log for name in names for log in sorted((home.prediction_logs / name).glob("*.jsonl"))],
        audit=audit,
    )


def json_values(entry: "HistoryEntry") -> dict[str, Any]:
    """Return one decision or answer as JSON values."""
    return {name: _json_value(value) for name, value in asdict(entry).items()}


def show(entries: "Sequence[HistoryEntry]", model: str, console: Console) -> None:
    """Print each decision or answer: time, version, data, the person or gate that decided, and the reason."""
    if not entries:
        console.print(f"No decision on '{model}' is recorded yet.")
    for each in entries:
        title, lines = _title_and_lines(each)
        console.print(Text(title, style="bold"))
        for line in lines:
            console.print(Padding(Text(line), (0, 0, 0, 4), expand=False), highlight=False)


def _champion_records(home: Home, model: str) -> list[ChampionRecord]:
    from ml_platform.components.loading import bound_model
    from ml_platform.registry.champion_history import champion_history

    records = champion_history(_audit(home), model)
    if not records:
        bound_model(model)
    return records


def _audit(home: Home) -> "AuditLog":
    from ml_platform.registry.audit import AuditLog
    from resources.state import open_state

    return AuditLog(open_state(home))


def _decided_at(entry: ChampionRecord | VersionDecision | VerdictEntry) -> datetime:
    return entry.since if isinstance(entry, ChampionRecord) else entry.at


def _title_and_lines(each: "HistoryEntry") -> tuple[str, list[str]]:
    if isinstance(each, ChampionRecord):
        return f"{_utc_text(each.since)}  {each.action} version {each.version}", _champion_lines(each)
    if isinstance(each, VerdictEntry):
        return f"{_utc_text(each.at)}  {each.title}", [*each.reasons]
    if isinstance(each, VersionDecision):
        return f"{_utc_text(each.at)}  {_decision_text(each)}", [f"by {each.decided_by}", each.reason]
    rows = f"{each.rows} rows" if each.rows > 1 else "1 row"
    title = f"{_utc_text(each.logged_at)}  version {each.version} ({each.role}), {rows}"
    if each.champion_record is None:
        return title, ["It was not champion at that time."]
    record = each.champion_record
    return title, [f"{record.action} at {_utc_text(record.since)}", *_champion_lines(record)]


def _decision_text(each: VersionDecision) -> str:
    if each.decision == "challenger":
        return f"nominate version {each.version} as challenger" if each.version else "end the challenger's nomination"
    return each.decision if each.version is None else f"{each.decision} version {each.version}"


def _champion_lines(record: ChampionRecord) -> list[str]:
    manifest = record.manifest
    approved = f", approved by {', '.join(record.approved_by)}" if record.approved_by else ""
    return [
        f"trained and evaluated on {record.partition}, training set {manifest['training_set'][:12]}",
        f"made from {_tables(manifest['tables'])}",
        f"by {record.decided_by}{approved}",
        record.reason,
    ]


def _tables(tables: dict[str, int]) -> str:
    """Return the datasets with their versions, and the number of change logs; the manifest lists all of them."""
    datasets = [f"{name} version {version}" for name, version in tables.items() if name.startswith("datasets/")]
    logs = sum(name.startswith("features/") for name in tables)
    return f"{', '.join(datasets)}, and {logs} change logs"


def _json_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return {name: _json_value(each) for name, each in value.items()}
    return value


def _utc_text(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
