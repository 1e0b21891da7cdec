"""The inventory of models: purpose, owner, risk, data and version in service of each, for `ml-platform models`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from ml_platform.console.lineage import ProjectLineage, declared_lineage
from ml_platform.console.site.model_overview import without_declaration
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import current_champion
from ml_platform.serving.desired_state import DesiredState, all_desired_states

if TYPE_CHECKING:
    from ml_platform.components.project import Project
    from ml_platform.steps.model_settings import ModelSettings

NOT_STATED = "not stated"
"""Risk of a model whose declaration has none."""


@dataclass(frozen=True)
class DeclaredUse:
    """The declaration of a model as an auditor reads it. ``approvals`` is the number of people who must approve.

    ``data`` are the datasets from which its rows, labels and features come, and ``personal_data`` those of their
    columns that identify a person, as ``<dataset>.<column>``.
    """

    domain: str
    owners: Sequence[str]
    purpose: str
    intended_use: str
    limits: Sequence[str]
    task: str
    target: str
    risk: str
    risk_reason: str
    approvals: int
    gates: Sequence[str]
    slices: Sequence[str]
    data: Sequence[str]
    personal_data: Sequence[str]


@dataclass(frozen=True)
class InventoryEntry:
    """One model. ``declared`` is None for a model that has a champion or is served and has no declaration any more.

    ``version`` is the champion, None without one. ``served`` are the percents of requests by version.
    """

    name: str
    declared: DeclaredUse | None
    version: int | None
    since: datetime | None
    decided_by: str
    trained_for: str
    served: dict[str, int]


def inventory(audit: AuditLog, project: "Project") -> list[InventoryEntry]:
    """Return all declared models by domain and name, then those with a champion or a desired state alone."""
    from ml_platform.components.model.component import Model

    lineage = declared_lineage(project)
    served = all_desired_states(audit.state).readable
    declared = {each.name: declared_use(each, each.domain, lineage) for each in project.components(Model)}
    names = sorted(declared, key=lambda name: (declared[name].domain, name))
    left = without_declaration(audit, names, served.keys())
    return [_entry(audit, name, declared.get(name), served.get(name)) for name in [*names, *left]]


def declared_use(model: "ModelSettings", domain: str, lineage: ProjectLineage) -> DeclaredUse:
    """Return the parts of the declaration ``model`` that an auditor reads."""
    data = lineage.datasets_of(model.name)
    personal = [
        f"{name}.{column}"
        for name in data
        if name in lineage.datasets
        for column, rule in lineage.datasets[name].columns.items()
        if rule.pii
    ]
    return DeclaredUse(
        domain=domain,
        owners=model.owners,
        purpose=model.description,
        intended_use=model.intended_use,
        limits=model.limits,
        task=model.task.name,
        target=model.target,
        risk=NOT_STATED if model.risk is None else model.risk.level,
        risk_reason="" if model.risk is None else model.risk.reason,
        approvals=0 if model.approval.mode == "auto" else model.approval.people,
        gates=[each.name for each in model.gates],
        slices=model.evaluation.slices,
        data=data,
        personal_data=personal,
    )


def show(entries: Sequence[InventoryEntry], console: Console) -> None:
    """Print the inventory: two or three lines for each model."""
    if not entries:
        console.print("No model is declared, and none has a champion.", highlight=False)
    for each in entries:
        declared = each.declared
        champion = "no champion" if each.since is None else f"version {each.version} since {each.since:%Y-%m-%d}"
        owners = "" if declared is None else ", ".join(declared.owners) or "no owner"
        risk = "" if declared is None else f"risk {declared.risk}"
        facts = " · ".join(text for text in (champion, owners, risk) if text)
        console.print(Text.assemble((each.name, "bold"), f"  {facts}"))
        lines = ["Not declared any more."]
        if declared is not None:
            personal = f", of it personal: {', '.join(declared.personal_data)}" if declared.personal_data else ""
            lines = [declared.purpose, f"Data: {', '.join(declared.data)}{personal}"]
        for line in lines:
            console.print(Padding(Text(line), (0, 0, 0, 2)))


def _entry(audit: AuditLog, name: str, declared: DeclaredUse | None, serving: DesiredState | None) -> InventoryEntry:
    champion = current_champion(audit, name)
    roles = {} if serving is None else {role: getattr(serving, role) for role in serving.weights}
    return InventoryEntry(
        name=name,
        declared=declared,
        version=None if champion is None else champion.version,
        since=None if champion is None else champion.since,
        decided_by="" if champion is None else champion.decided_by,
        trained_for="" if champion is None else champion.partition,
        served={each.version: (serving.weights[role] if serving else 0) for role, each in roles.items() if each},
    )
