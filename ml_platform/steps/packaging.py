"""From a champion to what serves: where registry, training and serving meet.

Apart from the assets because the command line rolls back by the same steps.
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
from ml_platform.features.online_store import OnlineStore
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import ROLL_BACK, ChampionRecord, current_champion
from ml_platform.registry.models import CHAMPION, ModelRegistry, ModelVersion
from ml_platform.registry.promotion import roll_back
from ml_platform.registry.verdict_record import PromotionError
from ml_platform.serving.bento_build import BentoVerification, BuiltBento, build_bento, verify_bento
from ml_platform.serving.desired_state import (
    DesiredState,
    ServedVersion,
    change_desired_state,
    read_desired_state,
    with_stable,
)
from ml_platform.serving.verified_bentos import record_verified_bento, verified_served_version
from ml_platform.steps.model import BoundModel
from ml_platform.training.model_directory import read_model
from resources.home import Home

REFERENCE_ROWS = 50
"""Rows that a bento must score as training does before it may serve."""


@dataclass(frozen=True)
class PackageResult:
    """A bento, the version in it, and what its verification found."""

    version: int
    package: BuiltBento
    verified: BentoVerification


def package_champion(
    model: BoundModel,
    month: str,
    *,
    lake: Lake,
    registry: ModelRegistry,
    online: OnlineStore,
    folders: Home,
    repository: Path,
) -> PackageResult:
    """Build the bento of the champion and let it score rows of ``month`` as training does; the same again is found."""
    version = champion_of(model.name, registry)
    rows = reference_rows(model, month, lake)
    package, verified = package_version(model, version, rows, registry, online, folders, repository)
    return PackageResult(version.version, package, verified)


def package_version(
    model: BoundModel,
    version: ModelVersion,
    rows: pl.DataFrame,
    registry: ModelRegistry,
    online: OnlineStore,
    folders: Home,
    repository: Path,
) -> tuple[BuiltBento, BentoVerification]:
    """Build the bento of ``version``, verify it and record that: from now on it is the one to roll out.

    Raises BentoError when it does not score ``rows`` (request fields, predict_at) as training does; then nothing is
    recorded, and a bento of the version that was verified earlier stays the one.
    """
    directory = model_directory(registry, version, folders.models)
    package = build_bento(
        directory,
        model.contract,
        version=str(version.version),
        bentos_root=folders.bentos,
        lock=repository / "requirements.lock",
    )
    expected: Sequence[float] = read_model(directory).predict(features_of(directory).online(rows, online)).tolist()
    verified = verify_bento(package, request_rows(model, rows), expected, online=online.location)
    record_verified_bento(
        folders.verified_bentos,
        folders.bentos,
        package,
        verified,
        version=str(version.version),
        model_digest=version.content_digest,
    )
    return package, verified


def roll_out_champion(name: str, *, registry: ModelRegistry, folders: Home) -> DesiredState:
    """Make the champion's verified bento the stable one and return the desired state; already so, nothing changes.

    Nothing is built: exactly the bento that scored as training does is rolled out, whatever became of the code since.
    What happens to a standing candidate or shadow: see :func:`~ml_platform.serving.desired_state.with_stable`. Raises
    :class:`~ml_platform.serving.bento_sources.BentoError` when no bento of the champion was verified or it was changed
    since; the desired state then stays as it is.
    """
    release = verified_version_of(champion_of(name, registry), folders)
    return change_desired_state(folders.serving / name, lambda standing: with_stable(standing, release))


def roll_back_champion(
    name: str, *, registry: ModelRegistry, audit: AuditLog, folders: Home, decided_by: str, reason: str, at: datetime
) -> tuple[ChampionRecord, DesiredState]:
    """Make the previous champion champion again, and its verified bento the stable one; in seconds, building nothing.

    A rollback that was killed between the two is finished first: asked again, it does not go back one version more.
    Raises what :func:`~ml_platform.registry.promotion.roll_back` and :func:`roll_out_champion` raise, and in both
    cases before anything has changed.
    """
    champion = current_champion(audit, name)
    stable = read_desired_state(folders.serving / name).stable
    if champion is not None and champion.action == ROLL_BACK and stable and stable.version != str(champion.version):
        return champion, roll_out_champion(name, registry=registry, folders=folders)
    if champion is not None and champion.previous_version is not None:
        verified_version_of(registry.version(name, champion.previous_version), folders)
    back = roll_back(registry, audit, name, decided_by=decided_by, reason=reason, at=at)
    return back, roll_out_champion(name, registry=registry, folders=folders)


def verified_version_of(version: ModelVersion, folders: Home) -> ServedVersion:
    """Return the verified bento of ``version``; raises BentoError where there is none."""
    return verified_served_version(
        folders.verified_bentos,
        folders.bentos,
        model=version.name,
        version=str(version.version),
        model_digest=version.content_digest,
    )


def champion_of(name: str, registry: ModelRegistry) -> ModelVersion:
    """Return the champion; raises :class:`PromotionError` when there is none."""
    champion = registry.by_alias(name, CHAMPION)
    if champion is None:
        raise PromotionError(
            f"Model '{name}'",
            expected="a champion",
            found="none",
            fix=f"Materialize {name}/evaluation and {name}/champion first.",
        )
    return champion


def model_directory(registry: ModelRegistry, version: ModelVersion, models_root: Path) -> Path:
    """Return the files of ``version``, fetched from the registry and verified by their digest at every call."""
    return registry.download(version, models_root / version.name / str(version.version))


def features_of(directory: Path) -> FeatureSet:
    """Return the views of the model in ``directory`` as it was fitted with them: they may be older than those declared.

    One place for both sides, serving's proof and training's repetition.
    """
    return FeatureSet.from_dict(json.loads((directory / "features.json").read_text()))


def reference_rows(model: BoundModel, month: str, lake: Lake) -> pl.DataFrame:
    """Return the last requests of ``month`` (request fields, predict_at): what a bento must score as training does."""
    rows = lake.scan(model.table, partitions=[month]).select(*model.request_fields, "predict_at", "example_id")
    return rows.sort("predict_at", "example_id").tail(REFERENCE_ROWS).drop("example_id").collect()


def request_rows(model: BoundModel, frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the request fields of ``frame`` as an app would send them: times as ISO 8601 text with an offset."""
    rows = frame.select(model.request_fields).to_dicts()
    return [
        {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}
        for row in rows
    ]
