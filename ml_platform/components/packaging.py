"""From a champion to what serves: where registry, training and serving meet.

Apart from the assets because the command line rolls back by the same steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from ml_platform.components.model import BoundModel
from ml_platform.data.lake import Lake
from ml_platform.features.online import OnlineStore
from ml_platform.registry.models import CHAMPION, ModelRegistry, ModelVersion
from ml_platform.registry.verdict_record import PromotionRefused
from ml_platform.serving.package import Package, Verified, build_bento, verify_bento
from ml_platform.serving.wanted import Release, WantedState, read_wanted, swap_wanted
from ml_platform.training.model_directory import read_model
from resources.home import Home

REFERENCE_ROWS = 50
"""Rows that a bento must score as training does before it may serve."""


@dataclass(frozen=True)
class Packaged:
    """A bento, the version in it, and what its verification found."""

    version: int
    package: Package
    verified: Verified


def package_champion(
    model: BoundModel,
    month: str,
    *,
    lake: Lake,
    registry: ModelRegistry,
    online: OnlineStore,
    folders: Home,
    repository: Path,
) -> Packaged:
    """Build the bento of the champion and let it score rows of ``month`` as training does; the same again is found."""
    version = champion_of(model, registry)
    rows = reference_rows(model, month, lake)
    package, verified = package_version(model, version, rows, registry, online, folders, repository)
    return Packaged(version.version, package, verified)


def package_version(
    model: BoundModel,
    version: ModelVersion,
    rows: pl.DataFrame,
    registry: ModelRegistry,
    online: OnlineStore,
    folders: Home,
    repository: Path,
) -> tuple[Package, Verified]:
    """Build the bento of ``version``; raises when it does not score ``rows`` (request fields, predict_at) alike."""
    directory = model_directory(registry, version, folders.models)
    package = build_bento(
        directory,
        model.contract,
        version=str(version.version),
        bentos_root=folders.bentos,
        lock=repository / "requirements.lock",
    )
    stored = read_model(directory)
    expected: Sequence[float] = stored.predict(model.feature_set.online(rows, online)).tolist()
    return package, verify_bento(package, request_rows(model, rows), expected, online_root=folders.online)


def roll_out_champion(model: BoundModel, *, registry: ModelRegistry, folders: Home, repository: Path) -> WantedState:
    """Make the champion's bento the stable one at full weight and return the wanted state; already so, nothing changes.

    Raises :class:`~ml_platform.serving.wanted.GenerationMoved` when another change came between.
    """
    version = champion_of(model, registry)
    package = build_bento(
        model_directory(registry, version, folders.models),
        model.contract,
        version=str(version.version),
        bentos_root=folders.bentos,
        lock=repository / "requirements.lock",
    )
    folder = folders.serving / model.name
    standing = read_wanted(folder)
    wanted = WantedState(
        stable=Release(version=str(version.version), bento=str(package.path)),
        weights={"stable": 100},
        generation=standing.generation,
    )
    return standing if wanted == standing else swap_wanted(folder, wanted, standing.generation)


def champion_of(model: BoundModel, registry: ModelRegistry) -> ModelVersion:
    """Return the champion; raises :class:`PromotionRefused` when there is none."""
    champion = registry.by_alias(model.name, CHAMPION)
    if champion is None:
        raise PromotionRefused(
            f"Model '{model.name}'",
            expected="a champion",
            found="none",
            mend=f"Materialize {model.name}/evaluation and {model.name}/champion first.",
        )
    return champion


def model_directory(registry: ModelRegistry, version: ModelVersion, models_root: Path) -> Path:
    """Return the files of ``version``, fetched from the registry and verified by their digest at every call."""
    return registry.download(version, models_root / version.name / str(version.version))


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
