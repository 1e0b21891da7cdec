"""Who was champion when, and who said what of which version: the decisions of the audit log, told to people."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from ml_platform.console.arguments import ArgumentError
from ml_platform.registry.championship import Championship
from resources.home import Home

if TYPE_CHECKING:
    from ml_platform.steps.answering import Answer


@dataclass(frozen=True)
class Said:
    """What was decided of a version without a change of the champion: nominated, approved, rejected."""

    at: datetime
    what: str
    version: int | None
    decided_by: str
    reason: str


def asked(home: Home, model: str, at: datetime | None, request_id: str) -> "list[Championship | Said | Answer]":
    """Return what was answered to ``request_id``, else who stood at ``at``, else every decision."""
    if request_id:
        return [*answers(home, model, request_id)]
    return [*standing_at(home, model, at)] if at else [*decisions(home, model)]


def decisions(home: Home, model: str) -> "list[Championship | Said]":
    """Return every change of the champion of ``model``, and every word on its versions, oldest first.

    Empty where there was none. Raises :class:`~ml_platform.components.loading.ModelUnknownError` when nothing is
    recorded of ``model`` and nobody declares it.
    """
    from ml_platform.registry.approvals import APPROVAL_KIND
    from ml_platform.registry.audit import AuditLog
    from ml_platform.registry.promotion import CHALLENGER_KIND

    audit = AuditLog(home.audit_log)
    crowned = _championships(home, model)
    said = [
        Said(record.at, record.facts["word"], record.facts["version"], record.actor, record.facts["reason"])
        for record in audit.records(APPROVAL_KIND)
        if record.facts["model"] == model
    ]
    named = [
        Said(record.at, "challenger", record.facts["version"], record.actor, record.facts["reason"])
        for record in audit.records(CHALLENGER_KIND)
        if record.facts["model"] == model
    ]
    return sorted([*named, *said, *crowned], key=lambda one: one.since if isinstance(one, Championship) else one.at)


def standing_at(home: Home, model: str, at: datetime) -> list[Championship]:
    """Return the championship that stood at ``at``, as a list of one.

    Raises :class:`~ml_platform.console.arguments.ArgumentError` when there was none by then; unknown models as
    :func:`decisions` does.
    """
    past = _championships(home, model)
    standing = [one for one in past if one.since <= at]
    if not standing:
        first = f"its first champion stands since {_clock(past[0].since)}" if past else "it never had a champion"
        raise ArgumentError(
            f"Champion of '{model}' at {_clock(at)}",
            expected="a time since its first promotion",
            found=first,
            mend="The audit log keeps the time of the decision, not that of the data: see ml-platform history.",
        )
    return standing[-1:]


def answers(home: Home, model: str, request_id: str) -> "list[Answer]":
    """Return which versions answered a request; raises where none was logged, as for an unknown model."""
    from ml_platform.data.lake import Lake
    from ml_platform.registry.audit import AuditLog
    from ml_platform.steps.answering import answers_to

    _championships(home, model)
    return answers_to(
        model,
        request_id,
        lake=Lake(str(home.lake)),
        logs=sorted((home.prediction_logs / model).glob("*.jsonl")),
        audit=AuditLog(home.audit_log),
    )


def plain(told: "Championship | Said | Answer") -> dict[str, Any]:
    """Return one decision or answer as JSON values."""
    return {name: _plain(value) for name, value in asdict(told).items()}


def show(found: "Sequence[Championship | Said | Answer]", model: str, console: Console) -> None:
    """Print each decision or answer: when, which version, on which data, by whose decision, why."""
    if not found:
        console.print(f"Nothing was decided of '{model}' yet.")
    for each in found:
        title, lines = _told(each)
        console.print(Text(title, style="bold"))
        for line in lines:
            console.print(Padding(Text(line), (0, 0, 0, 4), expand=False), highlight=False)


def _championships(home: Home, model: str) -> list[Championship]:
    from ml_platform.components.loading import bound_model
    from ml_platform.registry.audit import AuditLog
    from ml_platform.registry.championship import history

    past = history(AuditLog(home.audit_log), model)
    if not past:
        bound_model(model)
    return past


def _told(each: "Championship | Said | Answer") -> tuple[str, list[str]]:
    if isinstance(each, Championship):
        return f"{_clock(each.since)}  {each.action} version {each.version}", _grounds(each)
    if isinstance(each, Said):
        title = f"{each.what} version {each.version}" if each.version else "no challenger any more"
        return f"{_clock(each.at)}  {title}", [f"by {each.decided_by}", each.reason]
    rows = f"{each.rows} rows" if each.rows > 1 else "1 row"
    title = f"{_clock(each.logged_at)}  version {each.version} ({each.role}), {rows}"
    if each.championship is None:
        return title, ["It was not champion by then."]
    crowned = each.championship
    return title, [f"{crowned.action} at {_clock(crowned.since)}", *_grounds(crowned)]


def _grounds(crowned: Championship) -> list[str]:
    manifest = crowned.manifest
    approved = f", approved by {', '.join(crowned.approved_by)}" if crowned.approved_by else ""
    return [
        f"trained and judged on {crowned.partition}, training set {manifest['training_set'][:12]}",
        f"made from {_tables(manifest['tables'])}",
        f"by {crowned.decided_by}{approved}",
        crowned.reason,
    ]


def _tables(tables: dict[str, int]) -> str:
    """Return what came in from outside, by version, and how many change logs: those stand in the manifest."""
    datasets = [f"{name} version {version}" for name, version in tables.items() if name.startswith("datasets/")]
    logs = sum(name.startswith("features/") for name in tables)
    return f"{', '.join(datasets)}, and {logs} change logs"


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return value


def _clock(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
