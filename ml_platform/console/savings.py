"""Costs that could be saved: idle endpoints, oversized resources, and features and tables that nothing uses.

Everything comes from the ledger of steps, the counts of predictions and the catalog of the lake; no run is looked at.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil
import yaml
from pydantic import Field
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from ml_platform.console.costs import cost_text
from ml_platform.console.lineage import NO_LINEAGE, ProjectLineage, declared_lineage
from ml_platform.data.cadences import SECONDS_PER_HOUR
from ml_platform.data.lake_catalog import stored_sizes
from ml_platform.data.settings import Settings
from ml_platform.monitoring.cost_records import StepPeaks, Used, asset_days, step_peaks, total
from ml_platform.monitoring.prediction_days import prediction_count
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import current_champion
from ml_platform.serving.desired_state import DesiredState, all_desired_states
from ml_platform.serving.gateway_clusters import cluster_name
from ml_platform.serving.marked_processes import SERVICE_PREFIX, process_name, processes_of
from ml_platform.serving.replicas import service_of
from ml_platform.state.store import StateStore
from ml_platform.steps.orphans import DeclaredNames
from ml_platform.training.compute import Compute
from ml_platform.training.resource_usage import GB, PriceList

if TYPE_CHECKING:
    from ml_platform.components.project import Project

Kind = Literal[
    "idle endpoint", "oversized resource", "unused feature view", "unread dataset", "table without declaration"
]

GIB = 1024**3
DAYS_PER_MONTH = 30
SERVING_ASSETS = ("bento", "rollout", "predictions", "outcomes", "performance", "drift")
"""Last parts of the keys of a model's assets that exist for its endpoint."""


class SavingSettings(Settings):
    """When something counts as unused, under `savings` in params.yaml."""

    idle_endpoint_days: int = Field(
        default=14, ge=1, le=365, description="Days (UTC) without a request after which an endpoint is idle."
    )
    used_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Share of the declared cores, memory or GPUs below whose use by every step they are oversized.",
    )
    minimum_steps: int = Field(default=3, ge=1, description="Steps that are needed to judge declared resources.")


@dataclass(frozen=True)
class DeclaredResources:
    """The declarations that cost something: lineage, resources of candidates by asset, and datasets that are scored.

    ``is_complete`` is false while a domain does not load: then nothing is unused for certain.
    """

    lineage: ProjectLineage = NO_LINEAGE
    compute: Mapping[str, Compute] = field(default_factory=dict)
    scored: frozenset[str] = frozenset()
    is_complete: bool = True


NO_RESOURCES = DeclaredResources()
"""The resources of a project without declarations."""


@dataclass(frozen=True)
class Saving:
    """Something that costs more than it is used. ``used`` is what it cost, or what was reserved for nothing.

    ``size_bytes`` is its stored size, 0 where nothing is stored.
    """

    kind: Kind
    name: str
    domain: str
    text: str
    used: Used
    size_bytes: int = 0

    def json_values(self) -> dict[str, Any]:
        """Return the saving as JSON values."""
        return {
            "kind": self.kind,
            "name": self.name,
            "domain": self.domain,
            "text": self.text,
            "cpu_seconds": self.used.cpu_seconds,
            "gpu_seconds": self.used.gpu_seconds,
            "money": self.used.money,
            "size_bytes": self.size_bytes,
        }


@dataclass(frozen=True)
class _Look:
    """The ``days`` UTC days until ``today``, with the prices of now."""

    state: StateStore
    declared: DeclaredResources
    prices: PriceList
    settings: SavingSettings
    today: date
    days: int

    @property
    def first(self) -> date:
        return self.today - timedelta(days=self.days - 1)


def read_saving_settings(repository: Path) -> SavingSettings:
    """Return `savings` of `params.yaml` in ``repository``, or the defaults."""
    path = repository / "params.yaml"
    parameters: dict[str, Any] = yaml.safe_load(path.read_text()) if path.exists() else {}
    return SavingSettings.model_validate((parameters or {}).get("savings") or {})


def declared_resources(project: "Project") -> DeclaredResources:
    """Return the declarations of ``project`` that cost something."""
    from ml_platform.components.model.component import Model

    models = project.components(Model)
    return DeclaredResources(
        lineage=declared_lineage(project),
        compute={
            f"{model.name}/candidate_{name}": trainer.compute
            for model in models
            for name, trainer in model.trainers.items()
            if trainer.compute is not None
        },
        scored=frozenset(model.scores.dataset for model in models if model.scores is not None),
        is_complete=not project.not_loaded,
    )


