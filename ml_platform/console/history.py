"""Who was champion when: the changes of the audit log, told to people."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from ml_platform.registry.championship import Championship
from resources.home import Home

if TYPE_CHECKING:
    from ml_platform.steps.answering import Answer


def changes(home: Home, model: str, at: datetime | None) -> list[Championship]:
    """Return every change of the champion of ``model``, oldest first; with ``at``, the one that stood then.

    Empty where there was none. Raises :class:`~ml_platform.components.loading.ModelUnknownError` when nothing is
    recorded of ``model`` and nobody declares it.
    """
    from ml_platform.components.loading import bound_model
    from ml_platform.registry.audit import AuditLog
    from ml_platform.registry.championship import champion_at, history

    audit = AuditLog(home.audit_log)
    every = history(audit, model)
    if not every:
        bound_model(model)
    if at is None:
        return every
    standing = champion_at(audit, model, at)
    return [standing] if standing else []


def answers(home: Home, model: str, request_id: str) -> "list[Answer]":
    """Return which versions answered a request; raises where none was logged, as for an unknown model."""
    from ml_platform.data.lake import Lake
    from ml_platform.registry.audit import AuditLog
    from ml_platform.steps.answering import answers_to

    changes(home, model, None)
    return answers_to(
        model,
        request_id,
        lake=Lake(str(home.lake)),
        logs=sorted((home.prediction_logs / model).glob("*.jsonl")),
        audit=AuditLog(home.audit_log),
    )


def show_answers(found: "Sequence[Answer]", console: Console) -> None:
    """Print each answer: which version in which role, when, and how that version had become champion."""
    for each in found:
        logged = each.logged_at.astimezone(UTC)
        rows = f"{each.rows} rows" if each.rows > 1 else "1 row"
        console.print(Text(f"{logged:%Y-%m-%d %H:%M:%S}Z  version {each.version} ({each.role}), {rows}", style="bold"))
        if each.championship is None:
            console.print(Padding(Text("It was not champion by then."), (0, 0, 0, 4)), highlight=False)
        else:
            show([each.championship], console)


def show(found: Sequence[Championship], console: Console) -> None:
    """Print each change: when, which version, on which data, by whose decision, why."""
    if not found:
        console.print("No champion.")
    for each in found:
        since = each.since.astimezone(UTC)
        console.print(Text(f"{since:%Y-%m-%d %H:%M:%S}Z  {each.action} version {each.version}", style="bold"))
        told = (
            f"trained and judged on {each.partition}, training set {each.manifest['training_set'][:12]}",
            f"by {each.decided_by}" + (f", approved by {', '.join(each.approved_by)}" if each.approved_by else ""),
            each.reason,
        )
        for line in told:
            console.print(Padding(Text(line), (0, 0, 0, 4), expand=False), highlight=False)
