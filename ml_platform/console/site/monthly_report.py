"""The content of the report of a calendar month for people who use no other page: who served, how well, and why.

Only the records of the month are read, and a bounded number of others, so a report costs the same after years.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import dagster as dg

from ml_platform.console.site.home_overview import Declarations, known_models
from ml_platform.console.site.model_overview import (
    DECISION_KINDS,
    Decision,
    DeclaredModel,
    QualityPoint,
    decision_of,
    evaluation_of,
    interval_metrics,
    promised_point,
)
from ml_platform.data.cadences import months_before
from ml_platform.errors import PlatformError
from ml_platform.monitoring.cost_records import Used, used_by_model
from ml_platform.monitoring.drift_history import DriftSummary, drift_history
from ml_platform.monitoring.performance import Period
from ml_platform.monitoring.performance_periods import periods_between
from ml_platform.monitoring.prediction_days import prediction_count
from ml_platform.registry.audit import AuditLog, AuditRecord
from ml_platform.registry.champion_history import ChampionRecord, champion_at
from ml_platform.registry.verdict_record import VERDICT_KIND, JudgedPartition, last_judged
from ml_platform.serving.desired_state import all_desired_states
from resources.run_failures import failed_runs_between

if TYPE_CHECKING:
    from ml_platform.registry.tracking import Tracking

FAILURES_LISTED = 10
JUDGED_READ = 60
"""Last judged windows of a model that are read; a promise of an earlier one is not shown."""

REALISED_MONTHS, REALISED_SHOWN = 3, 4
"""A report shows the last periods of the last months, this one included, because outcomes become known late."""


class MonthError(PlatformError):
    """Raised for a month or a time zone that cannot be read, and for a month that has not begun."""


@dataclass(frozen=True)
class Month:
    """A calendar month of ``zone``: its first instant, and the first one after it or the time of the report."""

    label: str
    start: datetime
    end: datetime
    zone: str

    @property
    def is_over(self) -> bool:
        """Whether the month had ended when it was reported."""
        return self.end == months_before(self.start, -1, ZoneInfo(self.zone))


@dataclass(frozen=True)
class ModelMonth:
    """One model in the month. ``champion`` is that of its end. ``cost`` is that of all steps that ended in it.

    The cost of a month from before the ledger is that of the fits, and None without an MLflow store.

    ``realised`` has evaluated periods only, and ``decisions`` has no verdicts, of which ``judged`` has the last ones.
    """

    declared: DeclaredModel
    champion: ChampionRecord | None
    promised: Mapping[str, QualityPoint]
    realised: Sequence[Period]
    judged: Sequence[JudgedPartition]
    drift: Sequence[DriftSummary]
    decisions: Sequence[Decision]
    predictions: int
    cost: Used | None

    @property
    def name(self) -> str:
        return self.declared.name

    @property
    def verdicts(self) -> Mapping[str, int]:
        """The number of judged windows by decision."""
        return Counter(each.decision for each in self.judged)

    @property
    def drift_decisions(self) -> Mapping[str, int]:
        """The number of judged windows by the decision of their drift check."""
        return Counter(each.decision for each in self.drift)

    @property
    def regressed(self) -> list[str]:
        """The metrics in which the last evaluated period of the version in service is worse than promised."""
        own = [each for each in self.realised if self._is_of_champion(each)]
        return own[-1].regressed_metrics if own else []

    @property
    def is_confirmed(self) -> bool:
        """Whether outcomes of a period of the version in service were known without doubt, and no metric is worse."""
        certain = [each for each in self.realised if not each.doubts]
        return any(self._is_of_champion(each) for each in certain) and not self.regressed

    def _is_of_champion(self, period: Period) -> bool:
        return self.champion is not None and period.version == str(self.champion.version)


@dataclass(frozen=True)
class MonthlyReport:
    """The models by domain, the decisions about no model, and the failed runs of the month."""

    month: Month
    models: Mapping[str, Sequence[ModelMonth]]
    decisions: Sequence[Decision]
    failure_count: int
    failures: Sequence[Mapping[str, Any]]


def read_month(text: str | None, zone: str, now: datetime) -> Month:
    """Return the month ``text`` like 2026-10 in the time zone ``zone``; None is the last one that is over.

    Raises :class:`MonthError` for a text or a zone of another form, and for a month that begins after ``now``.

    >>> from datetime import UTC
    >>> read_month(None, "UTC", datetime(2026, 11, 27, tzinfo=UTC)).label
    '2026-10'
    >>> read_month("2026-11", "Europe/Berlin", datetime(2026, 11, 27, tzinfo=UTC)).start.isoformat()
    '2026-11-01T00:00:00+01:00'
    """
    try:
        place = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        expected = "a name like UTC or Europe/Berlin"
        raise MonthError(
            "Time zone of the report", expected=expected, found=zone, fix="Correct --time-zone."
        ) from error
    today = now.astimezone(place)
    this_month = today.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    if text is None:
        start = months_before(this_month, 1, place).astimezone(place)
    else:
        try:
            start = datetime.strptime(text, "%Y-%m").replace(tzinfo=place)
        except ValueError as error:
            raise MonthError(
                "Month of the report", expected="a calendar month like 2026-10", found=text, fix="Correct --month."
            ) from error
    if start > this_month:
        raise MonthError(
            "Month of the report",
            expected=f"one that has begun by {today:%Y-%m-%d}",
            found=f"{start:%Y-%m}",
            fix="Correct --month.",
        )
    return Month(f"{start:%Y-%m}", start, min(months_before(start, -1, place), today), zone)


def monthly_report(
    month: Month,
    audit: AuditLog,
    declared: Declarations,
    tracking: "Tracking | None",
    instance: dg.DagsterInstance,
) -> MonthlyReport:
    """Return the report of ``month``; ``tracking`` gives the cost of fits in a month from before the ledger."""
    models: dict[str, list[ModelMonth]] = {}
    records = [each for each in audit.between(month.start, month.end) if each.kind in DECISION_KINDS]
    named: set[int] = set()
    last = (month.end - timedelta(microseconds=1)).astimezone(UTC).date()
    costs = used_by_model(audit.state, month.start.astimezone(UTC).date(), last)
    for each in known_models(audit, declared, all_desired_states(audit.state).readable):
        names = {each.name, *audit.former_names(each.name)}
        own = [record for record in records if record.facts.get("model") in names]
        named |= {record.sequence for record in own}
        models.setdefault(each.domain, []).append(_model_month(month, audit, each, own, tracking, costs))
    count, failures = failed_runs_between(instance, month.start, month.end, FAILURES_LISTED)
    return MonthlyReport(
        month=month,
        models=models,
        decisions=[decision_of(each) for each in records if each.sequence not in named],
        failure_count=count,
        failures=failures,
    )


def _model_month(
    month: Month,
    audit: AuditLog,
    declared: DeclaredModel,
    records: Sequence[AuditRecord],
    tracking: "Tracking | None",
    costs: Mapping[str, Used],
) -> ModelMonth:
    state, name = audit.state, declared.name
    judged = last_judged(state, name, JUDGED_READ)
    in_month = [each for each in judged if month.start <= each.at < month.end]
    champion = champion_at(audit, name, month.end)
    first = months_before(month.start, REALISED_MONTHS - 1, ZoneInfo(month.zone))
    windows = {each.partition for each in in_month}
    return ModelMonth(
        declared=declared,
        champion=champion,
        promised=_promised(champion, judged),
        realised=[each for each in periods_between(state, name, first, month.end) if each.evaluated][-REALISED_SHOWN:],
        judged=in_month,
        drift=[each for each in drift_history(state, name) if each.partition in windows],
        decisions=[decision_of(each) for each in records if each.kind != VERDICT_KIND],
        predictions=prediction_count(state, name, month.start, month.end),
        cost=_cost(month, name, tracking, costs),
    )


def _cost(month: Month, model: str, tracking: "Tracking | None", costs: Mapping[str, Used]) -> Used | None:
    if costs:
        return costs.get(model, Used())
    return None if tracking is None else Used(money=tracking.cost_since([model], month.start, month.end))


def _promised(champion: ChampionRecord | None, judged: Sequence[JudgedPartition]) -> dict[str, QualityPoint]:
    """Return the metrics with an interval that the evaluation of ``champion`` promised; empty if it is not read."""
    own = evaluation_of(champion, judged)
    return {} if own is None else {name: promised_point(own, name) for name in interval_metrics(own.metrics)}
