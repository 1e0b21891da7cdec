"""Shows decisions in Dagster that no run made: events of `champion`, `rollout` and `evaluation` with actor and reason.

`python -m resources.decision_events` writes them for the home of the environment. The commands start it
after a decision, because they import no Dagster. The sensor `decisions` writes those of the guard, and those of a
command that was killed. Both follow the audit log from the last record that Dagster shows.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from ml_platform.monitoring.retraining_records import RESUMED_KIND, RETRAINING_KIND
from ml_platform.registry.approvals import APPROVAL_KIND, DECISION_KEY
from ml_platform.registry.audit import AuditLog, AuditRecord
from ml_platform.registry.champion_history import (
    CHAMPION_KIND,
    PROMOTE,
    RESTORE,
    RETIRE,
    ROLL_BACK,
    ChampionRecord,
    champion_history,
    read_champion_record,
)
from ml_platform.registry.verdict_record import partition_of_evidence
from ml_platform.state.cursors import read_cursor, write_cursor
from ml_platform.state.store import StateStore

APPROVED = "approved"
"""Name of the check of `champion` on gates and approvals."""

RUN_ACTOR = "dagster run "
"""Begin of the actor of a decision that a run of `champion` made by itself; that run writes the events."""

CURSOR_PREFIX = "dagster_events/"

DecisionEvent = dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation

_CHANGES: Mapping[str, str] = {
    PROMOTE: "is champion",
    ROLL_BACK: "is champion again",
    RESTORE: "is champion, registered again in MLflow",
}


def report_decisions(instance: dg.DagsterInstance, state: StateStore, model: str | None = None) -> list[str]:
    """Write the events of the decisions on ``model`` (None: all) that Dagster does not show; return one line for each.

    In a home whose events were never written, only the last decision of each kind counts. A process that is killed
    between an event and the note of it writes that event twice, which changes nothing that is shown.
    """
    audit = AuditLog(state)
    models = sorted({name for kind in _kinds() for name in audit.models(kind)}) if model is None else [model]
    return [line for each in models for line in _report(instance, audit, each)]


def note_reported(state: StateStore, model: str, sequence: int) -> None:
    """Note that Dagster shows the decisions on ``model`` up to the record ``sequence``: a run has written its own."""
    with state.write():
        seen = read_cursor(state, f"{CURSOR_PREFIX}{model}")
        if seen is None or seen < sequence:
            write_cursor(state, f"{CURSOR_PREFIX}{model}", sequence)


def _kinds() -> tuple[str, ...]:
    from ml_platform.serving.rollout import ROLLOUT_APPROVAL_KIND, ROLLOUT_KIND

    return (CHAMPION_KIND, APPROVAL_KIND, ROLLOUT_KIND, ROLLOUT_APPROVAL_KIND, RETRAINING_KIND, RESUMED_KIND)


def _report(instance: dg.DagsterInstance, audit: AuditLog, model: str) -> Iterator[str]:
    with audit.state.lock(f"dagster-events-{model}"):
        seen = read_cursor(audit.state, f"{CURSOR_PREFIX}{model}")
        if seen is None:
            last = [record for kind in _kinds() if (record := audit.latest(kind, model))]
            records = sorted(last, key=lambda record: record.sequence)
        else:
            records = audit.records_from(seen + 1, _kinds(), model)
        for record in records:
            events = list(_events(instance, audit, model, record))
            for event in events:
                instance.report_runless_asset_event(event)
            note_reported(audit.state, model, record.sequence)
            if events:
                yield f"{model}: {events[0].description}"


def _events(instance: dg.DagsterInstance, audit: AuditLog, model: str, record: AuditRecord) -> Iterator[DecisionEvent]:
    """Yield the events of one record; none for a change that a run made, or a step of the guard within its plan."""
    from ml_platform.serving.rollout import ROLLOUT_APPROVAL_KIND

    def asset_partition(partition: str | None) -> str | None:
        return partition if partition and _is_partition(instance, model, partition) else None

    if record.kind == CHAMPION_KIND:
        if not record.actor.startswith(RUN_ACTOR):
            yield from _champion_events(model, read_champion_record(record, model), asset_partition)
    elif record.kind == APPROVAL_KIND:
        partition = asset_partition(partition_of_evidence(audit.state, str(record.facts["evidence"])))
        yield from _approval_events(model, record, partition)
    elif record.kind in (RETRAINING_KIND, RESUMED_KIND):
        yield _retraining_event(model, record)
    elif record.kind == ROLLOUT_APPROVAL_KIND:
        yield dg.AssetObservation(
            [model, "rollout"],
            description=f"Step {record.facts['step'] + 1} was approved by {record.actor}: {record.facts['reason']}",
            metadata={"decided_by": record.actor, "reason": record.facts["reason"], "action": "approve step"},
        )
    elif not _is_planned(record):
        stable = record.facts["versions"].get("stable")
        champions = [] if stable is None else champion_history(audit, model)
        found = [each.partition for each in champions if str(each.version) == stable]
        yield _rollout_event(model, record, asset_partition(found[-1] if found else None))


def _champion_events(
    model: str, champion: ChampionRecord, asset_partition: Callable[[str | None], str | None]
) -> Iterator[DecisionEvent]:
    key, partition = dg.AssetKey([model, "champion"]), asset_partition(champion.partition)
    metadata: dict[str, Any] = {
        "version": champion.version,
        "previous_version": champion.previous_version or 0,
        "champion_since": champion.since.isoformat(),
        "decided_by": champion.decided_by,
        "approved_by": list(champion.approved_by),
        "reason": champion.reason,
        "action": champion.action,
    }
    decided = f"decided by {champion.decided_by}: {champion.reason}"
    if champion.action == RETIRE:
        # Not a materialization: without a champion, nothing downstream can be made from it.
        ended = f"No version is champion. Version {champion.version} was retired, {decided}"
        yield dg.AssetObservation(key, description=ended, metadata=metadata, partition=partition)
        return
    text = f"Version {champion.version} {_CHANGES[champion.action]}, {decided}"
    tags = {DATA_VERSION_TAG: champion.content_digest}
    yield dg.AssetMaterialization(key, description=text, metadata=metadata, partition=partition, tags=tags)
    # Without the partition: Dagster stores one evaluation without a run for each partition, and refuses a second one.
    yield dg.AssetCheckEvaluation(key, APPROVED, passed=True, description=text, metadata={"version": champion.version})


def _approval_events(model: str, record: AuditRecord, partition: str | None) -> Iterator[DecisionEvent]:
    key, version, decision = dg.AssetKey([model, "champion"]), record.facts["version"], record.facts[DECISION_KEY]
    done = "approved" if decision == "approve" else "rejected"
    text = f"Version {version} was {done} by {record.actor}: {record.facts['reason']}"
    metadata = {
        "version": version,
        "action": decision,
        "decided_by": record.actor,
        "reason": record.facts["reason"],
        "evidence": record.facts["evidence"],
    }
    yield dg.AssetObservation(key, description=text, metadata=metadata, partition=partition)
    if decision == "reject":
        yield dg.AssetCheckEvaluation(
            key,
            APPROVED,
            passed=False,
            severity=dg.AssetCheckSeverity.WARN,
            description=text,
            metadata={"version": version, "state": "rejected"},
        )


def _retraining_event(model: str, record: AuditRecord) -> DecisionEvent:
    """Return the observation of the evaluation of the window; the window may have none, and then never gets one."""
    facts = record.facts
    because = {"because": dg.MetadataValue.json(facts["because"])} if "because" in facts else {}
    return dg.AssetObservation(
        [model, "evaluation"],
        description=f"{facts['partition']}: {facts['action']}, by {record.actor}: {facts['reason']}",
        metadata={"action": facts["action"], "decided_by": record.actor, "reason": facts["reason"], **because},
        partition=facts["partition"],
    )


def _rollout_event(model: str, record: AuditRecord, partition: str | None) -> DecisionEvent:
    facts = record.facts
    served = facts["versions"]
    outcome, reason = facts.get("outcome"), facts.get("reason", "")
    what = f"rollout {outcome.replace('_', ' ')}" if outcome else "changed at once"
    text = f"Stable is version {served.get('stable', 'none')}: {what}, by {record.actor}"
    return dg.AssetMaterialization(
        [model, "rollout"],
        description=f"{text}: {reason}" if reason else f"{text}.",
        metadata={
            "generation": facts["generation"],
            "stable": served.get("stable", "none"),
            "candidate": served.get("candidate", "none"),
            "shadow": served.get("shadow", "none"),
            "weights": dg.MetadataValue.json(dict(facts["weights"])),
            "decided_by": record.actor,
            "reason": reason,
        },
        partition=partition,
    )


def _is_planned(record: AuditRecord) -> bool:
    """Return whether the asset `rollout` made the change, or the guard's next step, which the rollout sensor shows."""
    from ml_platform.serving.rollout import GUARD, RUNNING

    made_by_asset = record.actor == f"{record.facts['model']}/rollout"
    return made_by_asset or (record.actor == GUARD and record.facts.get("outcome") == RUNNING)


def _is_partition(instance: dg.DagsterInstance, model: str, partition: str) -> bool:
    """Return whether the assets of ``model`` have ``partition``; a model without time has a digest there instead."""
    evaluation = dg.AssetKey([model, "evaluation"])
    chosen = dg.AssetRecordsFilter(asset_key=evaluation, asset_partitions=[partition])
    return bool(instance.fetch_materializations(chosen, limit=1).records)


def _main() -> int:
    from resources.home import Home
    from resources.orchestration import open_instance
    from resources.state import open_state

    home = Home.from_environment()
    with open_instance(home) as instance:
        report_decisions(instance, open_state(home))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
