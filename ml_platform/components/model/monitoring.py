"""The assets that monitor a model: logged predictions, outcomes, realised performance and drift."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from ml_platform.components.materializations import table_metadata
from ml_platform.components.metered import metered
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.model.serving_freshness import FRESHNESS_CHECKS, freshness_results
from ml_platform.components.stores import open_stores
from ml_platform.monitoring.outcomes import outcomes_table
from ml_platform.monitoring.prediction_log import predictions_table
from resources.dagster_home import HomeResource
from resources.isolated_steps import imports_tag
from resources.lake import LakeResource
from resources.mlflow import MlflowResource
from resources.online_store import OnlineStoreResource


def predictions(model: ModelAssets) -> dg.AssetsDefinition:
    """Return the asset `<model>/predictions`: the logged predictions of the services."""
    key = model.key("predictions")

    @dg.asset(
        key=key,
        description="One row per prediction of the services, with the request and the feature values that were used.",
        metadata={"dagster/table_name": predictions_table(model.name)},
        check_specs=[
            dg.AssetCheckSpec(
                "skew",
                asset=key,
                description="Logged features of a sample of predictions equal those recomputed from the change logs.",
            ),
            *(
                dg.AssetCheckSpec(name, asset=key, description=description)
                for name, description in FRESHNESS_CHECKS.items()
            ),
        ],
        **model.shared_arguments("deltalake"),
    )
    @metered
    def _predictions(
        lake: LakeResource, home: HomeResource, mlflow: MlflowResource, online_store: OnlineStoreResource
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        from ml_platform.components.check_results import skew_result
        from ml_platform.steps.feature_checks import check_skew
        from ml_platform.steps.monitoring import ingest_predictions, lost_predictions

        stores = open_stores(home, lake, mlflow, online_store)
        ingested = ingest_predictions(model, stores, datetime.now(UTC))
        yield dg.MaterializeResult(
            metadata={
                "dagster/row_count": ingested.rows,
                **ingested.model_dump(exclude={"rows"}),
                **lost_predictions(model, stores).model_dump(),
            }
        )
        yield skew_result(check_skew(model, stores))
        yield from freshness_results(model, stores, datetime.now(UTC))

    return _predictions


def outcomes(model: ModelAssets) -> dg.AssetsDefinition:
    """Return the asset `<model>/outcomes`: each prediction joined with its outcome."""

    @dg.asset(
        key=model.key("outcomes"),
        description=(
            "One row when the outcome of a prediction becomes known, and one more when it changes or is withdrawn; the "
            "last one counts."
        ),
        deps=[
            model.key("predictions"),
            dg.AssetDep(model.key("training_set"), partition_mapping=dg.AllPartitionMapping()),
        ],
        metadata={"dagster/table_name": outcomes_table(model.name)},
        **model.shared_arguments("deltalake"),
    )
    @metered
    def _outcomes(lake: LakeResource, home: HomeResource) -> dg.MaterializeResult[Any]:
        from ml_platform.steps.monitoring import join_outcomes
        from ml_platform.steps.pseudonyms import hashed_fields_of

        joined = join_outcomes(model, lake.lake(), datetime.now(UTC), hashed_fields_of(model, home.home()))
        if joined is None:
            return dg.MaterializeResult(metadata={"dagster/row_count": 0, "reason": "Nothing was predicted yet."})
        if joined.table is None:
            return dg.MaterializeResult(
                metadata={"dagster/row_count": 0, "labelled": 0, "reason": "No outcome is known yet."}
            )
        return dg.MaterializeResult(
            metadata={**table_metadata(joined.table), "labelled": joined.labelled},
            data_version=dg.DataVersion(joined.table.sha256),
        )

    return _outcomes


def performance(model: ModelAssets) -> dg.AssetsDefinition:
    """Return the asset `<model>/performance`: realised and estimated metrics by period, beside the promised ones."""
    key = model.key("performance")
    fairness = [
        dg.AssetCheckSpec(
            "fairness",
            asset=key,
            description="In the latest period with enough labels, no group is proven to be beyond a declared limit.",
        )
    ][: len(model.fairness_gates)]

    @dg.asset(
        key=key,
        description=(
            "Realised metrics of the stable versions by period, with the maturity of their labels, and estimates from "
            "before the labels are known."
        ),
        deps=[model.key("outcomes")],
        check_specs=[
            dg.AssetCheckSpec(
                "performance_regression",
                asset=key,
                description="The latest period with enough labels is not worse than the evaluation of its version.",
            ),
            dg.AssetCheckSpec(
                "concept_drift",
                asset=key,
                description="The loss is not higher than the mix of the predictions explains, in two of three periods.",
            ),
            *fairness,
        ],
        **model.shared_arguments("python"),
    )
    @metered
    def _performance(
        lake: LakeResource, home: HomeResource, mlflow: MlflowResource, online_store: OnlineStoreResource
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        from ml_platform.components.performance_results import (
            concept_drift_result,
            fairness_result,
            performance_metadata,
            performance_regression_result,
        )
        from ml_platform.steps.monitoring import performance_report
        from ml_platform.steps.realised_loss import continue_loss_test
        from ml_platform.steps.version_knowledge import not_estimated

        stores = open_stores(home, lake, mlflow, online_store)
        report = performance_report(model, stores)
        continue_loss_test(model, stores)
        yield dg.MaterializeResult(metadata=performance_metadata(report, not_estimated(model)))
        yield performance_regression_result(report)
        yield concept_drift_result(report)
        if fairness:
            yield fairness_result(report)

    return _performance


def drift(model: ModelAssets) -> dg.AssetsDefinition:
    """Return the asset `<model>/drift`: the rows of a window compared with those of earlier windows."""
    key = model.key("drift")

    @dg.asset(
        key=key,
        description=(
            "Drift report of the window: feature values and champion scores compared with those of earlier windows, "
            "with the columns that changed more than usual."
        ),
        partitions_def=model.partitions_def,
        deps=[model.earlier_rows],
        check_specs=[
            dg.AssetCheckSpec(
                "no_drift",
                asset=key,
                description="The score distribution, nulls, categories and number of rows are as in earlier windows.",
            ),
            *(
                dg.AssetCheckSpec(name, asset=key, description=monitor.summary())
                for name, monitor in model.declared.monitors.own.items()
            ),
        ],
        op_tags=imports_tag("evidently", "mlflow"),
        **model.shared_arguments("evidently"),
    )
    @metered
    def _drift(
        context: dg.AssetExecutionContext,
        lake: LakeResource,
        home: HomeResource,
        mlflow: MlflowResource,
        online_store: OnlineStoreResource,
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        from ml_platform.components.check_results import (
            drift_metadata,
            drift_result,
            not_evaluated,
            own_monitor_result,
        )
        from ml_platform.steps.feature_checks import NotEvaluated
        from ml_platform.steps.monitoring import monitor_drift

        stores = open_stores(home, lake, mlflow, online_store)
        result = monitor_drift(model, model.key_of_run(context, stores.lake), stores)
        if isinstance(result, NotEvaluated):
            yield dg.MaterializeResult(metadata={"reason": result.reason})
            yield from (not_evaluated(name, result) for name in ("no_drift", *model.declared.monitors.own))
            return
        page = {"report": home.link(result.page)} if result.page else {}
        yield dg.MaterializeResult(metadata={**drift_metadata(result), **page})
        yield drift_result(result.report)
        yield from (own_monitor_result(name, each) for name, each in result.own.items())

    return _drift
