"""All metrics of all models on the same rows, with intervals: one table for metadata, card and comparison."""

from dataclasses import dataclass

from ml_platform.evaluation.bootstrap import Bootstrap, Difference, Interval, bootstrap
from ml_platform.evaluation.evidence import CANDIDATE, Evidence


@dataclass(frozen=True)
class MetricLine:
    """One metric of the candidate, and by how much it is better than each other model (positive is better)."""

    metric: str
    candidate: Interval
    others: dict[str, float]
    improvements: dict[str, Difference]


def summarize(evidence: Evidence) -> list[MetricLine]:
    """Return one line per metric of the task, over champion and baselines alike."""
    drawn = bootstrap(
        evidence.label,
        evidence.predictions,
        evidence.block,
        evidence.settings,
        task=evidence.task,
        bounds=evidence.bounds,
    )
    others = [name for name in evidence.predictions if name != CANDIDATE]
    return [_line(drawn, metric, others) for metric in drawn.points[CANDIDATE]]


def plain_numbers(lines: list[MetricLine]) -> dict[str, float]:
    """Return the candidate's metrics as ``{metric, metric_low, metric_high}``: names that stay, so that they plot."""
    numbers: dict[str, float] = {}
    for line in lines:
        numbers[line.metric] = line.candidate.value
        numbers[f"{line.metric}_low"] = line.candidate.low
        numbers[f"{line.metric}_high"] = line.candidate.high
    return numbers


def _line(drawn: Bootstrap, metric: str, others: list[str]) -> MetricLine:
    # Not every model predicts an interval, so not every one has a coverage.
    others = [name for name in others if metric in drawn.points[name]]
    return MetricLine(
        metric=metric,
        candidate=drawn.interval(CANDIDATE, metric),
        others={name: drawn.points[name][metric] for name in others},
        improvements={name: drawn.difference(CANDIDATE, name, metric) for name in others},
    )
