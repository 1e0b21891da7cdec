"""From a champion to the endpoint: build and verify its bento, and roll it out.

The way back is in :mod:`ml_platform.steps.rollback`.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from ml_platform.data.lake import Lake
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.fitted_views import load_transformers
from ml_platform.features.view import INSTANT, PREDICT_AT
from ml_platform.registry.champion_history import current_champion
from ml_platform.registry.following_aliases import set_pending_aliases
from ml_platform.registry.models import CHAMPION, ModelVersion
from ml_platform.registry.promotion import require_current_champion
from ml_platform.registry.verdict_record import PromotionError
from ml_platform.serving.bento_build import BentoVerification, BuiltBento, bento_digest, build_bento, verify_bento
from ml_platform.serving.bento_signature import ChangedBentoError, require_signature
from ml_platform.serving.bento_signing import SigningKeys
from ml_platform.serving.contract_changes import ContractSettings
from ml_platform.serving.desired_state import (
    DesiredState,
    ServedVersion,
    all_desired_states,
    desired_generation,
)
from ml_platform.serving.load_profile import LoadTestResult, LoadTestSettings
from ml_platform.serving.rollout_settings import RolloutSettings
from ml_platform.serving.streams.declared_streams import store_streams
from ml_platform.serving.streams.message_stream import MessageStream
from ml_platform.serving.verified_bentos import find_verified_bento, record_verified_bento
from ml_platform.steps.contract_check import (
    ContractComparison,
    compare_contract,
    record_intended_changes,
    require_compatible,
)
from ml_platform.steps.load_evidence import require_load_test, tested_under_load
from ml_platform.steps.model import BoundModel
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.steps.read_verification import (
    REFERENCE_ROWS,
    request_rows,
    require_published_reads,
    require_reads_of_training,
)
from ml_platform.steps.rollback import signed_version
from ml_platform.steps.rollouts import roll_out
from ml_platform.steps.untimed import written_at
from ml_platform.training.model_directory import read_model


@dataclass(frozen=True)
class PackageResult:
    """The bento of ``version`` and the results of its verification."""

    version: int
    package: BuiltBento
    verified: BentoVerification


def package_champion(model: BoundModel, window: str, stores: PlatformStores) -> PackageResult:
    """Return the champion's verified bento; build and verify it on rows of ``window`` when there is none to reuse.

    The evaluation has built and verified the bento of its candidate, so a promoted version usually has one. It is
    reused while its files are unchanged and a build would give the same content from the code, lock and model of now.
    Raises :class:`PromotionError` when the model has no champion, and otherwise as :func:`package_version`.
    """
    return reuse_or_package(model, champion_of(model.name, stores), window, stores)


def reuse_or_package(model: BoundModel, version: ModelVersion, window: str, stores: PlatformStores) -> PackageResult:
    """Return the verified bento of ``version`` if a build would give the same, else as :func:`package_version`."""
    found = find_verified_bento(
        stores.state,
        stores.home.bentos,
        model=model.name,
        version=str(version.version),
        model_digest=version.content_digest,
        build_digest=bento_digest(
            model_directory(version, stores),
            model.contract,
            version=str(version.version),
            locks=model.locks(stores.repository),
            signed=True,
            serving=model.declared.serving,
        ),
    )
    if found is not None and _is_signed(found[0].path, stores):
        return PackageResult(version.version, *found)
    return package_version(model, version, window, stores)


def _is_signed(bento: Path, stores: PlatformStores) -> bool:
    try:
        return bool(require_signature(bento, SigningKeys(stores.home.signing_keys).trusted))
    except ChangedBentoError:
        return False


def package_version(model: BoundModel, version: ModelVersion, window: str, stores: PlatformStores) -> PackageResult:
    """Build the bento of ``version``, verify it on rows of ``window``, and record it as the version's verified bento.

    The bento must read the features and give the scores of training: see :mod:`ml_platform.steps.read_verification`. A
    rollout uses only the recorded bento. Raises :class:`~ml_platform.serving.bento_sources.BentoError` when a feature
    or a score differs. The previous record of the version then stays valid.
    """
    directory = model_directory(version, stores)
    package = build_bento(
        directory,
        model.contract,
        version=str(version.version),
        bentos_root=stores.home.bentos,
        locks=model.locks(stores.repository),
        keys=SigningKeys(stores.home.signing_keys),
        serving=model.declared.serving,
    )
    features, subject = features_of(directory), f"Bento {package.tag}"
    require_reads_of_training(model, directory, features, stores.lake, subject)
    rows = reference_rows(model, window, stores.lake)
    trained = require_published_reads(rows, features, stores.online_store, stores.lake, subject, model.pii_columns)
    expected = read_model(directory).answer_numbers(trained, rows)
    requests = request_rows(model.request_fields, rows)
    verified = verify_bento(package, requests, expected, online=stores.online_store.location)
    record_verified_bento(
        stores.state,
        stores.home.bentos,
        package,
        verified,
        version=str(version.version),
        model_digest=version.content_digest,
    )
    return PackageResult(version.version, package, verified)


def signer_of(packaged: PackageResult, stores: PlatformStores) -> str:
    """Return the id of the key that signed the packaged bento, after a check of its signature."""
    return require_signature(packaged.package.path, SigningKeys(stores.home.signing_keys).trusted)


def contract_of_package(model: BoundModel, packaged: PackageResult, stores: PlatformStores) -> ContractComparison:
    """Return the comparison of the packaged contract with that of the version that serves."""
    folder = packaged.package.path.relative_to(stores.home.bentos).as_posix()
    served = ServedVersion(version=str(packaged.version), bento=folder)
    return compare_contract(model.name, served, stores, model.declared.contract)


def load_test_of_package(
    model: BoundModel, window: str, packaged: PackageResult, stores: PlatformStores, clock: Callable[[], datetime]
) -> LoadTestResult | None:
    """Return the result of the declared load test of the packaged bento, with requests of the last rows of ``window``.

    None for a model that declares none; see :func:`~.load_evidence.tested_under_load`.
    """
    settings = model.declared.load_test
    if settings is None:
        return None

    def rows() -> list[dict[str, Any]]:
        return request_rows(model.request_fields, reference_rows(model, window, stores.lake))

    return tested_under_load(packaged.package, rows, settings, stores, clock)


def roll_out_champion(
    name: str,
    stores: PlatformStores,
    *,
    by: str,
    at: datetime,
    settings: RolloutSettings | None = None,
    contract: ContractSettings | None = None,
    load_test: LoadTestSettings | None = None,
    streams: Sequence[MessageStream] | None = None,
) -> DesiredState:
    """Make the champion's verified bento the stable one and return the desired state.

    With ``settings`` that declare steps, it becomes the candidate beside another stable version instead, and the guard
    takes it through the steps. Otherwise a running rollout ends as superseded. With ``contract``, a version whose
    requests or answers break apps of the stable version is refused
    (:class:`~ml_platform.serving.contract_changes.IncompatibleContractError`), unless the change is intended; that is
    recorded. With ``load_test``, a bento that did not pass it is refused
    (:class:`~ml_platform.steps.load_evidence.LoadTestError`). A rollback asks for neither, because the version has
    served. ``streams`` replace those whose requests the endpoint answers; None: they stay.

    A change is recorded in the audit log, in the same transaction. The desired state does not change when this bento is
    stable already, and an unreadable one is replaced. Nothing is built: the rollout uses exactly the bento that was
    verified, even if the code has changed since. For a candidate or shadow in the desired state see
    :func:`~ml_platform.serving.desired_state.with_stable`. Raises
    :class:`~ml_platform.serving.bento_sources.BentoError`, and leaves the desired state as it is, when the champion has
    no verified bento or the bento was changed.
    """
    decided = current_champion(stores.audit, name)
    served = verified_version_of(champion_of(name, stores), stores)
    stable = all_desired_states(stores.state).readable.get(name, DesiredState()).stable
    if load_test is not None and stable != served:
        require_load_test(name, served.version, stores, load_test)
    found = None if contract is None else compare_contract(name, served, stores, contract)
    if found is not None:
        require_compatible(name, served.version, found)
    with stores.state.write():
        # Otherwise a rollout that began before a rollback would undo it.
        require_current_champion(stores.audit, name, decided)
        before = desired_generation(stores.state, name)
        desired = roll_out(stores.state, name, served, settings, by=by, at=at)
        if streams is not None:
            store_streams(stores.state, name, streams)
        if contract is not None and found is not None and desired.generation != before:
            record_intended_changes(name, served.version, found, stores, contract, by=by, at=at)
    return desired


def verified_version_of(version: ModelVersion, stores: PlatformStores) -> ServedVersion:
    """Return ``version`` with its verified bento, whose signature is checked if it was signed.

    Raises as :func:`~ml_platform.steps.rollback.signed_version`.
    """
    return signed_version(version.name, version.version, version.content_digest, stores.home, stores.state)


def champion_of(name: str, stores: PlatformStores) -> ModelVersion:
    """Return the champion; raises :class:`PromotionError` when the model has none."""
    # A rollback may have been recorded since the registry was opened.
    set_pending_aliases(stores.registry, stores.audit)
    champion = stores.registry.by_alias(name, CHAMPION)
    if champion is None:
        raise PromotionError(
            f"Model '{name}'",
            expected="a champion",
            found="none",
            fix=f"Materialize {name}/evaluation and {name}/champion first.",
        )
    return champion


def model_directory(version: ModelVersion, stores: PlatformStores) -> Path:
    """Return the folder with the files of ``version``, downloaded and verified by their digest at every call."""
    return stores.registry.download(version, stores.home.models / version.name / str(version.version))


def features_of(directory: Path) -> FeatureSet:
    """Return the feature views with which the model in ``directory`` was fitted.

    They may be older than the declared views. Verification and reproduction both use these.
    """
    return load_transformers(FeatureSet.from_dict(json.loads((directory / "features.json").read_text())), directory)


def reference_rows(model: BoundModel, window: str, lake: Lake) -> pl.DataFrame:
    """Return the last requests of ``window`` (request fields, predict_at), at most as many as one request may have.

    A model without time gets those with the last ids, at the time at which its training set was written.
    """
    count = min(REFERENCE_ROWS, model.declared.maximum_rows)
    rows = lake.scan(model.table, partitions=model.stored_partitions(window))
    if not model.has_time:
        rows = rows.with_columns(pl.lit(written_at(model, lake), INSTANT).alias(PREDICT_AT))
    ordered = rows.select(*model.request_fields, PREDICT_AT, "example_id").sort(PREDICT_AT, "example_id")
    return ordered.tail(count).drop("example_id").collect()
