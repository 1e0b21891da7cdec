"""Requests of the Open Inference Protocol: tensors become rows, answers become tensors, and wrong ones are named."""

import json
import struct
from typing import Any

import pytest

from ml_platform.serving.open_inference import InferenceRequest, inference_answer, model_metadata, read_inference
from ml_platform.serving.request_contract import InvalidRequestError, RequestContract

CONTRACT = RequestContract.model_validate(
    {
        "model": "toy",
        "max_rows": 3,
        "fields": [
            {"name": "carrier", "type": "string"},
            {"name": "distance", "type": "float"},
            {"name": "stops", "type": "int"},
            {"name": "position", "type": "vector", "size": 2},
            {"name": "gate", "type": "string", "nullable": True, "optional": True},
        ],
    }
)


def tensor(name: str, datatype: str, data: list[Any], *shape: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape) or [len(data)], "data": data}


def request(**changed: Any) -> dict[str, Any]:
    """Return a request with two rows; ``changed`` replaces tensors by name, and None leaves one out."""
    tensors = {
        "carrier": tensor("carrier", "BYTES", ["UA", "AA"]),
        "distance": tensor("distance", "FP32", [1.5, 2.5], 2, 1),
        "stops": tensor("stops", "INT64", [0, 1]),
        "position": tensor("position", "FP64", [1, 2, 3, 4], 2, 2),
    }
    return {"inputs": [each for each in {**tensors, **changed}.values() if each is not None]}


def read(payload: Any) -> InferenceRequest:
    return read_inference(json.dumps(payload).encode(), CONTRACT)


def test_tensors_become_rows() -> None:
    rows = read(request()).rows
    assert rows == [
        {"carrier": "UA", "distance": 1.5, "stops": 0, "position": [1, 2]},
        {"carrier": "AA", "distance": 2.5, "stops": 1, "position": [3, 4]},
    ]
    nested = request(position=tensor("position", "FP64", [[1, 2], [3, 4]], 2, 2))
    assert read(nested).rows == rows


def test_rows_are_valid_requests_of_the_contract() -> None:
    assert CONTRACT.validate(read(request()).body).columns["position"] == [[1, 2], [3, 4]]


def test_binary_tensors_follow_the_json() -> None:
    texts = b"".join(struct.pack("<I", len(text)) + text for text in (b"UA", b"AA"))
    numbers = struct.pack("<2f", 1.5, 2.5)
    binary = {
        name: {"name": name, "datatype": datatype, "shape": [2], "parameters": {"binary_data_size": len(data)}}
        for name, datatype, data in (("carrier", "BYTES", texts), ("distance", "FP32", numbers))
    }
    content = json.dumps(request(**binary)).encode()
    found = read_inference(content + texts + numbers, CONTRACT, len(content))
    assert found.rows == read(request()).rows
    for cut in (content + texts + numbers[:-1], content + texts + numbers + b"x"):
        with pytest.raises(InvalidRequestError):
            read_inference(cut, CONTRACT, len(content))


@pytest.mark.parametrize(
    ("changes", "path", "found"),
    [
        ({"carrier": None}, "inputs", "none"),
        ({"gate": tensor("gait", "BYTES", ["A", "B"])}, "inputs[4].name", "gait"),
        ({"stops": tensor("stops", "FP64", [0, 1])}, "inputs[2].datatype", "FP64"),
        ({"stops": tensor("stops", "INT64", [0, 1, 2])}, "inputs[2].shape", "3 rows"),
        ({"stops": tensor("stops", "INT64", [0], 2)}, "inputs[2].data", "1"),
        ({"stops": tensor("stops", "INT64", [0, 1, 2, 3], 2, 2)}, "inputs[2].shape", "[2, 2]"),
        ({"stops": tensor("stops", "INT64", [0], -1)}, "inputs[2].shape", "[-1]"),
        ({"position": tensor("position", "FP64", [1, 2], 2)}, "inputs[3].shape", "[2]"),
        ({"carrier": {"name": "carrier"}}, "inputs[0].datatype", "null"),
    ],
)
def test_wrong_tensors_are_named(changes: dict[str, Any], path: str, found: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        read(request(**changes))
    assert (error.value.status, error.value.path) == (422, path)
    assert found in error.value.details[0].found


@pytest.mark.parametrize("payload", [[], {}, {"inputs": {}}, {"inputs": [3]}, {"inputs": [{"name": 1}]}])
def test_other_json_is_refused(payload: Any) -> None:
    with pytest.raises(InvalidRequestError):
        read(payload)


def test_more_rows_than_allowed_are_refused() -> None:
    with pytest.raises(InvalidRequestError) as error:
        read({"inputs": [tensor("carrier", "BYTES", ["UA"] * 4)]})
    assert error.value.status == 413


def test_answers_become_tensors() -> None:
    predictions = [
        {"score": 0.7, "label": "a", "probabilities": {"a": 0.7, "b": 0.3}},
        {"score": 0.6, "label": "b", "probabilities": {"a": 0.4, "b": 0.6}, "degraded": {"missing": ["x"]}},
    ]
    sent = read({**request(), "id": "7"})
    answer = inference_answer(predictions, sent, "toy", "3")
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("toy", "3", "7")
    outputs = {each["name"]: each for each in answer["outputs"]}
    assert outputs["score"] == {"name": "score", "datatype": "FP64", "shape": [2], "data": [0.7, 0.6]}
    assert outputs["label"]["data"] == ["a", "b"]
    assert outputs["probabilities"] == {
        "name": "probabilities",
        "datatype": "FP64",
        "shape": [2, 2],
        "data": [0.7, 0.3, 0.4, 0.6],
        "parameters": {"names": ["a", "b"]},
    }
    assert outputs["degraded"]["data"] == ["null", '{"missing":["x"]}']
    only = read({**request(), "outputs": [{"name": "score"}]})
    assert [each["name"] for each in inference_answer(predictions, only, "toy", "3")["outputs"]] == ["score"]
    with pytest.raises(InvalidRequestError):
        inference_answer(predictions, read({**request(), "outputs": [{"name": "scor"}]}), "toy", "3")


def test_metadata_have_the_tensors_of_the_fields() -> None:
    found = model_metadata(CONTRACT, "3")
    assert [(each["name"], each["datatype"], each["shape"]) for each in found["inputs"]] == [
        ("carrier", "BYTES", [-1]),
        ("distance", "FP64", [-1]),
        ("stops", "INT64", [-1]),
        ("position", "FP64", [-1, 2]),
        ("gate", "BYTES", [-1]),
    ]
