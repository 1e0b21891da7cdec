"""Dagster resource of MLflow tracking and the model registry.

It imports MLflow and connects on first use.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field, PrivateAttr

from ml_platform.registry.delivery import DeliveryResult, deliver
from ml_platform.registry.models import ModelRegistry
from ml_platform.registry.outbox import Outbox, is_connection_error
from ml_platform.registry.tracking import TrackedRun, Tracking, run_tags
from ml_platform.registry.wandb_mirror import WandbSettings, wandb_mirror_factory
from resources.addresses import run_link, stored_address
from resources.home import Home
from resources.profile import locations
from resources.tracking_location import shown_tracking_address, tracking_store

WANDB_VARIABLE = "ML_PLATFORM_WANDB"


class MlflowResource(dg.ConfigurableResource[Any]):
    """Opens one MLflow run per asset, partition and attempt, tagged with Dagster's run id."""

    tracking_uri: str = Field(
        description="Address of the tracking store: sqlite:///… or http://…; empty: that of the profile."
    )
    artifact_root: str | None = Field(
        default=None, description="Folder or bucket for artifacts of new experiments; null: the server decides."
    )
    outbox: str | None = Field(default=None, description="Folder that queues records while a tracking server is down.")
    server_address: str = Field(
        default="/go/mlflow",
        description="Address of MLflow's pages for a browser, or the path that redirects there.",
    )
    wandb_enabled: bool = Field(default=False, description="Whether to log runs to Weights & Biases as well.")
    wandb_folder: str = Field(default=".", description="Folder for the files of Weights & Biases.")
    wandb_project: str = Field(default="ml-platform", description="Project in Weights & Biases.")
    wandb_mode: str = Field(
        default="offline", description="offline: write files that `wandb sync` uploads; online: upload at once."
    )

    _tracking: Tracking | None = PrivateAttr(default=None)

    @classmethod
    def for_home(cls, home: Home) -> "MlflowResource":
        """Return the resource on the tracking store of the active profile; by default the SQLite store of ``home``.

        ``ML_PLATFORM_WANDB`` turns the W&B mirror on.
        """
        wandb_mode = os.environ.get(WANDB_VARIABLE, "")
        return cls(
            tracking_uri=shown_tracking_address(home),
            # In the home it is relative, so that a moved home still finds its artifacts.
            artifact_root=locations(home).artifacts,
            outbox=str(home.records / "outbox"),
            server_address=stored_address("mlflow"),
            wandb_enabled=bool(wandb_mode),
            wandb_mode=wandb_mode or "offline",
            wandb_folder=str(home.root),
        )

    @property
    def tracking(self) -> Tracking:
        """Return the tracking store, with one connection per process."""
        if self._tracking is None:
            outbox = Outbox(Path(self.outbox)) if self.outbox else None
            settings = WandbSettings.model_validate(
                {"enabled": self.wandb_enabled, "project": self.wandb_project, "mode": self.wandb_mode}
            )
            open_mirror = wandb_mirror_factory(settings, Path(self.wandb_folder))
            address = self.tracking_uri or tracking_store(Home.from_environment())[0]
            self._tracking = Tracking(address, self.artifact_root, outbox, open_mirror)
        return self._tracking

    @property
    def models(self) -> ModelRegistry:
        """Return the model registry of the same store, after the delivery of queued records."""
        self.deliver()
        return ModelRegistry(self.tracking)

    def link(self, experiment: str, run_id: str) -> dg.UrlMetadataValue:
        """Return the link to the page of a run of ``experiment``, as metadata for the UI."""
        return dg.MetadataValue.url(run_link(self.server_address, self.tracking.experiment(experiment), run_id))

    def deliver(self) -> list[DeliveryResult]:
        """Deliver the queued records of the outbox, if the server answers, and return the results."""
        return deliver(self.tracking.outbox, self.tracking) if self.tracking.outbox else []

    def end_abandoned_runs(self, experiment: str, instance: dg.DagsterInstance) -> list[str]:
        """End the MLflow runs that killed processes left open, and return their ids; none while the server is down."""

        def has_ended(run_id: str) -> bool:
            # A run that is unknown here may be running on another instance with the same store.
            run = instance.get_run_by_id(run_id) if run_id else None
            return run is not None and run.is_finished

        try:
            self.tracking.require_server()
            return self.tracking.end_abandoned_runs(experiment, has_ended)
        except Exception as error:
            if not is_connection_error(error):
                raise
            return []

    @contextmanager
    def run(self, context: dg.AssetExecutionContext, experiment: str) -> Iterator[TrackedRun]:
        """Open the MLflow run of this asset step: FAILED when the body raises, FINISHED otherwise.

        Runs of the experiment that killed processes left open end first, for all assets.
        """
        asset = context.asset_key.to_user_string()
        partition = context.partition_key if context.has_partition_key else None
        tags = run_tags(
            asset=asset, partition=partition, attempt=context.retry_number + 1, dagster_run_id=context.run.run_id
        )
        self.end_abandoned_runs(experiment, context.instance)
        with self.tracking.run(experiment, f"{asset} {partition or ''}".strip(), tags) as run:
            yield run
