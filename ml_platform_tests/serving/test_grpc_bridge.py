"""gRPC calls of the Open Inference Protocol by Triton's client, through Envoy and the bridge, to a real service."""

import json
import os
import queue
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import grpc
import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from ml_platform.monitoring.log_lines import read_records
from ml_platform.serving.bento_build import BuiltBento
from ml_platform.serving.desired_state import DesiredState, ServedVersion, swap_desired_state
from ml_platform.serving.gateway import MAX_BODY_BYTES
from ml_platform.serving.gateway_admin import query_gateway
from ml_platform.serving.inference_forms import rest_request
from ml_platform.serving.marked_processes import BRIDGE, is_alive, process_name, processes_of
from ml_platform.serving.processes import UP_FILE, ProcessPlan, free_port, serve_temporarily
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


def refusal(channel: grpc.Channel, request: Any, method: str = "ModelInfer", **keywords: Any) -> tuple[str, str]:
    """Return the status and the text with which the call of ``request``, a message or bytes, is refused."""
    content = request if isinstance(request, bytes) else request.SerializeToString()
    with pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(f"{METHOD}{method}")(content, timeout=20, **keywords)
    return error.value.code().name, error.value.details()


def changed(rows: list[dict[str, Any]], **fields: Any) -> Any:
    request = typed_request(rows)
    for name, value in fields.items():
        setattr(request, name, value)
    return request


def without_a_tensor() -> Any:
    request = typed_request(ROWS)
    del request.inputs[1]
    return request


def with_another_shape() -> Any:
    request = typed_request(ROWS)
    request.inputs[1].shape[0] = 2
    return request


def with_an_unknown_value() -> Any:
    return typed_request([{**row(), "departs": "yesterday"}])


@pytest.mark.parametrize(
    ("request_of", "status"),
    [
        (without_a_tensor, "INVALID_ARGUMENT"),
        (with_another_shape, "INVALID_ARGUMENT"),
        (with_an_unknown_value, "INVALID_ARGUMENT"),
        (lambda: changed(ROWS, id="x" * 200), "INVALID_ARGUMENT"),
        (lambda: typed_request([row()] * 2_000), "RESOURCE_EXHAUSTED"),
        (lambda: changed(ROWS, model_version="9"), "NOT_FOUND"),
        (lambda: changed(ROWS, model_name="nobody"), "NOT_FOUND"),
    ],
    ids=["missing", "shape", "value", "id", "rows", "version", "model"],
)
def test_refused_call_has_the_text_of_the_rest_form(
    plan: ProcessPlan, channel: grpc.Channel, request_of: Any, status: str
) -> None:
    request = request_of()
    version = f"/versions/{request.model_version}" if request.model_version else ""
    url = f"{plan.gateway.url}/v2/models/{request.model_name}{version}/infer"
    body, headers = rest_request(request)
    error = httpx.post(url, content=body, headers=headers, timeout=20).json()["error"]
    text = error if isinstance(error, str) else error["message"]
    assert text
    assert refusal(channel, request) == (status, text)


@pytest.mark.parametrize("name", ["", "..", "toy/infer", "toy/../toy", "Toy\n", "toy?x=1", "Zürich", "x" * 2_000])
def test_name_that_no_model_can_have_is_unknown(channel: grpc.Channel, name: str) -> None:
    for version in ("", "../1"):
        request = changed(ROWS, model_name=name, model_version=version)
        assert refusal(channel, request) == ("NOT_FOUND", f"There is no model '{name[:100]}'.")
    assert refusal(channel, changed(ROWS, model_version="../1")) == ("NOT_FOUND", "Model toy has no version '../1'.")


def test_message_that_is_none_of_the_protocol_or_too_large_is_refused(channel: grpc.Channel) -> None:
    assert refusal(channel, b"\xff\xff garbage") == ("INVALID_ARGUMENT", "The message is no ModelInferRequest.")
    large = (b"\x00" * (MAX_BODY_BYTES + 1), typed_request([row(carrier="x" * MAX_BODY_BYTES)]))
    for request in large:
        status, text = refusal(channel, request)
        assert (status, text) == ("RESOURCE_EXHAUSTED", f"The message has more than {MAX_BODY_BYTES} bytes.")
    # A small compressed message could become a huge one.
    status, _ = refusal(channel, typed_request(ROWS), compression=grpc.Compression.Gzip)
    assert status == "UNIMPLEMENTED"
    assert refusal(channel, b"", method="RepositoryIndex")[0] == "UNIMPLEMENTED"
    assert refusal(channel, typed_request(ROWS), metadata=[("x-request-id", "a b")])[0] == "INVALID_ARGUMENT"
    assert infer(channel, typed_request(ROWS)).model_name == "toy"