def find_savings(
    state: StateStore,
    declared: DeclaredResources,
    prices: PriceList,
    settings: SavingSettings,
    today: date,
    days: int,
    run: Path | None = None,
    logs: Path | None = None,
) -> list[Saving]:
    """Return what could be saved, by the costs of the last ``days`` UTC days until ``today``, the dearest first.

    ``run`` is the folder of the running processes, whose use is added to an idle endpoint, and ``logs`` that of
    prediction logs that may not be ingested yet; None: there are none.
    """
    look = _Look(state, declared, prices, settings, today, days)
    found = [*_idle_endpoints(look, run, logs), *_oversized(look)]
    if declared.is_complete:
        found += [*_unused_views(look), *_unread_datasets(look), *_undeclared_tables(look)]
    return sorted(found, key=lambda each: (-each.used.money, -each.used.cpu_seconds, -each.size_bytes, each.name))


def savings_of(savings: Sequence[Saving], subject: str) -> list[Saving]:
    """Return the savings of the domain or model ``subject``; empty: all."""
    return [each for each in savings if subject in ("", each.domain, each.name) or each.name.startswith(f"{subject}/")]


def show(savings: Sequence[Saving], currency: str | None, console: Console) -> None:
    """Print what could be saved; nothing without a saving."""
    if not savings:
        return
    console.print("Could be saved:", style="bold")
    for each in savings:
        size = f", {each.size_bytes / GB:.2f} GB stored" if each.size_bytes else ""
        console.print(Text(f"  {each.kind} {each.name}: {cost_text(each.used, currency)}{size}"), soft_wrap=True)
        console.print(Padding(Text(each.text), (0, 0, 0, 4)))


def _idle_endpoints(look: _Look, run: Path | None, logs: Path | None) -> Iterator[Saving]:
    days = look.settings.idle_endpoint_days
    first = datetime.combine(look.today - timedelta(days=days - 1), datetime.min.time(), UTC)
    end = datetime.combine(look.today + timedelta(days=1), datetime.min.time(), UTC)
    audit, running = AuditLog(look.state), None
    for model, desired in sorted(all_desired_states(look.state).readable.items()):
        champion = current_champion(audit, model)
        if not desired.served_versions or champion is None or champion.since >= first:
            continue
        if prediction_count(look.state, model, first, end) or _has_recent_log(logs, model, first):
            continue
        running = _use_of_services(run, look) if running is None else running
        services = [cluster_name(model, each) for each in desired.served_versions]
        processes = [use for name, use in running if service_of(name) in services]
        steps = _used_by(look, [f"{model}/{part}" for part in SERVING_ASSETS])
        text = f"Version {_served_text(desired)} had no request in the last {days} days (UTC)."
        text += f" {_processes_text(processes)}"
        yield Saving("idle endpoint", model, _domain_of_model(look, model), text, total([steps, *processes]))


def _has_recent_log(logs: Path | None, model: str, first: datetime) -> bool:
    """Return whether the service has written predictions since ``first`` that are not ingested yet."""
    if logs is None:
        return False
    files = (file.stat() for file in (logs / model).glob("*.jsonl"))
    return any(each.st_size and each.st_mtime >= first.timestamp() for each in files)


def _use_of_services(run: Path | None, look: _Look) -> list[tuple[str, Used]]:
    """Return the use of each running service since its start, at most in the days of the look, by name."""
    found = []
    for process in [] if run is None else processes_of(run):
        name = process_name(process)
        if name.startswith(SERVICE_PREFIX):
            try:
                times, memory, started = process.cpu_times(), process.memory_info().rss, process.create_time()
            except psutil.NoSuchProcess:
                continue
            lived = max(time.time() - started, 1.0)
            seconds = min(lived, look.days * 24 * SECONDS_PER_HOUR)
            cpu = (times.user + times.system) * seconds / lived
            hourly = cpu * look.prices.cpu_hour + seconds * memory / GB * look.prices.memory_gb_hour
            used = Used(seconds, cpu, 0.0, memory, 0, hourly / SECONDS_PER_HOUR)
            found.append((name.removeprefix(SERVICE_PREFIX), used))
    return found


def _served_text(desired: DesiredState) -> str:
    return " and ".join(each.version for each in desired.served_versions)


def _processes_text(processes: Sequence[Used]) -> str:
    if not processes:
        return "Its services do not run on this machine now, so only its steps are counted."
    memory = sum(each.peak_memory_bytes for each in processes) / GB
    subject = "Its process has" if len(processes) == 1 else f"Its {len(processes)} processes have"
    return f"{subject} {memory:.2f} GB of memory."


def _oversized(look: _Look) -> Iterator[Saving]:
    peaks = step_peaks(look.state, look.first, look.today, list(look.declared.compute))
    for asset, compute in sorted(look.declared.compute.items()):
        found = peaks.get(asset)
        if found is None or found.steps < look.settings.minimum_steps:
            continue
        texts, reserved = _unused_parts(found, compute, look)
        if texts:
            text = f"{found.steps} steps in {look.days} days used at most {listed_text(texts)}."
            yield Saving("oversized resource", asset, _domain_of_model(look, asset.partition("/")[0]), text, reserved)


