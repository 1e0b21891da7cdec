"""The asset of a request view: nothing is stored; it shows columns, code version and inputs in the asset graph."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from ml_platform.features.view import FeatureView as FeatureViewSettings


def request_view(settings: FeatureViewSettings, shared_arguments: Mapping[str, Any]) -> dg.AssetsDefinition:
    """`features/<name>` of a request view: computed from the request alone, so that it has no months."""

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


def _when_code_changes() -> dg.AutomationCondition:
    # It stores nothing, so that it needs nothing of its inputs, of which some months are always still to come.
    condition = dg.AutomationCondition
    missing = condition.missing() & ~condition.execution_failed()
    return (missing | condition.code_version_changed()) & ~condition.in_progress()