def test_bytes_without_a_frame_are_refused_and_paths_of_calls_need_the_content_type_of_grpc(
    plan: ProcessPlan, channel: grpc.Channel
) -> None:
    url = f"{plan.gateway.url}{METHOD}ModelInfer"
    for content in (b"", b"garbage", b"\x00\x7f\xff\xff\xff" + b"x" * 100):
        answer = httpx.post(url, content=content, headers={"content-type": "application/grpc"}, timeout=20)
        assert answer.headers.get("grpc-status", "") not in ("", "0"), content
    assert httpx.post(url, content=b"{}", headers={"content-type": "application/json"}).status_code == 404
    foreign = {"content-type": "application/grpc", "host": "evil.example"}
    assert httpx.post(url, content=b"", headers=foreign).headers["grpc-status"] == "7"
    assert infer(channel, typed_request(ROWS)).model_name == "toy"


def test_server_and_model_describe_themselves(plan: ProcessPlan, client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.get_server_metadata().name == "ml_platform"
    assert client.is_model_ready("toy")
    assert client.is_model_ready("toy", "1")
    for name, version in (("nobody", ""), ("toy", "9")):
        with pytest.raises(InferenceServerException, match="NOT_FOUND"):
            client.is_model_ready(name, version)
    found = client.get_model_metadata("toy", as_json=True)
    expected = httpx.get(f"{plan.gateway.url}/v2/models/toy").json()
    as_texts = [{**each, "shape": [str(size) for size in each["shape"]]} for each in expected["inputs"]]
    assert found["inputs"] == as_texts
    assert [found["name"], found["versions"], found["platform"]] == ["toy", ["1"], "ml_platform"]


def bridge_of(plan: ProcessPlan) -> psutil.Process | None:
    """Return the bridge if one runs, and no other."""
    found = [each for each in processes_of(plan.run) if process_name(each) == BRIDGE and is_alive(each)]
    return found[0] if len(found) == 1 else None


def test_killed_bridge_is_unavailable_and_comes_back(plan: ProcessPlan, channel: grpc.Channel) -> None:
    killed = until(lambda: bridge_of(plan))
    assert killed is not None
    killed.kill()
    killed.wait(20)
    status, _ = refusal(channel, typed_request(ROWS))
    assert status == "UNAVAILABLE"

    def comes_back() -> bool:
        with suppress(grpc.RpcError):
            return bool(infer(channel, typed_request(ROWS)).model_name == "toy")
        return False

    until(comes_back)
    assert bridge_of(plan) not in (None, killed)


def test_health_of_gateway_and_model_is_that_of_grpc(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)

    def check(service: str) -> Any:
        return health.Check(health_pb2.HealthCheckRequest(service=service), timeout=20).status

    serving = health_pb2.HealthCheckResponse.SERVING
    assert [check(service) for service in ("", "inference.GRPCInferenceService", "toy")] == [serving] * 3
    for service in ("nobody", "../health"):
        with pytest.raises(grpc.RpcError) as caught:
            check(service)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    # A stream of changes is not offered; the specification lets a server refuse it in this way.
    with pytest.raises(grpc.RpcError) as caught:
        next(health.Watch(health_pb2.HealthCheckRequest(), timeout=20))
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_client_without_our_files_learns_the_services_by_reflection(channel: grpc.Channel, version: str) -> None:
    reflect = channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
    sent: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    answers = reflect(iter(sent.get, None), timeout=20)

    def answer_to(question: bytes) -> bytes:
        # grpcurl keeps its call open and sends a question after each answer.
        sent.put(question)
        return bytes(next(answers))

    services = [field(each, 1)[0] for each in field(field(answer_to(b"\x3a\x00"), 6)[0], 1)]
    assert services[:2] == [b"inference.GRPCInferenceService", b"grpc.health.v1.Health"]
    names = [*services, b"inference.ModelInferRequest.InferInputTensor"]
    files = [field(field(answer_to(b"\x22" + bytes([len(name)]) + name), 4)[0], 1)[0] for name in names]
    found = [FileDescriptorProto.FromString(each) for each in files]
    assert [each.package for each in found[:2]] == ["inference", "grpc.health.v1"]
    assert found[-1] == found[0]
    pool = DescriptorPool()
    for each in {file.name: file for file in found}.values():
        pool.Add(each)
    method = pool.FindServiceByName("inference.GRPCInferenceService").FindMethodByName("ModelReady")
    request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    call = channel.unary_unary(
        f"{METHOD}ModelReady", request_serializer=request.SerializeToString, response_deserializer=response.FromString
    )
    assert call(request(name="toy"), timeout=20).ready
    assert field(answer_to(b"\x1a" + bytes([len(found[0].name)]) + found[0].name.encode()), 4) == [
        b"\x0a" + varint(files[0])
    ]
    (error,) = field(answer_to(b"\x22\x07nothing"), 7)
    assert error.startswith(b"\x08\x05")
    sent.put(b"\xff")
    with pytest.raises(grpc.RpcError) as caught:
        next(answers)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def field(data: bytes, number: int) -> list[bytes]:
    """Return the values of the field ``number``, of bytes, of a message of protobuf; numbers are left out."""
    found, at = [], 0

    def read() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        tag, value = read(), read()
        if tag & 7 == 2:
            found += [data[at : at + value]] if tag >> 3 == number else []
            at += value
    return found


def varint(data: bytes) -> bytes:
    """Return ``data`` after its length, as protobuf writes it."""
    length, head = len(data), b""
    while length >= 0x80:
        head += bytes([length & 0x7F | 0x80])
        length >>= 7
    return head + bytes([length]) + data


def test_next_run_takes_over_from_a_killed_one_without_a_failed_call_and_stops_without_one(
    plan: ProcessPlan, client: triton.InferenceServerClient
) -> None:
    outcomes: Counter[str] = Counter()
    stop = threading.Event()

    def send() -> None:
        with grpc.insecure_channel(f"127.0.0.1:{plan.gateway_port}") as channel:
            while not stop.is_set():
                try:
                    outcomes[infer(channel, typed_request(ROWS)).model_name] += 1
                except grpc.RpcError as error:
                    outcomes[f"{error.code().name} {error.details()}"] += 1

    sending = threading.Thread(target=send)
    sending.start()
    try:
        earlier = until(lambda: bridge_of(plan))
        os.kill(json.loads((plan.run / UP_FILE).read_text())["pid"], signal.SIGKILL)
        with serve_temporarily(plan):
            until(lambda: bridge_of(plan) not in (None, earlier))
            answered = outcomes["toy"]
            until(lambda: outcomes["toy"] > answered + 100)
            stop.set()
            sending.join()
            assert set(outcomes) == {"toy"}, outcomes
            assert answers_of_calls_under_way_at_a_stop(plan, 4) == ["toy"] * 4
    finally:
        stop.set()


def answers_of_calls_under_way_at_a_stop(plan: ProcessPlan, calls: int) -> list[str]:
    """Stop the platform while the bridge has read none of the ``calls``; return the models that answered them."""

    def active() -> int:
        query = "/stats?filter=^http.gateway.downstream_rq_active$"
        return int(query_gateway(plan.gateway.folder, query, seconds=5).rpartition(":")[2])

    def accepts_connections() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((plan.host, plan.gateway_port)) == 0

    bridge = until(lambda: bridge_of(plan))
    assert bridge is not None
    with grpc.insecure_channel(f"127.0.0.1:{plan.gateway_port}") as channel, ThreadPoolExecutor(calls) as pool:
        bridge.suspend()
        try:
            answers = [pool.submit(infer, channel, typed_request(ROWS)) for _ in range(calls)]
            until(lambda: active() == calls)
            os.kill(json.loads((plan.run / UP_FILE).read_text())["pid"], signal.SIGINT)
            until(lambda: not accepts_connections())
        finally:
            bridge.resume()
        return [each.result().model_name for each in answers]
