"""The asset of a request view, which stores nothing: it shows columns, code version and inputs in the asset graph."""

from typing import Any

import dagster as dg

from ml_platform.components.feature_view.asset_arguments import ViewAssetArguments
from ml_platform.features.view import FeatureView as FeatureViewSettings


def request_view(settings: FeatureViewSettings, shared_arguments: ViewAssetArguments) -> dg.AssetsDefinition:
    """Return the asset `features/<name>` of a request view, which has no months."""

    @dg.asset(
        deps=[dg.AssetDep(dg.AssetKey(["features", name])) for name in settings.inputs],
        kinds={"polars"},
        automation_condition=_when_code_changes(),
        **shared_arguments,
    )
    def _request_view(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        return dg.MaterializeResult(
            metadata={"features": len(settings.features), "inputs": settings.inputs},
            data_version=dg.DataVersion(settings.code_version),
        )

    return _request_view


def _when_code_changes() -> dg.AutomationCondition[dg.AssetKey]:
    # It reads no data of its inputs, so it must not wait for their missing months.
    condition = dg.AutomationCondition
    missing = condition.missing() & ~condition.execution_failed()
    return (missing | condition.code_version_changed()) & ~condition.in_progress()
