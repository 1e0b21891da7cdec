"""The model card: a page for the version that the month's verdict is about."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from ml_platform.components.declaration import partitions_definition
from ml_platform.components.model.model_assets import ModelAssets
from resources.dagster_home import HomeResource
from resources.mlflow import MlflowResource

if TYPE_CHECKING:
    from ml_platform.steps.model_card import ModelCardFiles


def model_card(model: ModelAssets) -> dg.AssetsDefinition:
    """`<model>/model_card`: what a judged version is for, made from what, how good where, at what cost."""

    @dg.asset(
        key=model.key("model_card"),
        description=(
            "The card of the version that the month's verdict is about, as a page (HTML) and as text (Markdown); "
            "MLflow shows it too. Made before anybody decides, and anew by the champion that it becomes."
        ),
        partitions_def=partitions_definition(model.declared.partitions),
        deps=[model.key("evaluation")],
        **model.shared_arguments("html"),
    )
    def _model_card(
        context: dg.AssetExecutionContext, mlflow: MlflowResource, home: HomeResource
    ) -> dg.MaterializeResult[Any]:
        written = write_month_card(model, context.partition_key, mlflow, home)
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


def write_month_card(model: ModelAssets, month: str, mlflow: MlflowResource, home: HomeResource) -> "ModelCardFiles":
    from ml_platform.steps.model_card import write_model_card
    from resources.addresses import address

    return write_model_card(
        model,
        month,
        registry=mlflow.models,
        audit=home.audit(),
        folders=home.home(),
        repository=home.code,
        links={"Assets, checks and runs in Dagster": f"{address('webserver')}/assets/{model.name}/champion"},
    )
