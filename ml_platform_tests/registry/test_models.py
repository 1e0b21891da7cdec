"""A registered model is downloaded bit for bit, has a signature and an example, and is never a pickle."""

import json
import pickle
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ml_platform.data.canonical import directory_digest
from ml_platform.registry.manifest import Manifest, ManifestError
from ml_platform.registry.models import ModelError, ModelRegistry, ModelVersion

Directory = Callable[..., Path]
Register = Callable[[str], ModelVersion]


def test_download_gives_the_registered_files_bit_for_bit(
    registry: ModelRegistry, registered: Register, model_directory: Directory, tmp_path: Path
) -> None:
    got = registry.download(registered("tree"), tmp_path / "got")
    assert directory_digest(got) == directory_digest(model_directory("tree"))


def test_right_files_stay_in_place_for_other_readers_and_damaged_files_are_replaced(
    registry: ModelRegistry, registered: Register, tmp_path: Path
) -> None:
    version = registered("tree")
    got = registry.download(version, tmp_path / "got")
    opened = got.stat().st_ino
    registry.download(version, tmp_path / "got")
    assert got.stat().st_ino == opened
    next(got.rglob("weights.txt")).write_text("damaged")
    registry.download(version, tmp_path / "got")
    assert directory_digest(got) == version.directory_digest


def test_changed_artifact_is_rejected_and_the_target_is_unchanged(
    registry: ModelRegistry, registered: Register, tmp_path: Path
) -> None:
    version = registered("tree")
    stored = next((tmp_path / "artifacts").rglob("weights.txt"))
    stored.write_text("another tree")
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / "kept").write_text("old")
    with pytest.raises(ModelError, match=f"files with the digest {version.directory_digest[:12]}, found"):
        registry.download(version, tmp_path / "got")
    assert [path.name for path in (tmp_path / "got").iterdir()] == ["kept"]


def test_missing_stored_files_are_named_with_the_fix(
    registry: ModelRegistry, registered: Register, tmp_path: Path
) -> None:
    version = registered("tree")
    shutil.rmtree(tmp_path / "artifacts")
    with pytest.raises(ModelError, match=r"version 1: expected its stored files \(model\).*Restore the artifact store"):
        registry.download(version, tmp_path / "got")
    with pytest.raises(ModelError, match=r"expected its stored files \(model/manifest.json\)"):
        registry.manifest(version)


def test_version_that_training_gave_again_is_the_latest_chosen(registry: ModelRegistry, registered: Register) -> None:
    first, second = registered("tree"), registered("forest")
    assert first.chosen_at_ms <= second.chosen_at_ms
    registry.mark_chosen(first, datetime(2100, 1, 1, tzinfo=UTC))
    assert registry.version("departure_risk", 1).chosen_at_ms > second.chosen_at_ms


def test_same_content_from_same_inputs_is_the_same_version(registered: Register) -> None:
    assert [registered("tree").version, registered("tree").version, registered("forest").version] == [1, 1, 2]


def test_same_content_from_other_inputs_is_a_new_version(
    registry: ModelRegistry, registered: Register, model_directory: Directory, manifest: Manifest, example: pl.DataFrame
) -> None:
    first = registered("tree")
    other = model_directory("tree", manifest.model_copy(update={"training_set": "f" * 64}))
    second = registry.register("departure_risk", other, run_id=first.run_id, input_example=example)
    assert (first.version, second.version) == (1, 2)
    assert first.content_digest == second.content_digest


def test_signature_names_types_and_nullability_of_the_example(registry: ModelRegistry, registered: Register) -> None:
    from mlflow.models import Model

    version = registered("tree")
    stored = registry.tracking.client.download_artifacts(version.run_id, "model/MLmodel")
    signature = Model.load(stored).signature
    described = [column.to_dict() for column in signature.inputs]
    assert [(column["name"], column["type"], column["required"]) for column in described] == [
        ("distance", "double", False),
        ("carrier", "string", True),
        ("hour", "any", True),  # pandas makes floats of whole numbers with nulls
    ]
    assert signature.outputs.input_names() == ["score"]


