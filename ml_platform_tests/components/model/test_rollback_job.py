"""The job `<model>_rollback` does in the Dagster UI what the command does, and shows it on the page of the rollout."""

from pathlib import Path

import dagster as dg

from ml_platform.components.loading import bound_model
from ml_platform.components.model.rollback import rollback_job
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import current_champion
from ml_platform.serving.desired_state import read_desired_state
from ml_platform_tests.steps.test_rollback import home_with_two_champions
from resources.profiles import resources_of_profile
from resources.state import open_state


def test_job_rolls_back_and_observes_it_and_fails_without_an_earlier_champion(tmp_path: Path) -> None:
    model = bound_model("penguin_species")
    home = home_with_two_champions(tmp_path / "home", model.name)
    job = dg.Definitions(jobs=[rollback_job(model)], resources=resources_of_profile(home)).resolve_job_def(
        "penguin_species_rollback"
    )
    decision = {"decided_by": "ada", "reason": "wrong species"}
    config = {"ops": {"penguin_species_rollback_step": {"config": decision}}}

    with dg.DagsterInstance.ephemeral() as instance:
        assert job.execute_in_process(run_config=config, instance=instance).success
        (record,) = instance.fetch_observations(model.key("rollout"), limit=5).records
        assert not job.execute_in_process(run_config=config, instance=instance, raise_on_error=False).success

    observed = record.asset_observation
    assert observed is not None
    shown = {name: value.value for name, value in observed.metadata.items()}
    assert {**shown, "generation": 2} == {**decision, "version": 1, "generation": 2}
    state = open_state(home)
    champion, stable = current_champion(AuditLog(state), model.name), read_desired_state(state, model.name).stable
    assert champion is not None
    assert stable is not None
    assert (champion.version, champion.decided_by, stable.version) == (1, "ada", "1")
