"""A materialization creates one MLflow run with tags of its origin; the run is FAILED when the asset fails."""

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from ml_platform.registry.outbox import Outbox
from ml_platform.state.process_identity import current_process
from resources.home import Home
from resources.mlflow import MlflowResource


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(["2013-05", "2013-06"]))
def candidate(context: dg.AssetExecutionContext, mlflow: MlflowResource) -> None:
    with mlflow.run(context, "departure_risk") as run:
        run.log_metrics({"month": float(context.partition_key[-2:])})
        if context.partition_key == "2013-05":
            raise dg.Failure("no rows", allow_retries=False)


@pytest.fixture
def mlflow(tmp_path: Path) -> MlflowResource:
    return MlflowResource.for_home(Home(tmp_path))


def test_materialization_creates_a_run_with_its_tags(mlflow: MlflowResource) -> None:
    done = dg.materialize([candidate], partition_key="2013-06", resources={"mlflow": mlflow})
    (run_id,) = mlflow.tracking.find_runs("departure_risk", {"dagster_run_id": done.run_id})
    stored = mlflow.tracking.client.get_run(run_id)
    assert stored.data.metrics == {"month": 6.0}
    assert stored.info.status == "FINISHED"
    assert {name: value for name, value in stored.data.tags.items() if name.startswith("ml_platform.")} == {
        "ml_platform.writer": current_process(),
        "ml_platform.asset": "candidate",
        "ml_platform.partition": "2013-06",
        "ml_platform.attempt": "1",
    }


def test_failed_asset_gives_a_failed_run(mlflow: MlflowResource) -> None:
    done = dg.materialize([candidate], partition_key="2013-05", resources={"mlflow": mlflow}, raise_on_error=False)
    (run_id,) = mlflow.tracking.find_runs("departure_risk", {"dagster_run_id": done.run_id})
    assert mlflow.tracking.client.get_run(run_id).info.status == "FAILED"


def test_run_ends_when_its_dagster_run_has_ended(mlflow: MlflowResource) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        over, runs = instance.create_run_for_job(_job()), instance.create_run_for_job(_job())
        instance.report_run_canceled(over)
        left = mlflow.tracking.open("departure_risk", "x", {"dagster_run_id": over.run_id})
        for run_id in (runs.run_id, "of another instance"):
            mlflow.tracking.open("departure_risk", "x", {"dagster_run_id": run_id})

        assert mlflow.end_abandoned_runs("departure_risk", instance) == [left.run_id]
        assert mlflow.end_abandoned_runs("departure_risk", instance) == []


def test_step_ends_the_runs_that_a_killed_process_left_open(tmp_path: Path) -> None:
    killed = subprocess.Popen(
        [sys.executable, "-c", LEAVES_RUNS_OPEN, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert killed.stdout is not None
    left = killed.stdout.readline().split()
    killed.kill()
    killed.wait()
    mlflow = MlflowResource.for_home(Home(tmp_path))
    assert [mlflow.tracking.client.get_run(one).info.status for one in left] == ["RUNNING", "RUNNING"]

    @dg.asset
    def candidate(context: dg.AssetExecutionContext) -> None:
        with mlflow.run(context, "departure_risk"):
            pass

    assert dg.materialize([candidate]).success
    # The two runs are the candidate and its nested trial.
    assert [mlflow.tracking.client.get_run(one).info.status for one in left] == ["KILLED", "KILLED"]


LEAVES_RUNS_OPEN = """
import signal, sys
from pathlib import Path
from resources.home import Home
from resources.mlflow import MlflowResource

tracking = MlflowResource.for_home(Home(Path(sys.argv[1]))).tracking
run = tracking.open("departure_risk", "candidate", {"dagster_run_id": "killed"})
trial = tracking.open("departure_risk", "trial 0", {}, parent_run_id=run.run_id)
print(run.run_id, trial.run_id, flush=True)
signal.pause()
"""


def _job() -> dg.JobDefinition:
    @dg.job
    def nothing() -> None: ...

    return nothing


def test_ending_abandoned_runs_does_not_wait_for_a_server_that_is_down() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert MlflowResource(tracking_uri="http://127.0.0.1:9").end_abandoned_runs("departure_risk", instance) == []


def test_records_are_queued_in_the_home_while_the_server_is_down(tmp_path: Path) -> None:
    down = MlflowResource(tracking_uri="http://127.0.0.1:9", outbox=str(tmp_path / "outbox"))
    with down.tracking.run("departure_risk", "x", {}):
        pass
    assert len(Outbox(tmp_path / "outbox").pending()) == 1
    assert down.deliver() == []


def test_second_log_is_off_unless_the_environment_enables_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ML_PLATFORM_WANDB", raising=False)
    assert not MlflowResource.for_home(Home(tmp_path)).wandb_enabled
    monkeypatch.setenv("ML_PLATFORM_WANDB", "offline")
    enabled = MlflowResource.for_home(Home(tmp_path))
    assert (enabled.wandb_enabled, enabled.wandb_mode, enabled.wandb_folder) == (True, "offline", str(tmp_path))


def test_wandb_log_is_written_to_its_folder_when_enabled(mlflow: MlflowResource, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="the second log is optional")
    twice = mlflow.model_copy(update={"wandb_enabled": True, "wandb_folder": str(tmp_path / "second")})
    with twice.tracking.run("departure_risk", "x", {}):
        pass
    assert len(list((tmp_path / "second").glob("wandb/offline-run-*"))) == 1
