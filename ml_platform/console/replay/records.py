"""Reads what the platform did in a window: decisions with reasons, alerts, drift, champion, runs and their duration."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg

from ml_platform.alerts.alert import StoredAlert
from ml_platform.alerts.records import opened_after
from ml_platform.components.model.window_order import TRAINED_TAG
from ml_platform.console.replay.platform import RunningPlatform
from ml_platform.console.replay.steps import WindowRecord, WindowSent
from ml_platform.console.retraining_decisions import json_values
from ml_platform.console.verdicts import verdict_entries
from ml_platform.monitoring.drift_history import drift_history
from ml_platform.monitoring.retraining_records import last_decisions
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import CHAMPION_KIND, current_champion, read_champion_record
from ml_platform.serving.rollout import ROLLOUT_KIND

DECISIONS_READ = 200
"""Last decisions of a model that are read for a window."""


def window_record(
    model: str, window: str, sent: WindowSent, platform: RunningPlatform, *, since: float, seconds: float
) -> WindowRecord:
    """Return the record of ``window``: all decisions since ``since`` (seconds since 1970), and the cost of its runs."""
    state, after = platform.state, datetime.fromtimestamp(since, UTC)
    audit = AuditLog(state)
    decisions: list[dict[str, Any]] = []
    for recorded in reversed(last_decisions(state, model, DECISIONS_READ)):
        if recorded.decided_at >= after:
            values = json_values(recorded)
            decisions.append(
                {
                    "kind": "retraining",
                    "at": values["decided_at"],
                    "decision": values["decision"],
                    "reason": recorded.decision.reason,
                    "window": recorded.window,
                    "because": values["because"],
                }
            )
    decisions += [
        {
            "kind": "verdict",
            "at": judged.at.isoformat(),
            "decision": judged.decision,
            "reason": " ".join(judged.reasons),
            "window": judged.partition,
            "version": judged.version,
        }
        for judged in verdict_entries(audit, model)
        if judged.at >= after
    ]
    for kind in (CHAMPION_KIND, ROLLOUT_KIND):
        decisions += [_decision(kind, each, model) for each in audit.newest_first(kind, model) if each.at >= after]
    champion = current_champion(audit, model)
    drift = [each for each in drift_history(state, model) if each.partition == window]
    records = platform.instance.get_run_records(dg.RunsFilter(created_after=after))
    trained = [each for each in records if each.dagster_run.tags.get(TRAINED_TAG) == model]
    failed = [each.dagster_run.run_id for each in records if each.dagster_run.status is dg.DagsterRunStatus.FAILURE]
    return WindowRecord(
        window=window,
        sent=sent,
        decisions=sorted(decisions, key=lambda each: str(each["at"])),
        alerts=[_alert(each) for each in opened_after(state, after)],
        drift=drift[-1].model_dump(mode="json") if drift else None,
        champion=None if champion is None else champion.version,
        runs=len(records),
        failed_runs=failed,
        run_seconds=sum(map(_duration, records)),
        training_seconds=sum(map(_duration, trained)),
        trainings=len(trained),
        seconds=seconds,
    )


def _decision(kind: str, record: Any, model: str) -> dict[str, Any]:
    found = {"kind": kind, "at": record.at.isoformat(), "by": record.actor, "reason": record.facts.get("reason", "")}
    if kind == CHAMPION_KIND:
        change = read_champion_record(record, model)
        return {**found, "decision": change.action, "version": change.version, "window": change.partition}
    return {**found, "decision": "roll out", "versions": record.facts.get("versions", {})}


def _alert(alert: StoredAlert) -> dict[str, Any]:
    found = {"kind": alert.kind, "subject": alert.subject, "severity": alert.severity, "what": alert.what}
    return {**found, "at": alert.opened_at.isoformat(), "title": alert.title}


def _duration(record: dg.RunRecord) -> float:
    return (record.end_time or record.start_time or 0.0) - (record.start_time or 0.0)
