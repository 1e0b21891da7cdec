"""An op of a team logs to the home's MLflow with the fluent API, in one run for each Dagster run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import mlflow
import pytest
from mlflow.entities import Run

from resources.home import Home
from resources.profiles import resources_of_profile


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Return a home that all tests here share, because MLflow takes seconds to create its database."""
    folder = tmp_path_factory.mktemp("team")
    with pytest.MonkeyPatch.context() as patched:
        # dagster-mlflow sets these for the whole process.
        for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID"):
            patched.setenv(variable, "")
            patched.delenv(variable)
        patched.chdir(folder)
        yield Home(folder / "home")


@dg.op(required_resource_keys={"mlflow_tracking"})
def count_rows(context: dg.OpExecutionContext) -> int:
    context.resources.mlflow_tracking.log_metric("rows", 3)
    context.resources.mlflow_tracking.log_text("three rows", "note.txt")
    return 3


@dg.op(required_resource_keys={"mlflow_tracking"})
def count_columns(context: dg.OpExecutionContext, rows: int) -> None:
    context.resources.mlflow_tracking.log_metric("columns", rows + 4)


@dg.op(required_resource_keys={"mlflow_tracking"})
def reject_rows(context: dg.OpExecutionContext, rows: int) -> None:
    context.resources.mlflow_tracking.log_metric("rejected", rows)
    raise ValueError("no column 'id'")


def execute(home: Home, *, fails: bool = False, config: dict[str, Any] | None = None) -> dg.ExecuteInProcessResult:
    @dg.job(resource_defs={"mlflow_tracking": resources_of_profile(home)["mlflow_tracking"]})
    def tables() -> None:
        (reject_rows if fails else count_columns)(count_rows())

    run_config = {"resources": {"mlflow_tracking": {"config": config}}} if config else {}
    return tables.execute_in_process(run_config=run_config, raise_on_error=False)


def stored_run(home: Home, experiment: str, dagster_run_id: str) -> Run:
    client = mlflow.MlflowClient(home.tracking_uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    (run,) = client.search_runs([found.experiment_id], f"tags.dagster_run_id = '{dagster_run_id}'")
    return run


def test_metrics_of_all_ops_are_stored_in_one_finished_run_of_the_home(home: Home) -> None:
    run = stored_run(home, "team_ops", execute(home).run_id)
    assert run.data.metrics == {"rows": 3, "columns": 7}
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "tables"
    assert Path(run.info.artifact_uri).is_relative_to(home.artifacts)
    assert (Path(run.info.artifact_uri) / "note.txt").read_text() == "three rows"


def test_op_that_raises_gives_a_failed_run_with_the_metrics_logged_before(home: Home) -> None:
    run = stored_run(home, "team_ops", execute(home, fails=True).run_id)
    assert run.data.metrics == {"rows": 3, "rejected": 3}
    assert run.info.status == "FAILED"


def test_settings_of_dagster_mlflow_are_passed_on(home: Home) -> None:
    config = {"experiment_name": "audit", "extra_tags": {"team": "ops"}}
    run = stored_run(home, "audit", execute(home, config=config).run_id)
    assert run.data.tags["team"] == "ops"


def test_each_dagster_run_has_its_own_mlflow_run_and_leaves_none_open(home: Home) -> None:
    first, second = (stored_run(home, "team_ops", execute(home).run_id) for _ in range(2))
    assert first.info.run_id != second.info.run_id
    assert mlflow.active_run() is None


def test_tracking_address_of_the_process_is_restored(home: Home) -> None:
    before = mlflow.get_tracking_uri()
    execute(home)
    assert mlflow.get_tracking_uri() == before != home.tracking_uri


def test_settings_are_those_of_the_installed_dagster_mlflow(home: Home) -> None:
    from dagster_mlflow.resources import CONFIG_SCHEMA

    schema = resources_of_profile(home)["mlflow_tracking"].config_schema.config_type
    assert set(schema.fields) == set(CONFIG_SCHEMA)


def test_address_of_the_environment_is_left_as_it_was(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # An address that stayed set would precede the variable in whatever this process does next.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", home.tracking_uri)
    execute(home)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    assert mlflow.get_tracking_uri() == f"sqlite:///{tmp_path}/other.db"
