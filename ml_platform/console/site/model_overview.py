"""The content of the page of a model: champion, quality over time, drift, rollout and decisions, from the state store.

A page reads a bounded number of rows of each model, so it costs the same after years. It opens neither MLflow nor a
model.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice

from ml_platform.console.costs import CostReport
from ml_platform.console.verdicts import reasons_of
from ml_platform.monitoring.drift_history import DriftSummary, drift_history
from ml_platform.monitoring.performance import ExpectedInterval, PerformanceReport, Period
from ml_platform.monitoring.performance_periods import last_periods
from ml_platform.monitoring.retraining_records import RESUMED_KIND, RecordedDecision
from ml_platform.monitoring.retraining_records import last_decisions as last_retraining_decisions
from ml_platform.monitoring.track_record import TrackRecord, track_record
from ml_platform.registry.approvals import APPROVAL_KIND, DECISION_KEY
from ml_platform.registry.audit import AuditLog, AuditRecord
from ml_platform.registry.champion_history import (
    CHAMPION_KIND,
    ChampionRecord,
    current_champion,
    read_champion_record,
)
from ml_platform.registry.promotion import CHALLENGER_KIND
from ml_platform.registry.verdict_record import (
    VERDICT_KIND,
    JudgedPartition,
    PromotionError,
    last_judged,
    stored_verdict,
)
from ml_platform.serving.desired_state import DesiredState
from ml_platform.serving.rollout import ROLLOUT_KIND, Rollout, read_rollout

LOW, HIGH = "_low", "_high"
"""Ends of the names of a metric's interval."""

HEADLINE = ("auc", "log_loss", "pinball", "rmse", "ndcg")
"""Metrics that a page shows first, of those that a model has."""

DECISION_KINDS = (VERDICT_KIND, CHALLENGER_KIND, APPROVAL_KIND, CHAMPION_KIND, ROLLOUT_KIND, RESUMED_KIND)
"""Kinds of the audit records that are decisions about a model; those on retraining have a section of their own."""


@dataclass(frozen=True)
class DeclaredModel:
    """The parts of a declaration that the pages show."""

    name: str
    domain: str
    description: str = ""
    owners: Sequence[str] = ()


@dataclass(frozen=True)
class QualityPoint:
    """A metric of a partition or period: its value and, if known, the bounds of its 95 % interval.

    ``is_doubtful`` says that labels of the period may mislead.
    """

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    is_doubtful: bool = False


@dataclass(frozen=True)
class QualitySeries:
    """One metric over time: ``promised`` by the evaluations of candidates, ``realised`` by the logged predictions.

    ``estimated`` are the values that were expected of the predictions without labels, and ``record`` says how earlier
    estimates did. ``periods`` are the labels of the realised and estimated points in order of time; empty: those of
    the realised ones.
    """

    metric: str
    promised: Sequence[QualityPoint]
    realised: Sequence[QualityPoint]
    estimated: Sequence[QualityPoint] = ()
    record: TrackRecord | None = None
    periods: Sequence[str] = ()

    @property
    def awaited(self) -> QualityPoint | None:
        """The estimate of the latest period while nothing is realised in it, else None."""
        last = self.estimated[-1] if self.estimated else None
        if last is None or (self.realised and self.realised[-1].label == last.label):
            return None
        return last


@dataclass(frozen=True)
class Decision:
    """One record of the audit log as the pages show it."""

    at: datetime
    model: str
    text: str
    reason: str
    actor: str


@dataclass(frozen=True)
class ModelOverview:
    """The state of a model. ``champion`` is None before the first promotion and after a retirement."""

    declared: DeclaredModel
    champion: ChampionRecord | None
    metrics: Mapping[str, float]
    quality: Sequence[QualitySeries]
    judged: Sequence[JudgedPartition]
    drift: Sequence[DriftSummary]
    serving: DesiredState | None
    rollout: Rollout | None
    decisions: Sequence[Decision] = field(default=())
    retraining: Sequence[RecordedDecision] = field(default=())
    periods: Sequence[Period] = field(default=())
    costs: CostReport | None = None

    @property
    def doubtful(self) -> Period | None:
        """The latest period with labels, if labels of it that are due are missing; else None."""
        return PerformanceReport(periods=list(self.periods)).latest_doubtful

    @property
    def name(self) -> str:
        return self.declared.name

    @property
    def headline(self) -> QualitySeries | None:
        """The series that stands for the model: the first of :data:`HEADLINE` that it has, else its first."""
        by_name = {each.metric: each for each in self.quality}
        return next((by_name[name] for name in HEADLINE if name in by_name), next(iter(self.quality), None))


