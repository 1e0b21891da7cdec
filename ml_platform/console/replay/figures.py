"""The figures of a replay: realised quality of each window, what each policy would have reached, and what it cost."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from ml_platform.console.replay.incidents import PlantedIncident
from ml_platform.console.replay.steps import Policy, ReplayPlan, WindowRecord
from ml_platform.console.replay.traffic import request_prefix
from ml_platform.data.lake import PARTITION, Lake
from ml_platform.monitoring.outcomes import OUTCOME, latest_facts
from ml_platform.monitoring.prediction_log import predictions_table
from ml_platform.training.labels import LABEL

if TYPE_CHECKING:
    from ml_platform.components.model.model_assets import ModelAssets
    from ml_platform.steps.platform_stores import PlatformStores

NEVER = "never"
"""Policy that keeps the first champion: it is computed, because no run would differ but those it does not need."""

EVERY = {
    "hour": "hourly",
    "day": "daily",
    "week": "weekly",
    "month": "monthly",
    "quarter": "quarterly",
    "year": "yearly",
}
"""Name of the policy of a training on each window, by the cadence of the windows."""


class WindowQuality(BaseModel):
    """Realised quality of one window by one policy; ``n`` is less than ``predictions`` where outcomes never come."""

    model_config = ConfigDict(frozen=True)

    window: str
    version: int | None = Field(description="Version that answered; none: nothing was served.")
    predictions: int = Field(description="Rows with a logged prediction.")
    doubled: int = Field(description="Logged predictions of a row beyond the first one.")
    lost: int = Field(description="Rows without a logged prediction.")
    n: int = Field(description="Rows with a known outcome, on which the metrics rest.")
    metrics: dict[str, float]


class PolicyFigures(BaseModel):
    """Quality and cost of one policy over the windows."""

    model_config = ConfigDict(frozen=True)

    policy: str
    windows: list[WindowQuality]
    mean: dict[str, float] = Field(description="Mean of each metric over the windows, each with equal weight.")
    trainings: int = Field(description="Training runs after the first version.")
    training_seconds: float
    computed: bool = Field(default=False, description="Whether it was computed from stored rows and not replayed.")


def replayed_quality(
    model: "ModelAssets", lake: Lake, plan: ReplayPlan, records: Sequence[WindowRecord]
) -> list[WindowQuality]:
    """Return the quality of the logged predictions of each window, with the outcomes that are known now."""
    table = predictions_table(model.name)
    if not lake.exists(table):
        return [_without_predictions(each) for each in records]
    logged = lake.scan(table).filter(pl.col("role") == "stable")
    facts = latest_facts(lake, model.name, lake.partitions(table), model.declared.task.outcome_type)
    known = facts.select("prediction_id", OUTCOME).drop_nulls(OUTCOME)
    found = []
    for record in records:
        mine = pl.col("request_id").str.starts_with(request_prefix(record.window))
        rows = logged.filter(mine).drop(OUTCOME, strict=False).sort("logged_at").collect()
        once = rows.unique(["request_id", "row"], keep="first", maintain_order=True)
        if once.is_empty():
            found.append(_without_predictions(record))
            continue
        labelled = once.join(known, on="prediction_id", how="inner")
        metrics = model.declared.task.realised_metrics(labelled) if labelled.height else {}
        found.append(
            WindowQuality(
                window=record.window,
                version=int(once["version"].mode().sort()[0]),
                predictions=once.height,
                doubled=rows.height - once.height,
                lost=record.sent.rows - once.height,
                n=labelled.height,
                metrics=metrics,
            )
        )
    return found


def quality_of_version(
    model: "ModelAssets", stores: "PlatformStores", version: int, windows: Sequence[str]
) -> list[WindowQuality]:
    """Return the quality that ``version`` would have had in ``windows``, from the point-in-time rows of the lake."""
    from ml_platform.steps.own_features import GivenRows, own_rows
    from ml_platform.steps.scoring import version_files

    files = version_files(stores.registry.version(model.name, version), stores)
    task = files.stored.task
    found = []
    for window in windows:
        stored = stores.lake.scan(model.table, partitions=[window]).drop(PARTITION, strict=False).collect()
        rows = stored.filter(pl.col(LABEL).is_not_null())
        own = own_rows(model, files, GivenRows(rows, model.table, model.feature_set), stores.lake).rows
        label = task.encode(own[LABEL], f"Training set of '{model.name}'")
        metrics = task.score(label, files.stored.predict(own), context=task.context(own))
        quality = WindowQuality(
            window=window,
            version=version,
            predictions=stored.height,
            doubled=0,
            lost=0,
            n=rows.height,
            metrics={**metrics, **task.summary(label)},
        )
        found.append(quality)
    return found


def policy_figures(
    policy: str, windows: Sequence[WindowQuality], records: Sequence[WindowRecord], *, computed: bool = False
) -> PolicyFigures:
    """Return quality and cost together; a computed policy is not trained after its first version."""
    return PolicyFigures(
        policy=policy,
        windows=list(windows),
        mean=mean_metrics(windows),
        trainings=0 if computed else sum(each.trainings for each in records),
        training_seconds=0 if computed else sum(each.training_seconds for each in records),
        computed=computed,
    )


def mean_metrics(windows: Sequence[WindowQuality]) -> dict[str, float]:
    """Return the mean of each metric that all windows with outcomes have, each window with equal weight.

    >>> few, many = ({"n": n, "metrics": {"rmse": each}} for n, each in ((10, 1.0), (90, 2.0)))
    >>> base = {"window": "a", "version": 1, "predictions": 1, "doubled": 0, "lost": 0}
    >>> mean_metrics([WindowQuality(**base, **few), WindowQuality(**base, **many)])
    {'rmse': 1.5}
    """
    measured = [each.metrics for each in windows if each.n]
    shared = set.intersection(*(set(each) for each in measured)) if measured else set()
    names = [name for name in (measured[0] if measured else {}) if name in shared]
    return {name: sum(each[name] for each in measured) / len(measured) for name in names}


def policy_name(policy: Policy, period: str) -> str:
    """Return the name of ``policy`` in a report: ``monthly`` for a training on each window that is a month.

    >>> policy_name("every_window", "month"), policy_name("policy", "month")
    ('monthly', 'policy')
    """
    return EVERY.get(period, policy) if policy == "every_window" else policy


def compared_policies(policies: Mapping[str, PolicyFigures], metric: str) -> dict[str, dict[str, Any]]:
    """Return the policy beside each other one, by the loss ``metric`` in the windows in which both have outcomes.

    ``difference`` is the mean loss of the policy less that of the other one, so a negative number is better.
    ``cost_share`` is its training time divided by the other's; None where the other one trains nothing.
    """
    own, found = policies.get("policy"), dict[str, dict[str, Any]]()
    if own is None:
        return found
    mine = {each.window: each.metrics[metric] for each in own.windows if metric in each.metrics}
    for name, other in policies.items():
        theirs = {each.window: each.metrics[metric] for each in other.windows if metric in each.metrics}
        theirs = {window: loss for window, loss in theirs.items() if window in mine}
        if name == "policy" or not theirs:
            continue
        differences = {window: mine[window] - loss for window, loss in theirs.items()}
        found[name] = {
            "metric": metric,
            "windows": len(differences),
            "difference": sum(differences.values()) / len(differences),
            "worse_in": [window for window, difference in differences.items() if difference > 0],
            "trainings_share": own.trainings / other.trainings if other.trainings else None,
            "cost_share": own.training_seconds / other.training_seconds if other.training_seconds else None,
        }
    return found


def incident_values(
    planted: Sequence[PlantedIncident], records: Sequence[WindowRecord], quality: Sequence[WindowQuality], metric: str
) -> list[dict[str, Any]]:
    """Return each planted incident with the alerts that opened in its windows or the one after, and its effect.

    ``before``, ``within`` and ``after`` are the mean of ``metric`` in the two windows before the incident, in its own
    ones, and in the two after; an incident that does not end has the first window as its own one.
    """
    windows = [each.window for each in records]
    losses = {each.window: each.metrics.get(metric) for each in quality}

    def mean_of(chosen: Sequence[str]) -> float | None:
        known = [loss for each in chosen if (loss := losses.get(each)) is not None]
        return sum(known) / len(known) if known else None

    found = []
    for each in planted:
        if each.windows[0] not in windows:
            continue
        first = windows.index(each.windows[0])
        end = first + (1 if each.incident.windows is None else each.incident.windows)
        seen = records[first : end + 1]
        found.append(
            {
                "name": each.name,
                "what": each.incident.what,
                "window": each.windows[0],
                "noticed": [{"window": record.window, **alert} for record in seen for alert in record.alerts],
                "metric": metric,
                "before": mean_of(windows[max(0, first - 2) : first]),
                "within": mean_of(windows[first:end]),
                "after": mean_of(windows[end : end + 2]),
                "lost": sum(one.lost for one in quality if one.window in windows[first : end + 1]),
                "doubled": sum(one.doubled for one in quality if one.window in windows[first : end + 1]),
                "champion_before": records[first].sent.champion,
                "champion_after": seen[-1].champion,
            }
        )
    return found


def report_values(
    plan: ReplayPlan,
    records: Sequence[WindowRecord],
    policies: Mapping[str, PolicyFigures],
    period: str,
    metric: str,
    planted: Sequence[PlantedIncident] = (),
) -> dict[str, Any]:
    """Return the report as JSON values: a list of windows, named like ``months`` by ``period``, and the policies.

    ``metric`` is the loss by which policies are compared, and by which the effect of ``planted`` incidents is shown.
    """
    quality = {each.window: each for each in policies[policy_name(plan.policy, period)].windows}
    windows = []
    for record in records:
        found = quality[record.window]
        windows.append(
            {
                period: record.window,
                "window": record.window,
                "n": found.n,
                **found.metrics,
                "champion_version": found.version,
                "champion_after": record.champion,
                "predictions": found.predictions,
                "lost": found.lost,
                "doubled": found.doubled,
                "decisions": record.decisions,
                "alerts": record.alerts,
                "drift": record.drift,
                "runs": record.runs,
                "failed_runs": record.failed_runs,
                "run_seconds": record.run_seconds,
                "training_seconds": record.training_seconds,
                "seconds": record.seconds,
            }
        )
    return {
        "domain": plan.domain,
        "model": plan.model,
        f"{period}s": windows,
        "policies": {name: each.model_dump(mode="json") for name, each in policies.items()},
        "compared": compared_policies(policies, metric),
        "incidents": incident_values(planted, records, policies[policy_name(plan.policy, period)].windows, metric),
        "seconds": sum(each.seconds for each in records),
    }


def _without_predictions(record: WindowRecord) -> WindowQuality:
    lost = 0 if record.sent.champion is None else record.sent.rows
    return WindowQuality(window=record.window, version=None, predictions=0, doubled=0, lost=lost, n=0, metrics={})
