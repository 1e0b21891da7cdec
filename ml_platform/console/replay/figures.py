"""The figures of a replay: realised quality of each window, what each policy would have reached, and what it cost."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from ml_platform.console.replay.steps import ReplayPlan, WindowRecord
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


def report_values(
    plan: ReplayPlan,
    records: Sequence[WindowRecord],
    policies: Mapping[str, PolicyFigures],
    period: str,
) -> dict[str, Any]:
    """Return the report as JSON values: a list of windows, named like ``months`` by ``period``, and the policies."""
    quality = {each.window: each for each in policies[plan.policy].windows}
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
        "seconds": sum(each.seconds for each in records),
    }


def _without_predictions(record: WindowRecord) -> WindowQuality:
    lost = 0 if record.sent.champion is None else record.sent.rows
    return WindowQuality(window=record.window, version=None, predictions=0, doubled=0, lost=lost, n=0, metrics={})
