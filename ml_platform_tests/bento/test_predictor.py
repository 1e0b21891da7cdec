"""A model directory whose contract and feature views disagree on a key is refused when the service loads it."""

import json
from pathlib import Path

import pytest

from bento.predictor import Predictor
from bento.scorer import ModelUnreadableError
from ml_platform.features.encoder import Encoder
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.features.view import FeatureView
from ml_platform.serving.request_contract import RequestContract

VIEW = FeatureView.model_validate(
    {
        "name": "shops",
        "entity": ["shop"],
        "key_types": {"shop": "string"},
        "function": "m:f",
        "code_version": "1",
        "features": [{"name": "x", "description": "…"}],
    }
)


def write_model(folder: Path, field_type: str) -> Path:
    """Write the files of a model that scores nothing, with a request field `shop` of ``field_type``."""
    contract = RequestContract.model_validate({"model": "toy", "fields": [{"name": "shop", "type": field_type}]})
    files = {
        "model.json": json.dumps(
            {"format": "ml_platform/1", "task": "regression", "trainer": "none", "scorer": f"{__name__}:load_scorer"}
        ),
        "contract.json": contract.model_dump_json(),
        "features.json": json.dumps(FeatureSet([VIEW]).to_dict()),
        "encoder.json": Encoder(("shops__x",), {}).to_json(),
        "calibration.json": json.dumps({"method": "identity"}),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def load_scorer(model_dir: Path) -> None:
    """Return no scorer: these models never predict."""


def test_request_field_of_another_type_than_its_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ModelUnreadableError, match=r"'toy', request field 'shop': expected the type of the key .*string, found int"
    ):
        Predictor(write_model(tmp_path, "int"), SnapshotStore(tmp_path))


def test_request_field_of_the_type_of_its_key_is_accepted(tmp_path: Path) -> None:
    assert Predictor(write_model(tmp_path, "string"), SnapshotStore(tmp_path)).features.key_types == {"shop": "string"}