def test_mlflow_reads_the_input_example(registry: ModelRegistry, registered: Register) -> None:
    from mlflow.models import Model

    stored = registry.tracking.client.download_artifacts(registered("tree").run_id, "model")
    example: Any = Model.load(stored).load_input_example(stored)
    assert example["carrier"].tolist() == ["UA", "AA"]


def test_mlflow_loads_a_lightgbm_booster_directly(
    registry: ModelRegistry, model_directory: Directory, example: pl.DataFrame
) -> None:
    import lightgbm
    import mlflow
    import numpy as np

    features = np.arange(40.0).reshape(20, 2)
    booster = lightgbm.train({"verbose": -1, "min_data_in_leaf": 1}, lightgbm.Dataset(features, features[:, 0]), 3)
    directory = model_directory("boosted")
    booster.save_model(directory / "model.txt")
    with registry.tracking.run("departure_risk", "boosted", {}) as run:
        registry.register("departure_risk", directory, run_id=run.run_id, input_example=example)
    stored = registry.tracking.client.download_artifacts(run.run_id, "model")
    assert (
        mlflow.lightgbm.load_model(stored).predict(features).tolist() == np.asarray(booster.predict(features)).tolist()
    )


def test_pickle_with_any_file_name_is_rejected_by_its_first_bytes(
    registry: ModelRegistry, model_directory: Directory, example: pl.DataFrame
) -> None:
    directory = model_directory("tree")
    (directory / "weights.bin").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ModelError, match=r"native files only .*, found the pickle 'weights.bin'"):
        registry.register("departure_risk", directory, run_id="unused", input_example=example)


def test_directory_without_manifest_is_rejected(
    registry: ModelRegistry, model_directory: Directory, example: pl.DataFrame
) -> None:
    directory = model_directory("tree")
    (directory / "manifest.json").unlink()
    with pytest.raises(ManifestError, match=r"a complete manifest, found .*No such file"):
        registry.register("departure_risk", directory, run_id="unused", input_example=example)


def test_directory_that_no_trainer_wrote_is_rejected(
    registry: ModelRegistry, tmp_path: Path, example: pl.DataFrame
) -> None:
    with pytest.raises(ModelError, match=r"a readable model.json, found FileNotFoundError"):
        registry.register("departure_risk", tmp_path, run_id="unused", input_example=example)


def test_aliases_are_moved_and_deleted(registry: ModelRegistry, registered: Register) -> None:
    first, second = registered("tree"), registered("forest")
    registry.set_alias("departure_risk", "champion", first.version)
    registry.set_alias("departure_risk", "champion", second.version)
    assert registry.by_alias("departure_risk", "champion") == registry.version("departure_risk", 2)
    registry.delete_alias("departure_risk", "champion")
    assert registry.by_alias("departure_risk", "champion") is None


def test_unknown_version_lists_the_existing_versions(registry: ModelRegistry, registered: Register) -> None:
    registered("tree")
    with pytest.raises(ModelError, match="expected a version 7, found versions '1'"):
        registry.version("departure_risk", 7)


def test_unknown_model_has_no_versions_and_no_champion(registry: ModelRegistry) -> None:
    assert registry.versions("nothing") == []
    assert registry.by_alias("nothing", "champion") is None


def test_version_is_found_by_its_inputs(registry: ModelRegistry, registered: Register, manifest: Manifest) -> None:
    version = registered("tree")
    assert registry.by_inputs("departure_risk", manifest.inputs_digest()) == version
    assert registry.by_inputs("departure_risk", "0" * 64) is None


def test_manifest_is_read_without_downloading_the_model(
    registry: ModelRegistry, registered: Register, manifest: Manifest
) -> None:
    assert registry.manifest(registered("tree")) == manifest


def test_example_is_plain_json(registry: ModelRegistry, registered: Register) -> None:
    stored = registry.tracking.client.download_artifacts(registered("tree").run_id, "model/input_example.json")
    assert json.loads(Path(stored).read_text()) == {
        "columns": ["distance", "carrier", "hour"],
        "data": [[187.0, "UA", 6], [None, "AA", 7]],
    }


def test_model_card_is_the_description_of_the_version(registry: ModelRegistry, registered: Register) -> None:
    registry.set_description(registered("tree"), "# departure_risk")
    assert registry.tracking.client.get_model_version("departure_risk", "1").description == "# departure_risk"
