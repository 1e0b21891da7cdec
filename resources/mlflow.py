"""Tracking and registry as Dagster resources: ours for the platform's assets, dagster-mlflow's for teams' own ops.

Nothing connects before its first use, and MLflow is imported only then.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field, PrivateAttr

from ml_platform.registry.delivery import Delivered, deliver
from ml_platform.registry.models import ModelRegistry
from ml_platform.registry.outbox import Outbox, is_unreachable
from ml_platform.registry.tracking import TrackedRun, Tracking, run_tags
from ml_platform.registry.wandb_mirror import WandbSettings, wandb_mirrors
from resources.addresses import address, run_link
from resources.home import Home

if TYPE_CHECKING:
    from dagster import ResourceDefinition


WANDB_VARIABLE = "ML_PLATFORM_WANDB"


class MlflowResource(dg.ConfigurableResource):
    """Opens one MLflow run per asset, partition and attempt, tagged with Dagster's run id."""

    tracking_uri: str = Field(description="Address of the tracking store: sqlite:///… or http://….")
    artifact_root: str | None = Field(
        default=None, description="Folder or bucket for artifacts of new experiments; none where a server decides."
    )
    outbox: str | None = Field(
        default=None, description="Folder in which records wait while a tracking server is down."
    )

    server_address: str = Field(default="http://127.0.0.1:5000", description="Where a browser finds MLflow's pages.")
    second_log: bool = Field(default=False, description="Also log runs to Weights & Biases, as files (offline).")
    second_log_folder: str = Field(default=".", description="Folder for the files of the second log.")
    second_log_project: str = Field(default="ml-platform", description="Project of the second log.")
    second_log_mode: str = Field(default="offline", description="offline: files that `wandb sync` uploads; online.")

    _tracking: Tracking | None = PrivateAttr(default=None)

    @classmethod
    def at_home(cls, home: Home) -> "MlflowResource":
        """Return the resource on the SQLite store of ``home``; ``ML_PLATFORM_WANDB=offline`` turns a second log on."""
        second = os.environ.get(WANDB_VARIABLE, "")
        return cls(
            tracking_uri=home.tracking_uri,
            artifact_root=str(home.artifacts),
            outbox=str(home.records / "outbox"),
            server_address=address("mlflow"),
            second_log=bool(second),
            second_log_mode=second or "offline",
            second_log_folder=str(home.root),
        )

    @property
    def tracking(self) -> Tracking:
        """Return the tracking store, one connection per process."""
        if self._tracking is None:
            outbox = Outbox(Path(self.outbox)) if self.outbox else None
            second = WandbSettings.model_validate(
                {"enabled": self.second_log, "project": self.second_log_project, "mode": self.second_log_mode}
            )
            mirrors = wandb_mirrors(second, Path(self.second_log_folder))
            self._tracking = Tracking(self.tracking_uri, self.artifact_root, outbox, mirrors)
        return self._tracking

    @property
    def models(self) -> ModelRegistry:
        """Return the model registry in the same store, after what waited for the server was brought to it."""
        self.deliver()
        return ModelRegistry(self.tracking)

    def link(self, experiment: str, run_id: str) -> dg.UrlMetadataValue:
        """Return the page of a run of ``experiment`` as a link that the UI can open."""
        return dg.MetadataValue.url(run_link(self.server_address, self.tracking.experiment(experiment), run_id))

    def deliver(self) -> list[Delivered]:
        """Bring what waits in the outbox to the server, if it is back."""
        return deliver(self.tracking.outbox, self.tracking) if self.tracking.outbox else []

    def close_abandoned(self, experiment: str, instance: dg.DagsterInstance) -> list[str]:
        """End the MLflow runs that were left open by a killed process, and return their ids; none while it is down."""

        def is_over(run_id: str) -> bool:
            # One that is unknown here may run on another instance with the same store.
            run = instance.get_run_by_id(run_id) if run_id else None
            return run is not None and run.is_finished

        try:
            self.tracking.require_server()
            return self.tracking.close_abandoned(experiment, is_over)
        except Exception as error:
            if not is_unreachable(error):
                raise
            return []

    @contextmanager
    def run(self, context: dg.AssetExecutionContext, experiment: str) -> Iterator[TrackedRun]:
        """Open the MLflow run of this asset step: FAILED when the body raises, FINISHED otherwise.

        What killed processes left open in the experiment is ended first, whoever they ran for.
        """
        asset = context.asset_key.to_user_string()
        partition = context.partition_key if context.has_partition_key else None
        tags = run_tags(
            asset=asset, partition=partition, attempt=context.retry_number + 1, dagster_run_id=context.run.run_id
        )
        self.close_abandoned(experiment, context.instance)
        with self.tracking.run(experiment, f"{asset} {partition or ''}".strip(), tags) as run:
            yield run


def team_tracking(home: Home, experiment: str) -> "ResourceDefinition":
    """Return dagster-mlflow's own `mlflow_tracking` on the same store, for ops that teams write with its fluent API.

    It keeps one active run per process and must be given the hook `end_mlflow_on_run_finished`; the platform's assets
    do not use it.
    """
    from dagster_mlflow import mlflow_tracking

    return mlflow_tracking.configured({"experiment_name": experiment, "mlflow_tracking_uri": home.tracking_uri})
