"""A fitted view that runs an ONNX file: from its declaration to the answers of a bento, and what is refused."""

import hashlib
import importlib.util
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from bento.predictor import Predictor
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.fitted_views import (
    fit_transformers,
    load_transformers,
    make_transformer,
    save_transformers,
    transformer_libraries,
)
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.features.transformers.transformer import TransformerError
from ml_platform.serving.bento_build import build_bento, verify_bento
from ml_platform.serving.bento_locks import BentoLocks
from ml_platform.training.candidate import fit_candidate
from ml_platform.training.model_directory import read_model, write_model
from ml_platform.training.splits import TimeSplit, split_by_time
from ml_platform.training.trainer import TrainerSettings
from ml_platform_tests.features.onnx_file import layer, positions, two_inputs
from ml_platform_tests.training.test_fitted_views import (
    CONTRACT,
    FAST,
    PARTITIONS,
    body,
    declared,
    training_set,
)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed: run make onnx"
)

REPOSITORY = Path(__file__).parents[2]
WEIGHT = np.random.default_rng(0).normal(size=(27, 5)).astype(np.float32)
BIAS = np.linspace(-0.5, 0.5, 5, dtype=np.float32)
LENGTH = declared(
    "length",
    [{"name": "characters"}, {"name": "root", "type": "float64", "hidden": True}],
    function="ml_platform_tests.features.text_length:length",
    fields=["text"],
)
VECTOR = {"name": "code", "type": "vector", "size": 5}
ROWS = pl.DataFrame(
    {"v": pl.Series(np.random.default_rng(1).normal(size=(300, 27)).astype(np.float32), dtype=pl.Array(pl.Float32, 27))}
)


def view(folder: Path, content: bytes, *, feature: dict[str, Any] = VECTOR, **attributes: Any) -> Any:
    """Return a fitted view of a file with ``content``; ``attributes`` are parameters, `fields` or `inputs`."""
    file = folder / "encoder.onnx"
    file.write_bytes(content)
    read = {name: attributes.pop(name) for name in ("fields", "inputs") if name in attributes}
    parameters = {"file": str(file), "sha256": hashlib.sha256(content).hexdigest(), **attributes}
    return declared("code", [feature], fitted="onnx", parameters=parameters, **(read or {"fields": ["v"]}))


@pytest.fixture
def features(tmp_path: Path) -> FeatureSet:
    """Return a view of an ONNX file that reads the 26 frequencies of letters and a hidden input of another view."""
    encoder = view(
        tmp_path,
        layer(WEIGHT, BIAS),
        fields=["letters"],
        inputs=["length"],
        columns=["letters", "length__root"],
    )
    return FeatureSet([LENGTH, encoder])


@pytest.mark.slow
def test_bento_answers_the_scores_of_training_and_pins_onnxruntime(features: FeatureSet, tmp_path: Path) -> None:
    split = split_by_time(training_set(features), "2026-03", PARTITIONS, TimeSplit(minimum_rows=50), model="docs")
    settings = TrainerSettings.model_validate({"settings": FAST})
    candidate = fit_candidate(split, features.feature_names, settings, task="binary", feature_set=features)
    directory = tmp_path / "model"
    write_model(
        directory,
        candidate,
        name="docs",
        target="numpy",
        threshold=0.5,
        features=features.to_dict(),
        contract=CONTRACT.model_dump(mode="json"),
    )
    (tmp_path / "encoder.onnx").unlink()  # the model needs its own copy only
    trained = candidate.predict(split.test)
    assert len(np.unique(trained)) > 5
    assert read_model(directory).predict(split.test).tolist() == trained.tolist()

    predictor = Predictor(directory, SnapshotStore(tmp_path / "online"))
    rows = json.loads(body(split.test))["rows"]
    answers = [
        predictor.predict(CONTRACT.validate(json.dumps({"rows": [row]}).encode()), datetime.now(UTC)).scores[0]
        for row in rows
    ]
    assert answers == trained.tolist()

    locks = BentoLocks.of(REPOSITORY, "assets.none:example")
    built = build_bento(directory, CONTRACT, version="1", bentos_root=tmp_path / "bentos", locks=locks)
    required = json.loads((built.path / "src" / "package.json").read_text())["requirements"]
    assert [each.partition("==")[0] for each in required if each.startswith("onnx")] == ["onnxruntime"]
    assert verify_bento(built, rows, trained, online=str(tmp_path / "online")).rows == len(rows)


def test_encoding_is_that_of_the_network_and_one_row_gives_what_it_gives_among_many(tmp_path: Path) -> None:
    encoder = make_transformer(view(tmp_path, layer(WEIGHT, BIAS)))
    rows = ROWS.with_columns(v=pl.when(pl.int_range(300) == 7).then(None).otherwise("v"))
    found = encoder.transform(rows)["code"]

    expected = np.tanh(ROWS["v"].to_numpy().astype(float) @ WEIGHT + BIAS)
    assert found.is_null().arg_true().to_list() == [7]
    np.testing.assert_allclose(found.drop_nulls().to_numpy(), np.delete(expected, 7, axis=0), atol=1e-5)
    alone = [encoder.transform(rows[place])["code"].to_list()[0] for place in range(rows.height)]
    assert alone == found.to_list()


