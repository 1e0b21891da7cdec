"""All metrics of all models on the same rows, with intervals, for metadata, model card and comparison."""

from dataclasses import dataclass

from ml_platform.evaluation.bootstrap import Bootstrap, Difference, Interval, bootstrap
from ml_platform.evaluation.evidence import CANDIDATE, Evidence


@dataclass(frozen=True)
class MetricSummary:
    """One metric of the candidate, and its improvement over each other model (positive means better)."""

    metric: str
    candidate: Interval
    others: dict[str, float]
    improvements: dict[str, Difference]


def summarize_metrics(evidence: Evidence) -> list[MetricSummary]:
    """Return one summary per metric of the task and of the team's own, with all other models of the evidence."""
    resamples = resampled(evidence)
    others = [name for name in evidence.predictions if name != CANDIDATE]
    return [_metric_summary(resamples, metric, others) for metric in resamples.points[CANDIDATE]]


def resampled(evidence: Evidence) -> Bootstrap:
    """Return the bootstrap of all metrics of the task and of the team's own, for all models of the evidence."""
    return bootstrap(
        evidence.label,
        evidence.predictions,
        evidence.block,
        evidence.settings,
        task=evidence.task,
        bounds=evidence.bounds,
        own=evidence.metrics,
        context=evidence.context,
    )


def flat_metrics(summaries: list[MetricSummary]) -> dict[str, float]:
    """Return the candidate's metrics under the stable names ``<metric>``, ``<metric>_low`` and ``<metric>_high``."""
    numbers: dict[str, float] = {}
    for summary in summaries:
        numbers[summary.metric] = summary.candidate.value
        numbers[f"{summary.metric}_low"] = summary.candidate.low
        numbers[f"{summary.metric}_high"] = summary.candidate.high
    return numbers


def _metric_summary(resamples: Bootstrap, metric: str, others: list[str]) -> MetricSummary:
    # A model that predicts no interval has no coverage.
    others = [name for name in others if metric in resamples.points[name]]
    return MetricSummary(
        metric=metric,
        candidate=resamples.interval(CANDIDATE, metric),
        others={name: resamples.points[name][metric] for name in others},
        improvements={name: resamples.difference(CANDIDATE, name, metric) for name in others},
    )