def _unused_parts(found: StepPeaks, compute: Compute, look: _Look) -> tuple[list[str], Used]:
    """Return a text about each resource that no step used by the declared share, and what was reserved for nothing."""
    texts, cpu, gpu, money, share = [], 0.0, 0.0, 0.0, look.settings.used_share
    hours = found.wall_seconds / SECONDS_PER_HOUR
    # A step needs a core, so one that is declared is not oversized.
    if compute.cpus > 1 and found.cores < share * compute.cpus:
        texts.append(f"{found.cores:.2g} of {compute.cpus:g} cores")
        cpu = (compute.cpus - max(found.cores, 1.0)) * found.wall_seconds
        money += cpu / SECONDS_PER_HOUR * look.prices.cpu_hour
    if compute.memory_gb is not None and found.memory_bytes < share * compute.memory_gb * GIB:
        texts.append(f"{found.memory_bytes / GIB:.2g} of {compute.memory_gb:g} GiB of memory")
        unused = compute.memory_gb * GIB - found.memory_bytes
        money += unused / GB * hours * look.prices.memory_gb_hour
    if compute.gpus and found.gpus < share * compute.gpus:
        texts.append(f"{found.gpus:.2g} of {compute.gpus} GPUs at a time")
        gpu = compute.gpus * found.wall_seconds - found.gpu_seconds
        money += gpu / SECONDS_PER_HOUR * look.prices.gpu_hour
    return texts, Used(found.wall_seconds, cpu, gpu, 0, 0, money)


def listed_text(texts: Sequence[str]) -> str:
    """Return ``texts`` as a list in words.

    >>> listed_text(["1 of 4 cores", "2 of 16 GiB of memory"])
    '1 of 4 cores and 2 of 16 GiB of memory'
    """
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def _unused_views(look: _Look) -> Iterator[Saving]:
    lineage, sizes = look.declared.lineage, stored_sizes(look.state)
    used = {view for model in lineage.models.values() for view in model.views}
    used |= {needed for view in used if view in lineage.views for needed in lineage.views[view].inputs}
    for name in sorted(set(lineage.views) - used):
        folder = f"features/{name}"
        size = _size_below(sizes, folder)
        cost = total([_used_by(look, [folder]), _storage(size, look)])
        yield Saving("unused feature view", name, _domain_of_asset(look, folder), "No model uses it.", cost, size)


def _unread_datasets(look: _Look) -> Iterator[Saving]:
    lineage, sizes = look.declared.lineage, stored_sizes(look.state)
    read = {name for model in lineage.models for name in lineage.datasets_of(model)} | look.declared.scored
    read |= {source.dataset for view in lineage.views.values() for source in view.sources}
    read |= {name for each in lineage.datasets.values() for name in each.lookups}
    for name in sorted(set(lineage.datasets) - read):
        asset = f"datasets/{name}"
        size = sizes.get(asset, 0)
        cost = total([_used_by(look, [asset]), _storage(size, look)])
        text = "No model, feature view or other dataset reads it."
        yield Saving("unread dataset", name, lineage.datasets[name].domain, text, cost, size)


def _undeclared_tables(look: _Look) -> Iterator[Saving]:
    lineage = look.declared.lineage
    names = DeclaredNames(lineage.datasets.keys(), lineage.views.keys(), lineage.models.keys())
    folders: dict[str, int] = {}
    for table, size in stored_sizes(look.state).items():
        owner = names.owner_of(table)
        if owner is not None and not owner[1]:
            folder = f"{table.partition('/')[0]}/{owner[0]}"
            folders[folder] = folders.get(folder, 0) + size
    for folder, size in sorted(folders.items()):
        text = "Its declaration was deleted. `ml-platform status` names the verb that ends it."
        yield Saving("table without declaration", folder, "", text, _storage(size, look), size)


def _used_by(look: _Look, assets: Sequence[str]) -> Used:
    """Return the cost of the steps of ``assets`` and of their checks."""
    days = asset_days(look.state, look.first, look.today, assets=assets)
    return total(each.used for each in days)


def _storage(size: int, look: _Look) -> Used:
    return Used(money=size / GB * look.prices.stored_gb_month * look.days / DAYS_PER_MONTH)


def _size_below(sizes: Mapping[str, int], folder: str) -> int:
    return sum(size for table, size in sizes.items() if table == folder or table.startswith(f"{folder}/"))


def _domain_of_model(look: _Look, model: str) -> str:
    found = look.declared.lineage.models.get(model)
    return "" if found is None else found.domain


def _domain_of_asset(look: _Look, asset: str) -> str:
    days = asset_days(look.state, look.first, look.today, assets=[asset])
    return days[-1].domain if days else ""
