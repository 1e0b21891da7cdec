"""The asset of a request view, which stores nothing: it shows columns, code version and inputs in the asset graph."""

from typing import Any

import dagster as dg

from ml_platform.components.code_record import record_code
from ml_platform.components.declaration import OnCodeChange
from ml_platform.components.feature_view.asset_arguments import ViewAssetArguments
from ml_platform.components.feature_view.columns import column_lineage
from ml_platform.components.materializations import LINEAGE
from ml_platform.components.metered import metered
from ml_platform.features.view import FeatureView as FeatureViewSettings
from resources.lake import LakeResource


def request_view(
    settings: FeatureViewSettings, shared_arguments: ViewAssetArguments, on_code_change: OnCodeChange = "automatic"
) -> dg.AssetsDefinition:
    """Return the asset `features/<name>` of a request view, which has no partitions."""

    @dg.asset(
        deps=[dg.AssetDep(dg.AssetKey(["features", name])) for name in settings.inputs],
        kinds={"polars"},
        automation_condition=_when_missing(on_code_change),
        **shared_arguments,
    )
    @metered
    def _request_view(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult[Any]:
        record_code(context, lake.lake().state)
        return dg.MaterializeResult(
            metadata={
                "features": len(settings.features),
                "inputs": settings.inputs,
                LINEAGE: column_lineage(settings),
            },
            data_version=dg.DataVersion(settings.code_version),
        )

    return _request_view


def _when_missing(on_code_change: OnCodeChange) -> dg.AutomationCondition[dg.AssetKey]:
    # It reads no data of its inputs, so it must not wait for their missing partitions.
    condition = dg.AutomationCondition
    due: Any = condition.missing() & ~condition.execution_failed()
    if on_code_change == "automatic":
        due |= condition.code_version_changed()
    found: dg.AutomationCondition[dg.AssetKey] = due & ~condition.in_progress()
    return found
