"""The assets that watch a model: what it answered, what then happened, and whether its inputs still look alike."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from ml_platform.components.declaration import months_definition
from ml_platform.components.model import BoundModel
from resources.dagster_home import HomeResource
from resources.lake import LakeResource


def predictions(model: BoundModel) -> dg.AssetsDefinition:
    """`<model>/predictions`: what the services answered."""

    @dg.asset(
        key=model.key("predictions"),
        description="One row per answered prediction, with its request and the feature values that it used.",
        **model.common("deltalake"),
    )
    def _predictions(lake: LakeResource, home: HomeResource) -> dg.MaterializeResult[Any]:
        from ml_platform.components.watching import ingest_predictions

        found = ingest_predictions(model, lake.lake(), home.home())
        return dg.MaterializeResult(metadata={**found.model_dump(), "dagster/row_count": found.added})

    return _predictions


def outcomes(model: BoundModel) -> dg.AssetsDefinition:
    """`<model>/outcomes`: each prediction beside what then happened."""

    @dg.asset(
        key=model.key("outcomes"),
        description="One row per predicted example, version and role, with its outcome once that is known.",
        deps=[
            model.key("predictions"),
            dg.AssetDep(model.key("training_set"), partition_mapping=dg.AllPartitionMapping()),
        ],
        **model.common("deltalake"),
    )
    def _outcomes(lake: LakeResource) -> dg.MaterializeResult[Any]:
        from ml_platform.components.watching import settle_outcomes

        written = settle_outcomes(model, lake.lake())
        if written is None:
            return dg.MaterializeResult(metadata={"dagster/row_count": 0, "reason": "Nothing was predicted yet."})
        return dg.MaterializeResult(
            metadata={"dagster/row_count": written.rows, "table_version": written.version},
            data_version=dg.DataVersion(written.sha256),
        )

    return _outcomes


def performance(model: BoundModel) -> dg.AssetsDefinition:
    """`<model>/performance`: realised metrics by period."""

    @dg.asset(
        key=model.key("performance"),
        description="Realised metrics of what the stable version answered, by month, with how many labels are known.",
        deps=[model.key("outcomes")],
        **model.common("python"),
    )
    def _performance(lake: LakeResource) -> dg.MaterializeResult[Any]:
        from ml_platform.components.watching import judge_performance
        from ml_platform.monitoring.performance import PerformanceSettings

        report = judge_performance(model, lake.lake(), PerformanceSettings(), promise={})
        latest = report.latest
        return dg.MaterializeResult(
            metadata={
                "periods": len(report.periods),
                "predictions": sum(period.predictions for period in report.periods),
                "labelled": sum(period.labelled for period in report.periods),
                **(latest.metrics if latest else {"reason": "No period has enough known labels to be judged yet."}),
            }
        )

    return _performance


def drift(model: BoundModel) -> dg.AssetsDefinition:
    """`<model>/drift`: whether the month's rows are still the kind of rows that came before."""
    key = model.key("drift")

    @dg.asset(
        key=key,
        description="The month's feature values compared with those of all months before, by distance and by eye.",
        partitions_def=months_definition(model.declared.partitions),
        deps=[model.key("training_set")],
        check_specs=[dg.AssetCheckSpec("no_drift", asset=key, description="No feature drifted, no data are broken.")],
        **model.common("evidently"),
    )
    def _drift(
        context: dg.AssetExecutionContext, lake: LakeResource, home: HomeResource
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        from ml_platform.components.watching import watch_drift

        page = home.home().reports / "drift" / model.name / context.partition_key / "report.html"
        report = watch_drift(model, context.partition_key, lake.lake(), page)
        yield dg.MaterializeResult(
            metadata={
                "decision": report.decision,
                "drifted_features": len(report.drifted),
                "drifted": report.drifted,
                "rows_reference": report.rows_reference,
                "rows_current": report.rows_current,
                "report": home.link(page),
            }
        )
        yield dg.AssetCheckResult(
            check_name="no_drift",
            passed=report.decision in ("steady", "not judged"),
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{len(report.drifted)} of {len(report.columns)} columns drifted: {report.decision}.",
        )

    return _drift
