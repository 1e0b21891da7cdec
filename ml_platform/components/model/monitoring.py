"""The assets that watch a model: what it answered, what then happened, and whether its inputs still look alike.

Each body reads its inputs, calls the engine, and returns what the UI shows.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from ml_platform.components.declaration import partitions_definition, this_and_earlier_months
from ml_platform.components.materializations import table_metadata
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.stores import open_stores
from ml_platform.monitoring.outcomes import outcomes_table
from ml_platform.monitoring.prediction_log import predictions_table
from resources.dagster_home import HomeResource
from resources.lake import LakeResource
from resources.mlflow import MlflowResource
from resources.online_store import OnlineStoreResource


def predictions(model: ModelAssets) -> dg.AssetsDefinition:
    """`<model>/predictions`: what the services answered."""
    key = model.key("predictions")

    @dg.asset(
        key=key,
        description="One row per answered prediction, with its request and the feature values that it used.",
        metadata={"dagster/table_name": predictions_table(model.name)},
        check_specs=[
            dg.AssetCheckSpec(
                "skew",
                asset=key,
                description="Features of a sample of predictions are equal when recomputed from the change logs.",
            )
        ],
        **model.shared_arguments("deltalake"),
    )
    def _predictions(
        lake: LakeResource, home: HomeResource, mlflow: MlflowResource, online_store: OnlineStoreResource
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        from ml_platform.components.check_results import skew_result
        from ml_platform.steps.feature_checks import check_skew
        from ml_platform.steps.monitoring import ingest_predictions

        stores = open_stores(home, lake, mlflow, online_store)
        found = ingest_predictions(model, stores)
        yield dg.MaterializeResult(metadata={"dagster/row_count": found.rows, **found.model_dump(exclude={"rows"})})
        yield skew_result(check_skew(model, stores))

    return _predictions


def outcomes(model: ModelAssets) -> dg.AssetsDefinition:
    """`<model>/outcomes`: each prediction beside what then happened."""

    @dg.asset(
        key=model.key("outcomes"),
        description="One row per predicted example, version and role, with its outcome once that is known.",
        deps=[
            model.key("predictions"),
            dg.AssetDep(model.key("training_set"), partition_mapping=dg.AllPartitionMapping()),
        ],
        metadata={"dagster/table_name": outcomes_table(model.name)},
        **model.shared_arguments("deltalake"),
    )
    def _outcomes(lake: LakeResource) -> dg.MaterializeResult[Any]:
        from ml_platform.steps.monitoring import join_outcomes

        settled = join_outcomes(model, lake.lake())
        if settled is None:
            return dg.MaterializeResult(metadata={"dagster/row_count": 0, "reason": "Nothing was predicted yet."})
        return dg.MaterializeResult(
            metadata={**table_metadata(settled.table), "labelled": settled.labelled},
            data_version=dg.DataVersion(settled.table.sha256),
        )

    return _outcomes


def performance(model: ModelAssets) -> dg.AssetsDefinition:
    """`<model>/performance`: realised metrics by period and version, against what was promised."""
    key = model.key("performance")

    @dg.asset(
        key=key,
        description="Realised metrics of what each stable version answered, by period, with how many labels are known.",
        deps=[model.key("outcomes")],
        check_specs=[
            dg.AssetCheckSpec(
                "performance_regression",
                asset=key,
                description="The newest judged period is as good as the evaluation promised.",
            )
        ],
        **model.shared_arguments("python"),
    )
    def _performance(
        lake: LakeResource, home: HomeResource, mlflow: MlflowResource, online_store: OnlineStoreResource
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        from ml_platform.components.check_results import performance_metadata, performance_regression_result
        from ml_platform.steps.monitoring import performance_report

        report = performance_report(model, open_stores(home, lake, mlflow, online_store))
        yield dg.MaterializeResult(metadata=performance_metadata(report))
        yield performance_regression_result(report)

    return _performance


def drift(model: ModelAssets) -> dg.AssetsDefinition:
    """`<model>/drift`: whether the month's rows are still the kind of rows that came before."""
    key = model.key("drift")

    @dg.asset(
        key=key,
        description=(
            "The month's feature values, and the champion's scores, compared with those of all months before: what "
            "changed by more than is usual for it."
        ),
        partitions_def=partitions_definition(model.declared.partitions),
        deps=[dg.AssetDep(model.key("training_set"), partition_mapping=this_and_earlier_months())],
        check_specs=[
            dg.AssetCheckSpec(
                "no_drift",
                asset=key,
                description="Scores are distributed as before, and no data are broken: nulls, categories, volume.",
            )
        ],
        **model.shared_arguments("evidently"),
    )
    def _drift(
        context: dg.AssetExecutionContext,
        lake: LakeResource,
        home: HomeResource,
        mlflow: MlflowResource,
        online_store: OnlineStoreResource,
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        from ml_platform.components.check_results import drift_metadata, drift_result
        from ml_platform.steps.monitoring import monitor_drift

        watched = monitor_drift(model, context.partition_key, open_stores(home, lake, mlflow, online_store))
        page = {"report": home.link(watched.page)} if watched.page else {}
        yield dg.MaterializeResult(metadata={**drift_metadata(watched), **page})
        yield drift_result(watched.report)

    return _drift
