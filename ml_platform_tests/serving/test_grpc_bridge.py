"""gRPC calls of the Open Inference Protocol by Triton's client, through Envoy and the bridge, to a real service."""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from ml_platform.monitoring.log_lines import read_records
from ml_platform.serving.bento_build import BuiltBento
from ml_platform.serving.desired_state import DesiredState, ServedVersion, swap_desired_state
from ml_platform.serving.processes import ProcessPlan, free_port, serve_temporarily
from ml_platform_tests.polling import until
from ml_platform_tests.serving.conftest import ToyModel, row

pytestmark = pytest.mark.slow

METHOD = "/inference.GRPCInferenceService/"
DATATYPES = {"carrier": "BYTES", "distance": "FP64", "tail": "BYTES", "departs": "BYTES"}
ROWS = [row("UA"), row("AA", distance=0.1), row("ZZ", tail="")]
"""The last row has no facts, so its answer is marked as degraded."""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory, toy: ToyModel, built_bento: BuiltBento) -> Iterator[ProcessPlan]:
    root = tmp_path_factory.mktemp("grpc")
    plan = ProcessPlan(
        run=root / "run",
        logs=root / "logs",
        state=str(root / "state.db"),
        bentos=built_bento.path.parent,
        online=str(toy.online),
        predictions=root / "predictions",
        gateway_port=free_port(),
        grpc=True,
    )
    state = plan.open_state()
    state.migrate()
    stable = ServedVersion(version="1", bento=built_bento.path.name)
    swap_desired_state(state, "toy", DesiredState(stable=stable, weights={"stable": 100}), 0)
    with serve_temporarily(plan):
        yield plan


@pytest.fixture(scope="module")
def client(plan: ProcessPlan) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{plan.gateway_port}") as found:
        until(lambda: is_ready(found))
        yield found


@pytest.fixture(scope="module")
def channel(plan: ProcessPlan, client: triton.InferenceServerClient) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{plan.gateway_port}") as found:
        yield found


def is_ready(client: triton.InferenceServerClient) -> bool:
    with suppress(InferenceServerException):
        return bool(client.is_server_ready())
    return False


def tensors(rows: list[dict[str, Any]], **datatypes: str) -> list[triton.InferInput]:
    """Return the columns of ``rows``; ``datatypes`` replaces those of the fields."""
    found = []
    for name, datatype in {**DATATYPES, **datatypes}.items():
        values = [str(each[name]).encode() if datatype == "BYTES" else each[name] for each in rows]
        kind = {"BYTES": object, "FP64": np.float64, "FP32": np.float32}[datatype]
        tensor = triton.InferInput(name, [len(rows)], datatype)
        tensor.set_data_from_numpy(np.array(values, dtype=kind))
        found.append(tensor)
    return found


def rest_answer(plan: ProcessPlan, payload: dict[str, Any], version: str = "") -> httpx.Response:
    path = f"/v2/models/toy{version}/infer"
    return httpx.post(f"{plan.gateway.url}{path}", json=payload, timeout=20)


def rest_payload(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "inputs": [
            {"name": name, "datatype": datatype, "shape": [len(rows)], "data": [each[name] for each in rows]}
            for name, datatype in DATATYPES.items()
        ]
    }


def test_answer_to_tritons_client_is_that_of_the_rest_form_to_the_last_bit(
    plan: ProcessPlan, client: triton.InferenceServerClient
) -> None:
    found = client.infer("toy", tensors(ROWS), request_id="call-7")
    expected = {each["name"]: each for each in rest_answer(plan, rest_payload(ROWS)).json()["outputs"]}
    response = found.get_response()
    assert (response.model_name, response.model_version, response.id) == ("toy", "1", "call-7")
    assert [(each.name, each.datatype, list(each.shape)) for each in response.outputs] == [
        (name, each["datatype"], each["shape"]) for name, each in expected.items()
    ]
    assert found.as_numpy("score").tobytes() == np.array(expected["score"]["data"]).tobytes()
    assert found.as_numpy("label").tolist() == expected["label"]["data"]
    degraded = [json.loads(text) for text in found.as_numpy("degraded")]
    assert degraded == [None, None, {"missing": ["delays"]}]
    only = client.infer("toy", tensors(ROWS), model_version="1", outputs=[triton.InferRequestedOutput("label")])
    assert [each.name for each in only.get_response().outputs] == ["label"]


def test_typed_contents_are_answered_in_typed_contents(
    plan: ProcessPlan, client: triton.InferenceServerClient, channel: grpc.Channel
) -> None:
    raw = client.infer("toy", tensors(ROWS)).as_numpy("score")
    answer = infer(channel, typed_request(ROWS))
    assert not answer.raw_output_contents
    assert np.array(answer.outputs[0].contents.fp64_contents).tobytes() == raw.tobytes()


def typed_request(rows: list[dict[str, Any]]) -> Any:
    """Return a request as the clients of KServe send it."""
    request = service_pb2.ModelInferRequest(model_name="toy")
    for name, datatype in DATATYPES.items():
        contents = request.inputs.add(name=name, datatype=datatype, shape=[len(rows)]).contents
        if datatype == "BYTES":
            contents.bytes_contents.extend(each[name].encode() for each in rows)
        else:
            contents.fp64_contents.extend(each[name] for each in rows)
    return request


def infer(channel: grpc.Channel, request: Any, **keywords: Any) -> Any:
    return infer_method(channel)(request, timeout=20, **keywords)


def infer_method(channel: grpc.Channel) -> Any:
    return channel.unary_unary(
        f"{METHOD}ModelInfer",
        request_serializer=service_pb2.ModelInferRequest.SerializeToString,
        response_deserializer=service_pb2.ModelInferResponse.FromString,
    )


def test_call_is_once_in_the_prediction_log_with_its_ids(plan: ProcessPlan, channel: grpc.Channel) -> None:
    _, call = infer_method(channel).with_call(
        typed_request(ROWS), timeout=20, metadata=[("x-request-id", "grpc-1"), ("x-ml-platform-client", "forged")]
    )
    trailers = dict(call.trailing_metadata())
    assert trailers["x-request-id"] == "grpc-1"

    def logged() -> list[dict[str, Any]]:
        records = [each for file in (plan.predictions / "toy").glob("*.jsonl") for each in read_records(file)]
        return sorted(
            (each for each in records if each["request_id"] == "grpc-1"), key=lambda each: str(each["prediction_id"])
        )

    until(lambda: len(logged()) >= len(ROWS))
    assert [each["request"]["carrier"] for each in logged()] == ["UA", "AA", "ZZ"]
    assert logged()[0]["prediction_id"] == trailers["x-prediction-id"]
    assert {each["client"] for each in logged()} == {None}
    assert {each["role"] for each in logged()} == {"stable"}
