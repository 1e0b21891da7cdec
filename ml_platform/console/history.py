"""Who was champion when: the changes of the audit log, told to people."""

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from ml_platform.registry.championship import Championship
from resources.home import Home


def changes(home: Home, model: str, at: datetime | None) -> list[Championship]:
    """Return every change of the champion of ``model``, oldest first; with ``at``, the one that stood then.

    Empty where there was none. Raises :class:`~ml_platform.components.loading.ModelUnknownError` when nothing is
    recorded of ``model`` and nobody declares it.
    """
    from ml_platform.components.loading import bound_model
    from ml_platform.registry.audit import AuditLog
    from ml_platform.registry.championship import champion_at, history

    audit = AuditLog(home.records / "audit.jsonl")
    every = history(audit, model)
    if not every:
        bound_model(model)
    if at is None:
        return every
    standing = champion_at(audit, model, at)
    return [standing] if standing else []


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
