"""Restores a champion that was deleted in MLflow, from the places where the platform keeps its files."""

import json
from datetime import datetime
from pathlib import Path

import polars as pl

from ml_platform.features.feature_set import FeatureSet
from ml_platform.registry.champion_history import ChampionRecord, current_champion
from ml_platform.registry.dvc_release import MODEL_FOLDER, TRAINING_SET_FILE
from ml_platform.registry.missing_champion import restore_champion
from ml_platform.registry.models import MODEL_FILE
from ml_platform.registry.verdict_record import PromotionError
from ml_platform.serving.verified_bentos import verified_bento_of
from ml_platform.steps.candidates import model_inputs
from ml_platform.steps.model import is_training_set
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.tasks.catalog import as_task

EXAMPLE_ROWS = 5
RELEASES = "releases"


def restore_deleted_champion(
    model: str, stores: PlatformStores, *, by: str, reason: str, now: datetime
) -> ChampionRecord:
    """Register the deleted champion of ``model`` again and return its record.

    Its files are taken from the downloaded model, the release folder or the verified bento, whichever has its content.
    Raises :class:`~ml_platform.registry.verdict_record.PromotionError` without a champion or without its files.
    """
    champion = current_champion(stores.audit, model)
    if champion is None:
        raise PromotionError(f"Model '{model}'", expected="a champion", found="none", fix="Promote a version instead.")
    directories = _directories(champion, stores)
    return restore_champion(
        stores.registry,
        stores.audit,
        model,
        directories,
        input_example=_input_example(champion, directories, stores),
        decided_by=by,
        reason=reason,
        at=now,
    )


def _directories(champion: ChampionRecord, stores: PlatformStores) -> list[Path]:
    bento = verified_bento_of(stores.state, champion.model, str(champion.version))
    return [
        stores.home.models / champion.model / str(champion.version),
        *(folder / MODEL_FOLDER for folder in _releases(champion, stores)),
        *([stores.home.bentos / bento.folder / "src" / "model"] if bento is not None else []),
    ]


def _releases(champion: ChampionRecord, stores: PlatformStores) -> list[Path]:
    """Return the folders in which the champion may be released: a release keeps the name that the model had then."""
    names = [champion.model, *stores.audit.former_names(champion.model)]
    return [stores.repository / RELEASES / name for name in names]


def _input_example(champion: ChampionRecord, directories: list[Path], stores: PlatformStores) -> pl.DataFrame:
    """Return a few rows of model input, from the training set of the lake or of the release; empty without both."""
    described = next((folder / MODEL_FILE for folder in directories if (folder / MODEL_FILE).exists()), None)
    names = [] if described is None else _inputs(described.parent)
    sets = [folder / TRAINING_SET_FILE for folder in _releases(champion, stores)]
    released = next((path for path in sets if path.exists()), None)
    # The manifest pins the table that the version was trained on, under the version of its code.
    table = next((name for name in champion.manifest["tables"] if is_training_set(name)), "")
    stored = stores.lake.partitions(table) if table else []
    if champion.partition in stored:
        rows = stores.lake.scan(table, partitions=[champion.partition])
    elif table and not stored and stores.lake.exists(table):
        # The training set of a model without time is one table; any of its versions has the columns.
        rows = stores.lake.scan(table)
    elif released is not None:
        rows = pl.scan_parquet(released)
    else:
        return pl.DataFrame()
    known = [name for name in names if name in rows.collect_schema()]
    return rows.select(known).head(EXAMPLE_ROWS).collect()


def _inputs(folder: Path) -> list[str]:
    """Return the columns from which the model in ``folder`` predicts, without those that its transformers compute."""
    described = json.loads((folder / MODEL_FILE).read_bytes())
    names = list(described.get("feature_names", []))
    if not (folder / "features.json").exists() or "task" not in described:
        return names
    features = FeatureSet.from_dict(json.loads((folder / "features.json").read_text()))
    return list(dict.fromkeys([*names, *model_inputs(features, as_task(described["task"]))]))