def test_network_with_a_fixed_number_of_one_row_is_taken(tmp_path: Path) -> None:
    one = make_transformer(view(tmp_path, layer(WEIGHT, BIAS, rows=1))).transform(ROWS)

    assert (
        one["code"].to_list() == make_transformer(view(tmp_path, layer(WEIGHT, BIAS))).transform(ROWS)["code"].to_list()
    )


def test_model_of_text_reads_text(tmp_path: Path) -> None:
    size_one = {"name": "code", "type": "vector", "size": 1}
    encoder = make_transformer(view(tmp_path, positions(["a", "b"]), feature=size_one, fields=["text"]))

    assert encoder.transform(pl.DataFrame({"text": ["b", "z", None]}))["code"].to_list() == [[1.0], [-1.0], None]
    with pytest.raises(TransformerError, match=r"expected columns of text, which the model reads, found Array"):
        encoder.fit(ROWS, 0)


def test_saved_encoder_is_refused_after_a_change_of_its_file(tmp_path: Path) -> None:
    features = FeatureSet([view(tmp_path, layer(WEIGHT, BIAS))])
    save_transformers(fit_transformers(features, ROWS, 0).transformers, tmp_path)
    loaded = load_transformers(features, tmp_path).transformers["code"]
    assert (
        loaded.transform(ROWS)["code"].to_list()
        == make_transformer(features.fitted[0]).transform(ROWS)["code"].to_list()
    )

    (tmp_path / "fitted" / "code" / "model.onnx").write_bytes(layer(-WEIGHT, BIAS))
    with pytest.raises(TransformerError, match=r"model.onnx: expected content with the sha256"):
        load_transformers(features, tmp_path)


def test_changed_file_is_refused_at_its_declaration_and_a_corrected_digest_is_another_version(tmp_path: Path) -> None:
    before = view(tmp_path, layer(WEIGHT, BIAS))
    after = view(tmp_path, layer(-WEIGHT, BIAS))

    with pytest.raises(TransformerError, match=r"If the change is wanted, correct 'sha256'"):
        make_transformer(before)
    assert before.versioned().code_version != after.versioned().code_version


@pytest.mark.parametrize(
    ("content", "attributes", "message"),
    [
        (layer(WEIGHT, BIAS), {"file": "assets/none/encoder.onnx"}, "expected a file, by its path from the root"),
        (b"text", {}, "expected one ONNX file with all weights in it"),
        (layer(WEIGHT[:, :4], BIAS[:4]), {}, r"output of 5 values for each row.*found the shape \['rows', 4\]"),
        (
            layer(WEIGHT, BIAS, rows=8),
            {},
            r"one input of .*shape \(rows, values\), found 'x: tensor\(float\) \[8, 27\]",
        ),
        (two_inputs(), {}, r"expected a model with one input of .*found 'x: .*', 'y: "),
        (layer(WEIGHT, BIAS), {"output": "cod"}, "the name of one output of the model, found cod of 'code'"),
        (layer(WEIGHT, BIAS), {"feature": {"name": "code"}}, "one feature of type vector"),
    ],
)
def test_file_that_cannot_encode_is_refused_when_it_is_declared(
    content: bytes, attributes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(TransformerError, match=message):
        make_transformer(view(tmp_path, content, **attributes))


def test_number_of_values_that_the_model_does_not_read_is_refused_by_the_fit(tmp_path: Path) -> None:
    encoder = make_transformer(view(tmp_path, layer(WEIGHT[:20], BIAS)))

    with pytest.raises(TransformerError, match=r"expected 20 values in a row, which the model reads, found 27"):
        encoder.fit(ROWS, 0)


def test_path_in_a_package_is_one_from_the_root_of_the_project(tmp_path: Path) -> None:
    wanted = view(tmp_path, b"", file="assets/bikes/defs.yaml")

    with pytest.raises(TransformerError, match=r"file assets/bikes/defs.yaml: expected content with the sha256"):
        make_transformer(wanted)


def test_missing_library_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    content = layer(WEIGHT, BIAS)
    parameters = view(tmp_path, content).parameters
    code = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'onnxruntime' else find(name, *rest)\n"
        "from ml_platform.features.feature import Feature\n"
        "from ml_platform.features.transformers.onnx import OnnxEncoder\n"
        f"OnnxEncoder([Feature(name='code', type='vector', size=5, description='…')], **{parameters!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY)

    assert "expected the library onnxruntime, found not installed. Run make onnx" in done.stderr


def test_only_views_with_an_onnx_file_need_its_library(tmp_path: Path) -> None:
    assert transformer_libraries([LENGTH, view(tmp_path, b"")]) == ["onnxruntime"]
    assert transformer_libraries([LENGTH]) == []
