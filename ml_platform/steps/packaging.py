"""From a champion to the endpoint: build and verify its bento, roll it out, and roll back.

The assets and `ml-platform rollback` call the same functions.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from ml_platform.data.lake import Lake
from ml_platform.features.feature_set import FeatureSet
from ml_platform.registry.champion_history import ROLL_BACK, ChampionRecord, current_champion
from ml_platform.registry.models import CHAMPION, ModelRegistry, ModelVersion
from ml_platform.registry.promotion import roll_back
from ml_platform.registry.verdict_record import PromotionError
from ml_platform.serving.bento_build import BentoVerification, BuiltBento, bento_digest, build_bento, verify_bento
from ml_platform.serving.desired_state import (
    DesiredState,
    ServedVersion,
    change_desired_state,
    read_desired_state,
    with_stable,
)
from ml_platform.serving.verified_bentos import find_verified_bento, record_verified_bento, verified_served_version
from ml_platform.steps.model import BoundModel
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.training.model_directory import read_model

REFERENCE_ROWS = 50
"""Number of rows on which a bento must reproduce the training scores before it may serve."""


@dataclass(frozen=True)
class PackageResult:
    """The bento of ``version`` and the results of its verification."""

    version: int
    package: BuiltBento
    verified: BentoVerification


def package_champion(model: BoundModel, month: str, stores: PlatformStores) -> PackageResult:
    """Return the champion's verified bento; build and verify it on rows of ``month`` when there is none to reuse.

    The evaluation has built and verified the bento of its candidate, so a promoted version usually has one. It is
    reused while its files are unchanged and a build would give the same content from the code, lock and model of now.
    Raises :class:`PromotionError` when the model has no champion, and otherwise as :func:`package_version`.
    """
    version = champion_of(model.name, stores.registry)
    found = find_verified_bento(
        stores.home.verified_bentos,
        stores.home.bentos,
        model=model.name,
        version=str(version.version),
        model_digest=version.content_digest,
        sha256=bento_digest(
            model_directory(version, stores), model.contract, version=str(version.version), lock=_lock(stores)
        ),
    )
    if found is not None:
        return PackageResult(version.version, *found)
    return package_version(model, version, reference_rows(model, month, stores.lake), stores)


def package_version(
    model: BoundModel, version: ModelVersion, rows: pl.DataFrame, stores: PlatformStores
) -> PackageResult:
    """Build the bento of ``version``, verify it and record it as the version's verified bento.

    A rollout uses only the recorded bento. Raises :class:`~ml_platform.serving.bento_sources.BentoError` when the bento
    scores ``rows`` (request fields, predict_at) differently than training. The previous record of the version then
    stays valid.
    """
    directory = model_directory(version, stores)
    package = build_bento(
        directory,
        model.contract,
        version=str(version.version),
        bentos_root=stores.home.bentos,
        lock=_lock(stores),
    )
    features = features_of(directory).online(rows, stores.online_store)
    expected: Sequence[float] = read_model(directory).predict(features).tolist()
    verified = verify_bento(package, request_rows(model, rows), expected, online=stores.online_store.location)
    record_verified_bento(
        stores.home.verified_bentos,
        stores.home.bentos,
        package,
        verified,
        version=str(version.version),
        model_digest=version.content_digest,
    )
    return PackageResult(version.version, package, verified)


def roll_out_champion(name: str, stores: PlatformStores) -> DesiredState:
    """Make the champion's verified bento the stable one and return the desired state.

    The desired state does not change when this bento is stable already. Nothing is built: the rollout uses exactly the
    bento that was verified, even if the code has changed since. For a candidate or shadow in the desired state see
    :func:`~ml_platform.serving.desired_state.with_stable`. Raises
    :class:`~ml_platform.serving.bento_sources.BentoError`, and leaves the desired state as it is, when the champion has
    no verified bento or the bento was changed.
    """
    served = verified_version_of(champion_of(name, stores.registry), stores)
    return change_desired_state(stores.home.serving / name, lambda state: with_stable(state, served))


def roll_back_champion(
    name: str, stores: PlatformStores, *, decided_by: str, reason: str, at: datetime
) -> tuple[ChampionRecord, DesiredState]:
    """Make the previous champion champion again, and its verified bento the stable one.

    Nothing is built, so a rollback takes seconds. A rollback that was killed between registry and rollout is completed
    by the next call, which does not go back one more version. Raises the errors of
    :func:`~ml_platform.registry.promotion.roll_back` and :func:`roll_out_champion`, before anything has changed.
    """
    champion = current_champion(stores.audit, name)
    stable = read_desired_state(stores.home.serving / name).stable
    if champion is not None and champion.action == ROLL_BACK and stable and stable.version != str(champion.version):
        return champion, roll_out_champion(name, stores)
    if champion is not None and champion.previous_version is not None:
        verified_version_of(stores.registry.version(name, champion.previous_version), stores)
    back = roll_back(stores.registry, stores.audit, name, decided_by=decided_by, reason=reason, at=at)
    return back, roll_out_champion(name, stores)


def verified_version_of(version: ModelVersion, stores: PlatformStores) -> ServedVersion:
    """Return ``version`` with its verified bento.

    Raises :class:`~ml_platform.serving.bento_sources.BentoError` when the version has no verified bento.
    """
    return verified_served_version(
        stores.home.verified_bentos,
        stores.home.bentos,
        model=version.name,
        version=str(version.version),
        model_digest=version.content_digest,
    )


def champion_of(name: str, registry: ModelRegistry) -> ModelVersion:
    """Return the champion; raises :class:`PromotionError` when the model has none."""
    champion = registry.by_alias(name, CHAMPION)
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
    return FeatureSet.from_dict(json.loads((directory / "features.json").read_text()))


def reference_rows(model: BoundModel, month: str, lake: Lake) -> pl.DataFrame:
    """Return the last requests of ``month`` (request fields, predict_at), at most :data:`REFERENCE_ROWS` of them."""
    rows = lake.scan(model.table, partitions=[month]).select(*model.request_fields, "predict_at", "example_id")
    return rows.sort("predict_at", "example_id").tail(REFERENCE_ROWS).drop("example_id").collect()


def request_rows(model: BoundModel, frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the request fields of ``frame`` as an app sends them: instants as ISO 8601 text with an offset."""
    rows = frame.select(model.request_fields).to_dicts()
    return [
        {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}
        for row in rows
    ]


def _lock(stores: PlatformStores) -> Path:
    return stores.repository / "requirements.lock"
