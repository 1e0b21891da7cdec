"""The assets between a model's champion and the apps: `bento`, and `rollout`, which decides what serves."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from ml_platform.components.metadata import records_table
from ml_platform.components.metered import metered
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.stores import open_stores
from resources.dagster_home import HomeResource
from resources.lake import LakeResource
from resources.mlflow import MlflowResource
from resources.online_store import OnlineStoreResource

if TYPE_CHECKING:
    from ml_platform.serving.load_profile import LoadTestResult
    from ml_platform.steps.contract_check import ContractComparison


COMPATIBLE = "compatible_contract"
"""Name of the check on the contract of a bento."""

LOAD_TEST = "load_test"
"""Name of the check on a bento under its declared load."""


def bento(model: ModelAssets) -> dg.AssetsDefinition:
    """Return `<model>/bento`: the champion with its features, contract and libraries, verified against training."""
    key = model.key("bento")

    @dg.asset(
        key=key,
        description=(
            "The champion as a BentoML service with only the code and libraries that it needs. It has reproduced the "
            "training scores of reference rows in its own process. The bento that the evaluation verified is reused; "
            "after a change of code, lock or files it is built and verified again."
        ),
        partitions_def=model.partitions_def,
        deps=[model.key("champion")],
        check_specs=[
            dg.AssetCheckSpec(
                COMPATIBLE,
                asset=key,
                description="Apps of the version that serves can use this one: it refuses no request that they send, "
                "and its answers have what they read.",
                blocking=True,
            ),
            *([_load_test_spec(key)] if model.declared.load_test is not None else []),
        ],
        **model.shared_arguments("bentoml"),
    )
    @metered
    def _bento(
        context: dg.AssetExecutionContext,
        lake: LakeResource,
        mlflow: MlflowResource,
        home: HomeResource,
        online_store: OnlineStoreResource,
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        from ml_platform.serving.bento_sbom import SBOM_FILE, library_count
        from ml_platform.steps.packaging import (
            contract_of_package,
            load_test_of_package,
            package_champion,
            signer_of,
        )

        stores = open_stores(home, lake, mlflow, online_store)
        key_of_run = model.key_of_run(context, stores.lake)
        packaged = package_champion(model, key_of_run, stores)
        yield dg.MaterializeResult(
            metadata={
                "version": packaged.version,
                "tag": packaged.package.tag,
                # Relative to the home, which may be moved.
                "path": dg.MetadataValue.path(str(packaged.package.path.relative_to(home.home().root))),
                "size_bytes": packaged.package.size_bytes,
                "verified_rows": packaged.verified.rows,
                "latency_p50_ms": packaged.verified.latency_p50_ms,
                "latency_p99_ms": packaged.verified.latency_p99_ms,
                "sbom": dg.MetadataValue.path(str((packaged.package.path / SBOM_FILE).relative_to(home.home().root))),
                "libraries": library_count(packaged.package.path),
                "signed_by": signer_of(packaged, stores)[:16],
            },
            data_version=dg.DataVersion(packaged.package.sha256),
        )
        yield _compatible(contract_of_package(model, packaged, stores))
        tested = load_test_of_package(model, key_of_run, packaged, stores, lambda: datetime.now(UTC))
        if tested is not None:
            yield _bears_load(tested)

    return _bento


def _compatible(found: "ContractComparison") -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=COMPATIBLE,
        passed=not found.refused,
        description=" ".join(each.text for each in found.refused) or found.text,
        metadata={
            "stable": found.stable or "none",
            "changes": records_table(
                [
                    {"place": each.place, "expected": each.expected, "found": each.found, "intended": intended}
                    for changes, intended in ((found.refused, False), (found.intended, True))
                    for each in changes
                ]
            ),
        },
    )


def _load_test_spec(key: dg.AssetKey) -> dg.AssetCheckSpec:
    description = "The bento answers the declared load without an error, and its p99 is within the declared limit."
    return dg.AssetCheckSpec(LOAD_TEST, asset=key, description=description, blocking=True)


def _bears_load(result: "LoadTestResult") -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=LOAD_TEST,
        passed=result.outcome == "pass",
        # A test that noise made undecidable stops nothing, unless that is declared.
        severity=dg.AssetCheckSeverity.ERROR if result.is_refused else dg.AssetCheckSeverity.WARN,
        description=result.reason,
        metadata={
            "outcome": result.outcome,
            "tested_at": result.at.isoformat(),
            "rate": result.settings.rate,
            "limit_p99_ms": result.settings.p99_ms,
            "turns": records_table([each.model_dump() for each in result.turns]),
        },
    )


def rollout(model: ModelAssets) -> dg.AssetsDefinition:
    """Return `<model>/rollout`: the desired state of the endpoint, which the reconciler establishes."""

    @dg.asset(
        key=model.key("rollout"),
        description=(
            "Desired state of the endpoint: the champion's verified bento as stable version, or as candidate that the "
            "guard takes through the declared steps, with the share of the requests. Services follow within seconds."
        ),
        partitions_def=model.partitions_def,
        deps=[model.key("bento")],
        **model.shared_arguments("envoy"),
    )
    @metered
    def _rollout(
        lake: LakeResource, mlflow: MlflowResource, home: HomeResource, online_store: OnlineStoreResource
    ) -> dg.MaterializeResult[Any]:
        from ml_platform.serving.scaling_record import scaling_steps
        from ml_platform.steps.packaging import roll_out_champion

        stores = open_stores(home, lake, mlflow, online_store)
        state = roll_out_champion(
            model.name,
            stores,
            by=f"{model.name}/rollout",
            at=datetime.now(UTC),
            settings=model.declared.rollout,
            contract=model.declared.contract,
            load_test=model.declared.load_test,
            streams=model.declared.serving.streams,
        )
        return dg.MaterializeResult(
            metadata={
                "generation": state.generation,
                "stable": state.stable.version if state.stable else "none",
                "candidate": state.candidate.version if state.candidate else "none",
                "shadow": state.shadow.version if state.shadow else "none",
                "weights": dg.MetadataValue.json(state.weights),
                "scaling": records_table(
                    [each.model_dump(mode="json") for each in scaling_steps(stores.state, model.name)]
                ),
            }
        )

    return _rollout
