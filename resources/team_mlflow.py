"""Dagster resource `mlflow_tracking` of dagster-mlflow, for a team's own ops, by default on the store of the home.

The assets of the platform use :mod:`resources.mlflow`. Importing dagster-mlflow takes seconds, so only the process of a
step that requires this resource imports it.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import dagster as dg

from resources.home import Home
from resources.home_version import prepare_home
from resources.profile import active_profile
from resources.tracking_location import shown_tracking_address, tracking_store

if TYPE_CHECKING:
    from dagster_mlflow.resources import MlFlow

DEFAULT_EXPERIMENT = "team_ops"
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"


def team_mlflow(home: Home) -> dg.ResourceDefinition:
    """Return the resource with the settings of dagster-mlflow, which tracks in the MLflow store of ``home`` by default.

    A step that requires it gets MLflow's fluent API with one open run for each Dagster run. The MLflow run ends as
    FINISHED, or as FAILED when a step of the Dagster run failed.
    """

    def open_run(context: dg.InitResourceContext) -> Iterator["MlFlow"]:
        import mlflow
        from dagster_mlflow import mlflow_tracking

        config = context.resource_config
        with _restored_tracking_uri():
            if config["mlflow_tracking_uri"] == shown_tracking_address(home):
                address = _prepare_experiment(home, config["experiment_name"])
                context = context.replace_config({**config, "mlflow_tracking_uri": address})
            open_tracking = cast("Callable[[dg.InitResourceContext], Iterator[MlFlow]]", mlflow_tracking.resource_fn)
            opened = open_tracking(context)
            tracking = next(opened)
            try:
                yield tracking
            finally:
                # Ends the run when an error passes through this line.
                tracking.cleanup_on_error()  # type: ignore[no-untyped-call]
                status = "FAILED" if _has_failed_step(context) else "FINISHED"
                while mlflow.active_run():  # the run, and its parent if the settings name one
                    mlflow.end_run(status)

    return dg.ResourceDefinition(
        resource_fn=open_run,
        config_schema=_config_schema(home),
        description="MLflow's fluent API (dagster-mlflow) for a team's own ops: one MLflow run for each Dagster run.",
    )


def _config_schema(home: Home) -> Mapping[str, dg.Field]:
    """Return dagster-mlflow's settings; they are written here because importing them would import MLflow."""
    return {
        "experiment_name": dg.Field(
            dg.StringSource, default_value=DEFAULT_EXPERIMENT, description="Name of the MLflow experiment."
        ),
        "mlflow_tracking_uri": dg.Field(
            dg.StringSource,
            default_value=shown_tracking_address(home),
            description="Address of the MLflow store or server; by default that of the profile.",
        ),
        "parent_run_id": dg.Field(
            dg.Noneable(str), default_value=None, description="Id of the parent run, if this run is nested."
        ),
        "mlflow_run_id": dg.Field(
            dg.Noneable(str), default_value=None, description="Id of an existing run to continue."
        ),
        "env": dg.Field(dict, default_value={}, description="Environment variables to set for MLflow."),
        "env_to_tag": dg.Field(
            dg.Noneable(list),
            default_value=None,
            description="Names of environment variables whose values become tags of the run.",
        ),
        "extra_tags": dg.Field(dict, default_value={}, description="Further tags of the run."),
    }


@contextmanager
def _restored_tracking_uri() -> Iterator[None]:
    """Restore MLflow's address at the end: MLflow keeps it for the whole process and for child processes."""
    import mlflow

    # MLflow also writes an address that was set into the environment, so the variable tells either.
    before = os.environ.get(TRACKING_VARIABLE)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # None restores MLflow's default
        if before is not None:
            os.environ[TRACKING_VARIABLE] = before


def _prepare_experiment(home: Home, name: str) -> str:
    """Create the experiment in the store of the profile, and return its address.

    MLflow itself would put the artifacts in the working directory.
    """
    from ml_platform.registry.tracking import Tracking

    prepare_home(home)
    address, artifacts = tracking_store(home)
    Tracking(address, artifacts if active_profile() == "cluster" else home.artifacts).experiment(name)
    return address


def _has_failed_step(context: dg.InitResourceContext) -> bool:
    # Dagster closes resources after it has handled the error of a step, so only the event log has the failure.
    run, instance = context.run, context.instance
    if run is None or instance is None:
        return False
    return bool(instance.all_logs(run.run_id, of_type={dg.DagsterEventType.STEP_FAILURE}))
