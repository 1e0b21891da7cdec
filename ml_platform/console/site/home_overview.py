"""The content of the home page: all models by domain, the data, the last decisions, and the unresolved failures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Protocol

from ml_platform.alerts.alert import StoredAlert, contract_alert_key, worst_first
from ml_platform.alerts.records import open_alerts
from ml_platform.console.lineage import NO_LINEAGE, ProjectLineage, declared_lineage
from ml_platform.console.load_check import project_digest
from ml_platform.console.savings import NO_RESOURCES, DeclaredResources, declared_resources
from ml_platform.console.site.model_overview import (
    Decision,
    DeclaredModel,
    ModelOverview,
    last_decisions,
    model_overview,
    without_declaration,
)
from ml_platform.data.contract_record import ContractResult, latest_result
from ml_platform.data.domains import Budget, declared_budgets
from ml_platform.monitoring.cost_records import Used, used_by_domain
from ml_platform.registry.audit import AuditLog
from ml_platform.serving.desired_state import DesiredState, all_desired_states

PARTITIONS_SHOWN, DECISIONS_SHOWN = 24, 12
NO_DOMAIN = "without a declaration"
"""Heading of the models that are served or were promoted and have no declaration any more."""


@dataclass(frozen=True)
class DeclaredDataset:
    """A dataset and its domain."""

    name: str
    domain: str


@dataclass(frozen=True)
class Declarations:
    """The declared models and datasets, the error of each domain that does not load, and the lineage of columns.

    ``budgets`` are those of the domains, by name, and ``resources`` the declarations that cost something.
    """

    models: Sequence[DeclaredModel]
    datasets: Sequence[DeclaredDataset]
    not_loaded: Mapping[str, str]
    lineage: ProjectLineage = NO_LINEAGE
    budgets: Mapping[str, Budget] = field(default_factory=dict)
    resources: DeclaredResources = NO_RESOURCES


@dataclass(frozen=True)
class Attention:
    """A state that a person should look at; ``model`` is empty for one of the data.

    ``alert`` is the key of the alert that says the same; None where no kind of alert does.
    """

    model: str
    text: str
    alert: tuple[str, str] | None


@dataclass(frozen=True)
class HomeOverview:
    """The content of the home page. ``data`` has the last partition of each dataset, None before its first one.

    ``alerts`` are the open ones, the worst first. ``costs`` are those of each domain since the month began (UTC), and
    ``budgets`` the declared ones.

    ``failures`` are those of :func:`~resources.run_failures.unresolved_failures`.
    """

    models: Mapping[str, Sequence[ModelOverview]]
    data: Mapping[str, ContractResult | None]
    decisions: Sequence[Decision]
    failures: Sequence[Mapping[str, Any]]
    not_loaded: Mapping[str, str]
    alerts: Sequence[StoredAlert] = ()
    costs: Mapping[str, Used] = field(default_factory=dict)
    budgets: Mapping[str, Budget] = field(default_factory=dict)

    @property
    def attention(self) -> list[Attention]:
        """The models and datasets in a state that a person should look at, without those of the open alerts."""
        found = [each for models in self.models.values() for model in models for each in _attention_to(model)]
        for name, result in self.data.items():
            if result is not None and result.failed_check:
                text = f"dataset {name}: check {result.failed_check} failed on {result.partition or 'the table'}"
                found.append(Attention("", text, contract_alert_key(name, result.partition)))
        alerts = {each.key for each in self.alerts}
        return [each for each in found if each.alert not in alerts]


class DeclarationSource(Protocol):
    """Gives the declarations as they are now."""

    def current(self) -> Declarations: ...


class DeclarationReader:
    """Reads the declarations of the project at ``root``, again only after a file of it has changed.

    Reading takes about 50 ms a model; comparing the files takes a few milliseconds.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._digest = ""
        self._declared = Declarations((), (), {})

    def current(self) -> Declarations:
        """Return the declarations as the files are now."""
        digest = project_digest(self._root)
        if digest != self._digest:
            self._declared = self._read()
            self._digest = digest
        return self._declared

    def _read(self) -> Declarations:
        from ml_platform.components.dataset.component import Dataset
        from ml_platform.components.model.component import Model
        from ml_platform.components.project import read_project

        project = read_project(self._root)
        return Declarations(
            models=[
                DeclaredModel(each.name, each.domain, each.description, each.owners)
                for each in project.components(Model)
            ],
            datasets=[DeclaredDataset(each.name, each.domain) for each in project.components(Dataset)],
            not_loaded=project.not_loaded,
            lineage=declared_lineage(project),
            budgets=declared_budgets(self._root / "assets"),
            resources=declared_resources(project),
        )


