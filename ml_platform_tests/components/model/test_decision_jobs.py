"""The jobs of decisions do in the Dagster UI what the commands do, and Dagster shows every decision."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ml_platform.components.decisions_sensor import decisions_sensor
from ml_platform.components.loading import bound_model
from ml_platform.components.model.decision_jobs import decision_jobs, rollback_job
from ml_platform.registry.approvals import approve, reject
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import CHAMPION_KIND, current_champion
from ml_platform.serving.desired_state import ServedVersion, read_desired_state
from ml_platform.serving.rollout_settings import RolloutSettings
from ml_platform.state.schema import verdicts
from ml_platform.state.store import StateStore
from ml_platform.steps.rollback import roll_back_champion
from ml_platform.steps.rollouts import abort_rollout, start_rollout
from ml_platform_tests.steps.test_rollback import home_with_two_champions
from resources.decision_events import RUN_ACTOR, note_reported, report_decisions
from resources.home import Home
from resources.lake import LakeResource
from resources.profiles import resources_of_profile
from resources.state import open_state

MODEL = "penguin_species"
CHAMPION, ROLLOUT = dg.AssetKey([MODEL, "champion"]), dg.AssetKey([MODEL, "rollout"])
NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return home_with_two_champions(tmp_path / "home", MODEL)


def champion_shown(instance: dg.DagsterInstance) -> dict[str, Any]:
    """Return partition, description and metadata of the latest materialization of the champion."""
    event = instance.get_latest_materialization_event(CHAMPION)
    assert event is not None
    assert event.asset_materialization is not None
    return {**shown(event.asset_materialization.metadata), "partition": event.asset_materialization.partition}


def shown(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.value for name, value in metadata.items()}


def materialize_evaluation(instance: dg.DagsterInstance, partition: str) -> None:
    evaluation = dg.AssetMaterialization([MODEL, "evaluation"], partition=partition)
    instance.report_runless_asset_event(evaluation)


def test_rollback_job_shows_the_new_champion_and_fails_without_an_earlier_one(home: Home) -> None:
    job = dg.Definitions(jobs=[rollback_job(bound_model(MODEL))], resources=resources_of_profile(home)).resolve_job_def(
        f"{MODEL}_rollback"
    )
    decision = {"decided_by": "ada", "reason": "wrong species"}
    config = {"ops": {f"{MODEL}_rollback_step": {"config": decision}}}

    with dg.DagsterInstance.ephemeral() as instance:
        assert job.execute_in_process(run_config=config, instance=instance).success
        champion, rollout = champion_shown(instance), instance.get_latest_materialization_event(ROLLOUT)
        assert not job.execute_in_process(run_config=config, instance=instance, raise_on_error=False).success

    assert {**champion, **decision, "version": 1, "action": "roll_back"} == champion
    assert rollout is not None
    assert rollout.asset_materialization is not None
    shown_rollout = shown(rollout.asset_materialization.metadata)
    assert (shown_rollout["stable"], shown_rollout["generation"], shown_rollout["decided_by"]) == ("1", 2, "ada")
    state = open_state(home)
    now, stable = current_champion(AuditLog(state), MODEL), read_desired_state(state, MODEL).stable
    assert now is not None
    assert stable is not None
    assert (now.version, now.decided_by, stable.version) == (1, "ada", "1")


def test_each_decision_has_a_job_with_a_described_configuration() -> None:
    jobs = {job.name: job for job in decision_jobs(bound_model(MODEL))}
    assert sorted(jobs) == [f"{MODEL}_approve", f"{MODEL}_reject", f"{MODEL}_rollback"]
    for name, job in jobs.items():
        (node,) = job.nodes
        schema: Any = node.definition.config_schema
        fields = schema.config_type.fields
        assert {"decided_by", "reason"} <= fields.keys(), name
        assert [field for field, each in fields.items() if not each.description] == []


def test_rollback_of_the_command_line_is_the_latest_event_with_its_partition_and_is_written_once(home: Home) -> None:
    state = open_state(home)
    with dg.DagsterInstance.ephemeral() as instance:
        materialize_evaluation(instance, "2013-07")
        assert report_decisions(instance, state) == [f"{MODEL}: Version 2 is champion, decided by test: test"]
        roll_back_champion(MODEL, home, state, decided_by="ada", reason="wrong species", at=NOW)
        written = report_decisions(instance, state)
        again = report_decisions(instance, state)
        champion = champion_shown(instance)
        checks = instance.event_log_storage.get_latest_asset_check_execution_by_key(
            [dg.AssetCheckKey(CHAMPION, "approved")]
        )

    assert written == [
        f"{MODEL}: Version 1 is champion again, decided by ada: wrong species",
        f"{MODEL}: Stable is version 1: changed at once, by ada.",
    ]
    assert again == []
    assert (champion["version"], champion["partition"], champion["reason"]) == (1, "2013-07", "wrong species")
    assert [record.evaluation.passed for record in checks.values() if record.evaluation] == [True]


def test_rejection_and_approval_are_observations_of_the_partition_that_was_judged(home: Home) -> None:
    state = open_state(home)
    add_verdict(state, evidence="e" * 64, partition="2013-08")
    audit = AuditLog(state)
    with dg.DagsterInstance.ephemeral() as instance:
        materialize_evaluation(instance, "2013-08")
        report_decisions(instance, state)
        for decide, by in ((approve, "bob"), (reject, "ada")):
            decide(audit, model=MODEL, version=3, evidence="e" * 64, by=by, reason="read the card", at=NOW)
        report_decisions(instance, state)
        records = instance.fetch_observations(CHAMPION, limit=5).records
        checks = instance.event_log_storage.get_latest_asset_check_execution_by_key(
            [dg.AssetCheckKey(CHAMPION, "approved")]
        )
        champion = champion_shown(instance)

    observed = [record.asset_observation for record in records]
    assert [(each.description, each.partition) for each in observed if each] == [
        ("Version 3 was rejected by ada: read the card", "2013-08"),
        ("Version 3 was approved by bob: read the card", "2013-08"),
    ]
    (check,) = [record.evaluation for record in checks.values() if record.evaluation]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert champion["version"] == 2


def test_change_that_a_run_made_is_left_to_the_run(home: Home) -> None:
    state = open_state(home)
    audit = AuditLog(state)
    with dg.DagsterInstance.ephemeral() as instance:
        report_decisions(instance, state)
        facts = {**audit.records(CHAMPION_KIND, MODEL)[-1].facts, "version": 3}
        audit.append(CHAMPION_KIND, actor=f"{RUN_ACTOR}1a2b", at=NOW, facts=facts)
        assert report_decisions(instance, state) == []
        by_hand = audit.append(CHAMPION_KIND, actor="ada", at=NOW, facts={**facts, "version": 4})
        note_reported(state, MODEL, by_hand.sequence)
        note_reported(state, MODEL, 1)
        assert report_decisions(instance, state) == []
        assert champion_shown(instance)["version"] == 2


def test_sensor_shows_an_aborted_rollout_and_then_skips(home: Home) -> None:
    state = open_state(home)
    settings = RolloutSettings.model_validate({"strategy": "canary", "steps": [{"weight": 5}]})
    candidate = ServedVersion(version="3", bento=f"{MODEL}/3")
    with dg.DagsterInstance.ephemeral() as instance:
        report_decisions(instance, state)
        start_rollout(state, MODEL, candidate, settings, by=f"{MODEL}/rollout", at=NOW)
        abort_rollout(state, MODEL, by="ada", reason="complaints", at=NOW)
        lake = LakeResource.for_home(home)
        with dg.build_sensor_context(instance=instance, resources={"lake": lake}) as context:
            first = decisions_sensor()(context)
        with dg.build_sensor_context(instance=instance, resources={"lake": lake}, cursor=context.cursor) as later:
            second = decisions_sensor()(later)
        event = instance.get_latest_materialization_event(ROLLOUT)

    assert isinstance(first, dg.SkipReason)
    assert isinstance(second, dg.SkipReason)
    assert first.skip_message == f"{MODEL}: Stable is version 2: rollout rolled back, by ada: complaints"
    assert second.skip_message == "The audit log has no new record."
    assert event is not None
    assert event.asset_materialization is not None
    assert shown(event.asset_materialization.metadata)["candidate"] == "none"


def add_verdict(state: StateStore, *, evidence: str, partition: str) -> None:
    """Store the row of a verdict; only its evidence and its partition are read."""
    row = {"digest": "d" * 64, "sequence": 1, "model": MODEL, "partition": partition, "candidate": "c" * 64}
    with state.write() as connection:
        connection.execute(
            verdicts.insert().values(**row, evidence=evidence, verdict="{}", metrics="{}", recorded_at="2026")
        )
