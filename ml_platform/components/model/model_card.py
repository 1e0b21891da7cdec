"""The asset `model_card`: a page about the version that the window's verdict evaluates."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from ml_platform.components.metered import metered
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.stores import open_stores
from resources.dagster_home import HomeResource
from resources.lake import LakeResource
from resources.mlflow import MlflowResource
from resources.online_store import OnlineStoreResource

if TYPE_CHECKING:
    from ml_platform.steps.model_card import ModelCardFiles
    from ml_platform.steps.platform_stores import PlatformStores


def model_card(model: ModelAssets) -> dg.AssetsDefinition:
    """Return `<model>/model_card`: use, inputs, metrics, slices and cost of the evaluated version."""

    @dg.asset(
        key=model.key("model_card"),
        description=(
            "Model card of the version that the window's verdict evaluates, as HTML and as Markdown; MLflow shows it "
            "too. It is written before a person decides, and again when the version becomes champion."
        ),
        partitions_def=model.partitions_def,
        deps=[model.key("evaluation")],
        **model.shared_arguments("html"),
    )
    @metered
    def _model_card(
        context: dg.AssetExecutionContext,
        lake: LakeResource,
        mlflow: MlflowResource,
        home: HomeResource,
        online_store: OnlineStoreResource,
    ) -> dg.MaterializeResult[Any]:
        stores = open_stores(home, lake, mlflow, online_store)
        written = write_window_card(model, model.key_of_run(context, stores.lake), stores)
        return dg.MaterializeResult(
            metadata={
                "version": written.version.version,
                "model_card": home.link(written.html_path),
                "mlflow_run": mlflow.link(model.name, written.version.run_id),
                "markdown": dg.MetadataValue.md(written.markdown_path.read_text()),
            },
            data_version=dg.DataVersion(written.verdict_digest),
        )

    return _model_card


def write_window_card(model: ModelAssets, window: str, stores: "PlatformStores") -> "ModelCardFiles":
    """Write the model card of ``window`` with a link to the model's assets in Dagster."""
    from ml_platform.steps.model_card import write_model_card
    from resources.addresses import stored_address

    links = {"Assets, checks and runs in Dagster": f"{stored_address('webserver')}/assets/{model.name}/champion"}
    return write_model_card(model, window, stores, links)
