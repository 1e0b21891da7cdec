"""A home with training sets of four months of deliveries, and a program whose training step a test can kill.

As a program (`delivery_home.py HOME MONTH SETTINGS`) it materializes one candidate and prints its content digest.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

import assets
from ml_platform.components.model import training
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.stores import open_stores
from ml_platform.data.lake import PARTITION, Lake
from ml_platform.features.materialize import materialize
from ml_platform.steps.candidates import build_training_sets
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform_tests.components.delivery_model import DOMAIN, MONTHS, deliveries, delivery_model
from resources.dagster_home import HomeResource
from resources.home import Home
from resources.lake import LakeResource
from resources.mlflow import MlflowResource
from resources.online_store import OnlineStoreResource
from resources.studies import StudiesResource

REPOSITORY = Path(__file__).parents[2]
FAST = {"max_rounds": 30, "num_threads": 1}


@dataclass(frozen=True)
class PlatformFixture:
    """A home and its resources."""

    home: Home
    resources: dict[str, Any]

    @property
    def lake(self) -> Lake:
        return self.resources["lake"].lake()

    @property
    def mlflow(self) -> MlflowResource:
        return self.resources["mlflow"]

    @property
    def stores(self) -> PlatformStores:
        opened = self.resources
        return open_stores(opened["home"], opened["lake"], opened["mlflow"], opened["online_store"])

    def tracked(self, **changes: Any) -> MlflowResource:
        """Return another connection to the same tracking store, with some settings changed."""
        return MlflowResource(**(self.mlflow.model_dump() | changes))

    def land(self) -> None:
        """Publish the deliveries, and materialize the change log and the training sets."""
        for month in MONTHS:
            self.lake.write("datasets/deliveries", deliveries(month), month)
        model = delivery_model()
        store = self.resources["online_store"].store()
        materialize(model.stored_views[0], self.lake, store, list(MONTHS), model.declared.partitions)
        build_training_sets(model, MONTHS, self.lake)

    def with_rows(self, name: str, change: pl.Expr, months: tuple[str, ...] = MONTHS) -> ModelAssets:
        """Return a model called ``name`` whose training sets are those of the deliveries with ``change`` applied."""
        model = delivery_model(name=name)
        for month in months:
            rows = self.lake.scan(delivery_model().table, partitions=[month]).drop(PARTITION).with_columns(change)
            self.lake.write(model.table, rows.collect(), month)
        return model

    def make(self, model: ModelAssets, month: str = "2013-03", trainer: str = "lightgbm", **resources: Any) -> Any:
        """Materialize a candidate and return its metadata. Errors of the step are raised."""
        asset = training.candidate(model, trainer)
        done = dg.materialize([asset], partition_key=month, resources=self.resources | resources)
        (event,) = done.get_asset_materialization_events()
        return {name: value.value for name, value in event.materialization.metadata.items()}


@contextmanager
def open_platform(root: Path) -> Iterator[PlatformFixture]:
    """Open the home at ``root``, and make the functions of the test domain importable."""
    home, before = Home(root), assets.__path__
    home.mlflow.mkdir(parents=True, exist_ok=True)
    assets.__path__ = [*before, str(DOMAIN)]
    try:
        yield PlatformFixture(
            home,
            {
                "home": HomeResource(root=str(home.root), repository=str(REPOSITORY)),
                "lake": LakeResource.for_home(home),
                "mlflow": MlflowResource.for_home(home),
                "studies": StudiesResource.for_home(home),
                "online_store": OnlineStoreResource.for_home(home),
            },
        )
    finally:
        assets.__path__ = before


def with_trainers(**trainers: object) -> ModelAssets:
    """Return the delivery model with these trainers instead of its own."""
    return delivery_model(trainers=trainers)


if __name__ == "__main__":
    with open_platform(Path(sys.argv[1])) as platform:
        shown = platform.make(with_trainers(lightgbm={"settings": json.loads(sys.argv[3])}), sys.argv[2])
    print(shown["content_digest"], shown["notes"])