def home_overview(
    audit: AuditLog, declared: Declarations, failures: Sequence[Mapping[str, Any]], today: date
) -> HomeOverview:
    """Return the content of the home page; a model without a declaration stands under :data:`NO_DOMAIN`.

    ``today`` is the UTC day until which costs are shown.
    """
    models: dict[str, list[ModelOverview]] = {}
    # One transaction: the page shows one moment, and hundreds of small ones would take half of its time.
    with audit.state.read():
        served = all_desired_states(audit.state).readable
        for each in known_models(audit, declared, served):
            found = model_overview(audit, each, served.get(each.name), partitions=PARTITIONS_SHOWN, series=1)
            models.setdefault(each.domain, []).append(found)
        return HomeOverview(
            models=models,
            data={each.name: latest_result(audit.state, each.name) for each in declared.datasets},
            decisions=last_decisions(audit, DECISIONS_SHOWN),
            failures=failures,
            not_loaded=declared.not_loaded,
            alerts=worst_first(open_alerts(audit.state)),
            costs=used_by_domain(audit.state, today.replace(day=1), today),
            budgets=declared.budgets,
        )


def known_model(audit: AuditLog, declared: Declarations, name: str) -> tuple[DeclaredModel, DesiredState | None] | None:
    """Return the model ``name`` as the pages know it, with its desired state.

    None for a model without declaration, champion and desired state.
    """
    served = all_desired_states(audit.state).readable
    found = next((each for each in known_models(audit, declared, served) if each.name == name), None)
    return None if found is None else (found, served.get(name))


def _attention_to(model: ModelOverview) -> list[Attention]:
    found: list[tuple[str | None, str]] = []
    if model.drift and model.drift[-1].decision == "alert":
        found.append(("drift", f"drift on {model.drift[-1].partition}. {model.drift[-1].reason}"))
    if (doubtful := model.doubtful) is not None:
        doubts = " ".join(each.text for each in doubtful.doubts)
        found.append((None, f"labels are missing in the period from {doubtful.start:%Y-%m-%d}. {doubts}"))
    if model.retraining and model.retraining[0].state == "stopped":
        last = model.retraining[0]
        found.append(("retraining_stopped", f"retraining on {last.window}. {last.training}"))
    if (rollout := model.rollout) is not None and rollout.outcome == "rolled_back":
        text = f"the rollout of version {rollout.candidate.version} was rolled back. {rollout.reason}"
        found.append(("rollout_rolled_back", text))
    return [Attention(model.name, text, None if kind is None else (kind, model.name)) for kind, text in found]


def known_models(audit: AuditLog, declared: Declarations, served: Mapping[str, DesiredState]) -> list[DeclaredModel]:
    """Return the declared models by domain and name, then those with a champion or a desired state alone."""
    names = [each.name for each in declared.models]
    left = without_declaration(audit, names, served.keys())
    return [*sorted(declared.models, key=lambda each: (each.domain, each.name)), *_undeclared(left)]


def _undeclared(names: Sequence[str]) -> list[DeclaredModel]:
    return [DeclaredModel(name, NO_DOMAIN) for name in names]
