"""The assets of a model between its champion and the apps: the bento, and which one serves."""

from typing import Any

import dagster as dg

from ml_platform.components.declaration import partitions_definition
from ml_platform.components.model.model_assets import ModelAssets
from resources.dagster_home import HomeResource
from resources.lake import LakeResource
from resources.mlflow import MlflowResource
from resources.online_store import OnlineStoreResource


def bento(model: ModelAssets) -> dg.AssetsDefinition:
    """`<model>/bento`: the champion packaged with its features, contract and libraries, and proven to score alike."""

    @dg.asset(
        key=model.key("bento"),
        description=(
            "The champion as a BentoML service that carries only what it needs. Before it counts, it scores reference "
            "rows in a process of its own, equal to training."
        ),
        partitions_def=partitions_definition(model.declared.partitions),
        deps=[model.key("champion")],
        **model.shared_arguments("bentoml"),
    )
    def _bento(
        context: dg.AssetExecutionContext,
        lake: LakeResource,
        mlflow: MlflowResource,
        home: HomeResource,
        online_store: OnlineStoreResource,
    ) -> dg.MaterializeResult[Any]:
        from ml_platform.steps.packaging import package_champion

        packaged = package_champion(
            model,
            context.partition_key,
            lake=lake.lake(),
            registry=mlflow.models,
            online=online_store.store(),
            folders=home.home(),
            repository=home.code,
        )
        return dg.MaterializeResult(
            metadata={
                "version": packaged.version,
                "tag": packaged.package.tag,
                "path": dg.MetadataValue.path(str(packaged.package.path)),
                "size_bytes": packaged.package.size_bytes,
                "verified_rows": packaged.verified.rows,
                "latency_p50_ms": packaged.verified.latency_p50_ms,
                "latency_p99_ms": packaged.verified.latency_p99_ms,
            },
            data_version=dg.DataVersion(packaged.package.sha256),
        )

    return _bento


def rollout(model: ModelAssets) -> dg.AssetsDefinition:
    """`<model>/rollout`: the desired state, which the reconciler makes the world match."""

    @dg.asset(
        key=model.key("rollout"),
        description=(
            "Which bento should answer which share of the requests: the champion's verified one, beside a candidate or "
            "shadow that goes on. Whatever is up follows within seconds."
        ),
        partitions_def=partitions_definition(model.declared.partitions),
        deps=[model.key("bento")],
        **model.shared_arguments("envoy"),
    )
    def _rollout(
        context: dg.AssetExecutionContext, mlflow: MlflowResource, home: HomeResource
    ) -> dg.MaterializeResult[Any]:
        from ml_platform.steps.packaging import roll_out_champion

        state = roll_out_champion(model.name, registry=mlflow.models, folders=home.home())
        return dg.MaterializeResult(
            metadata={
                "generation": state.generation,
                "stable": state.stable.version if state.stable else "none",
                "candidate": state.candidate.version if state.candidate else "none",
                "shadow": state.shadow.version if state.shadow else "none",
                "weights": dg.MetadataValue.json(state.weights),
            }
        )

    return _rollout
