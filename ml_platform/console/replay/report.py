"""Writes `replay.json` and `replay.html`: quality by policy, decisions with their reasons, drift, versions and cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_platform.console.arguments import domain_module
from ml_platform.console.replay.figures import (
    NEVER,
    PolicyFigures,
    WindowQuality,
    policy_figures,
    policy_name,
    quality_of_version,
    replayed_quality,
    report_values,
)
from ml_platform.console.replay.incidents import PlantedIncident, plant
from ml_platform.console.replay.platform import replay_environment
from ml_platform.console.replay.steps import Policy, ReplayError, ReplayPlan, ReplayRecords, WindowRecord
from ml_platform.console.site.pages import replay_page
from ml_platform.data.atomic import write_json, write_text
from resources.home import Home

if TYPE_CHECKING:
    from ml_platform.components.model.model_assets import ModelAssets
    from ml_platform.steps.platform_stores import PlatformStores

LOSSES = ("log_loss", "rmse", "pinball")
"""Metrics by which policies are compared, less is better: the first one that the task has."""

METRICS_SHOWN = ("log_loss", "auc", "rmse", "mae")
"""Metrics that are drawn, those of them that the task has."""


def write_report(folder: Path, homes: Mapping[Policy, Home]) -> dict[str, Any]:
    """Write the report on the replays in ``homes`` to ``folder``, and return its values.

    Raises :class:`~.steps.ReplayError` while no window is replayed.
    """
    figures: dict[str, PolicyFigures] = {}
    plan: ReplayPlan | None = None
    records: list[WindowRecord] = []
    planted: list[PlantedIncident] = []
    period, metric = "window", ""
    for policy, home in homes.items():
        own_plan, own_records = _read(home)
        with replay_environment(home, {"domains": [own_plan.domain.split(".")[0]]}):
            from ml_platform.components.loading import bound_model
            from ml_platform.components.stores import open_home_stores

            model, stores = bound_model(own_plan.model), open_home_stores(home)
            quality = replayed_quality(model, stores.lake, own_plan, own_records)
            name = policy_name(policy, model.partitions.cadence)
            figures[name] = policy_figures(name, quality, own_records)
            if plan is None:
                plan, records, period = own_plan, own_records, model.partitions.cadence
                metric = next((each for each in LOSSES if each in model.declared.task.metrics), "")
                planted = plant(domain_module(plan.domain, "replay"), plan.incidents, plan.windows)
                served = [each for each in own_records if each.sent.champion is not None]
                if served:
                    kept = _never(model, stores, served, quality)
                    figures[NEVER] = policy_figures(NEVER, kept, own_records, computed=True)
    assert plan is not None
    found = report_values(plan, records, figures, period, metric, planted)
    write_json(folder / "replay.json", found)
    write_text(folder / "replay.html", replay_page(drawn_values(found, figures, records), period))
    return found


def drawn_values(
    report: Mapping[str, Any], figures: Mapping[str, PolicyFigures], records: Sequence[WindowRecord]
) -> dict[str, Any]:
    """Return ``report`` with the ``metrics`` that the page shows, and their ``lines``: metric, policy, values."""
    metrics = [name for name in METRICS_SHOWN if any(name in each.mean for each in figures.values())]
    return {**report, "metrics": metrics, "lines": {name: _lines(name, figures, records) for name in metrics}}


def _never(
    model: "ModelAssets", stores: "PlatformStores", served: Sequence[WindowRecord], replayed: Sequence[WindowQuality]
) -> list[WindowQuality]:
    """Return the quality of the first champion in the windows since it served that have their rows.

    In the windows that it answered itself, these are its logged predictions.
    """
    version = served[0].sent.champion
    assert version is not None
    own = {record.window for record in served if record.sent.champion == version}
    stored = set(stores.lake.partitions(model.table))
    later = [each.window for each in served if each.window not in own and each.window in stored]
    computed = {each.window: each for each in quality_of_version(model, stores, version, later)} if later else {}
    found = {**{each.window: each for each in replayed if each.window in own}, **computed}
    return [found[each.window] for each in served if each.window in found]


def _read(home: Home) -> tuple[ReplayPlan, list[WindowRecord]]:
    records = ReplayRecords(home)
    plan = records.plan()
    found = [] if plan is None else records.windows(plan)
    if plan is None or not found:
        raise ReplayError(
            f"Replay in {home.root}",
            expected="a replayed window",
            found="none",
            fix="Run `ml-platform replay` first.",
        )
    return plan, found


def _lines(
    metric: str, figures: Mapping[str, PolicyFigures], records: Sequence[WindowRecord]
) -> dict[str, list[float | None]]:
    """Return the values of ``metric`` by policy, one for each window; None where it has none."""
    lines = {}
    for name, policy in figures.items():
        by_window = {each.window: each.metrics.get(metric) for each in policy.windows}
        lines[name] = [by_window.get(each.window) for each in records]
    return lines