def model_overview(
    audit: AuditLog,
    declared: DeclaredModel,
    serving: DesiredState | None,
    *,
    partitions: int,
    decisions: int = 0,
    series: int | None = None,
) -> ModelOverview:
    """Return the state of a model with its last ``partitions`` judged partitions and its last ``decisions``.

    ``series`` is the number of metrics over time, the headline first; None: all.
    """
    state, name = audit.state, declared.name
    judged = last_judged(state, name, partitions)
    champion = current_champion(audit, name)
    evaluated = evaluation_of(champion, judged)
    periods = last_periods(state, name, partitions)
    return ModelOverview(
        declared=declared,
        champion=champion,
        metrics={} if evaluated is None else evaluated.metrics,
        quality=quality_series(judged, periods, series),
        judged=judged,
        drift=drift_history(state, name)[-partitions:],
        serving=serving,
        rollout=read_rollout(state, name),
        decisions=last_decisions(audit, decisions, name) if decisions else (),
        retraining=last_retraining_decisions(state, name, max(decisions, 1)),
        periods=periods,
    )


def last_champions(audit: AuditLog, model: str) -> list[int]:
    """Return the last two different versions that were champion of ``model``, the current one last; fewer at first."""
    found: list[int] = []
    for record in audit.newest_first(CHAMPION_KIND, model):
        if (version := read_champion_record(record, model).version) not in found:
            found.insert(0, version)
        if len(found) == 2:
            break
    return found


def quality_series(
    judged: Sequence[JudgedPartition], periods: Sequence[Period], count: int | None = None
) -> list[QualitySeries]:
    """Return one series for each metric with an interval in the last evaluation, in the order of the pages.

    Only the first ``count`` of them are returned; None: all.
    """
    names = interval_metrics(judged[-1].metrics)[:count] if judged else []
    return [
        QualitySeries(
            metric=name,
            promised=[promised_point(each, name) for each in judged if name in each.metrics],
            realised=[_realised_point(each, name) for each in periods if name in each.metrics],
            estimated=[
                _interval_point(_label(each), each.estimates[name]) for each in periods if name in each.estimates
            ],
            record=track_record(periods, name) if any(name in each.estimates for each in periods) else None,
            periods=[_label(each) for each in periods],
        )
        for name in names
    ]


def _label(period: Period) -> str:
    return f"{period.start:%Y-%m-%d}, version {period.version}"


def _interval_point(label: str, interval: ExpectedInterval) -> QualityPoint:
    return QualityPoint(label, interval.value, interval.low, interval.high)


def _realised_point(period: Period, metric: str) -> QualityPoint:
    interval = period.intervals.get(metric)
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return QualityPoint(_label(period), period.metrics[metric], low, high, is_doubtful=bool(period.doubts))


def promised_point(judged: JudgedPartition, metric: str) -> QualityPoint:
    """Return the value of ``metric`` that the evaluation of a partition promises, with its interval if it has one."""
    metrics = judged.metrics
    return QualityPoint(judged.partition, metrics[metric], metrics.get(metric + LOW), metrics.get(metric + HIGH))


def interval_metrics(metrics: Mapping[str, float]) -> list[str]:
    """Return the names of the metrics with an interval, those of :data:`HEADLINE` first."""
    names = sorted(name.removesuffix(LOW) for name in metrics if name.endswith(LOW))
    return sorted(names, key=lambda name: HEADLINE.index(name) if name in HEADLINE else len(HEADLINE))


def last_decisions(audit: AuditLog, limit: int, model: str | None = None) -> list[Decision]:
    """Return the last ``limit`` records, or the last decisions about ``model``, latest first, with their reasons."""
    if model is None:
        return [_with_reasons(audit, record) for record in islice(audit.newest_first(), limit)]
    # Kind by kind, as the index of the log has them.
    found = [record for kind in DECISION_KINDS for record in islice(audit.newest_first(kind, model), limit)]
    return [_with_reasons(audit, record) for record in sorted(found, key=lambda record: -record.sequence)[:limit]]


def _with_reasons(audit: AuditLog, record: AuditRecord) -> Decision:
    """Return the decision of ``record``; the reasons of a verdict are in its own table."""
    decision = decision_of(record)
    if record.kind != VERDICT_KIND or decision.reason:
        return decision
    try:
        content = stored_verdict(audit.state, str(record.facts.get("digest", ""))).content
    except PromotionError as error:
        return replace(decision, reason=str(error))
    return replace(decision, reason=" ".join(reasons_of(content)))


def without_declaration(audit: AuditLog, declared: Collection[str], served: Collection[str]) -> list[str]:
    """Return the models with a champion or a desired state that no declaration names."""
    return sorted({*audit.models(CHAMPION_KIND), *served} - set(declared))


def evaluation_of(champion: ChampionRecord | None, judged: Sequence[JudgedPartition]) -> JudgedPartition | None:
    """Return the last evaluation of the champion among ``judged``, which are in order; None without one."""
    if champion is None:
        return None
    return next((each for each in reversed(judged) if each.candidate == champion.content_digest), None)


def decision_of(record: AuditRecord) -> Decision:
    """Return ``record`` as the pages show it."""
    facts = record.facts
    subject = next(
        (f"{name} {facts[name]}" for name in ("version", "generation", "partition") if facts.get(name) is not None), ""
    )
    done = facts.get(DECISION_KEY) or facts.get("action") or f"{record.kind} {facts.get('decision', '')}"
    text = f"{str(done).replace('_', ' ').strip()} {subject}".strip()
    return Decision(record.at, str(facts.get("model", "")), text, str(facts.get("reason", "")), record.actor)
