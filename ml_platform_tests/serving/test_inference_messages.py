"""Messages of the gRPC form: the same as those of Triton's client, and requests and answers of the REST form."""

import struct
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from tritonclient.grpc import service_pb2

from ml_platform.serving.inference_forms import InvalidMessageError, infer_response, rest_request
from ml_platform.serving.inference_messages import METHODS, SERVICE, file_descriptor, message
from ml_platform.serving.open_inference import InferenceRequest, read_inference
from ml_platform.serving.request_contract import RequestContract

CONTRACT = RequestContract.model_validate(
    {
        "model": "toy",
        "fields": [
            {"name": "carrier", "type": "string"},
            {"name": "distance", "type": "float"},
            {"name": "stops", "type": "int"},
            {"name": "late", "type": "bool"},
        ],
    }
)
ROWS = [
    {"carrier": "UA", "distance": 0.1, "stops": 2**53 + 1, "late": True},
    {"carrier": "Zürich", "distance": -2.5e-308, "stops": -3, "late": False},
]
TYPES = {"carrier": "BYTES", "distance": "FP64", "stops": "INT64", "late": "BOOL"}
CONTENTS = {"BYTES": "bytes_contents", "FP64": "fp64_contents", "INT64": "int64_contents", "BOOL": "bool_contents"}


def packed(values: list[Any], datatype: str) -> bytes:
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in values)
    return struct.pack(f"<{len(values)}{ {'FP64': 'd', 'INT64': 'q', 'BOOL': '?'}[datatype] }", *values)


def request(*, raw: bool) -> Any:
    """Return a request with :data:`ROWS`, made by the messages of Triton's client and read as ours."""
    sent = service_pb2.ModelInferRequest(model_name="toy", id="7")
    for name, datatype in TYPES.items():
        values: list[Any] = [row[name] for row in ROWS]
        tensor = sent.inputs.add(name=name, datatype=datatype, shape=[len(values)])
        if raw:
            sent.raw_input_contents.append(packed(values, datatype))
        else:
            texts = [value.encode() for value in values] if datatype == "BYTES" else values
            getattr(tensor.contents, CONTENTS[datatype]).extend(texts)
    return message("ModelInferRequest").FromString(sent.SerializeToString())


def read(sent: Any) -> InferenceRequest:
    body, headers = rest_request(sent)
    size = headers.get("inference-header-content-length")
    return read_inference(body, CONTRACT, None if size is None else int(size))


def in_one_order(found: DescriptorProto) -> DescriptorProto:
    """Return the message with its nested ones sorted and without what a compiler derives from names."""
    nested = sorted(map(in_one_order, found.nested_type), key=lambda each: each.name)
    del found.nested_type[:]
    found.nested_type.extend(nested)
    for field in found.field:
        field.ClearField("json_name")
    return found


def test_messages_are_those_of_tritons_client() -> None:
    theirs = FileDescriptorProto()
    service_pb2.DESCRIPTOR.CopyToProto(theirs)
    by_name = {each.name: in_one_order(each) for each in theirs.message_type}
    own = [in_one_order(each) for each in file_descriptor().message_type]
    assert {f"{method}{kind}" for method in METHODS for kind in ("Request", "Response")} <= {each.name for each in own}
    assert own == [by_name[each.name] for each in own]
    (service,) = theirs.service
    assert f"{theirs.package}.{service.name}" == SERVICE
    assert set(METHODS) <= {method.name for method in service.method}


@pytest.mark.parametrize("raw", [True, False])
def test_both_kinds_of_contents_are_the_same_rows(raw: bool) -> None:
    found = read(request(raw=raw))
    assert (found.rows, found.id) == (ROWS, "7")


def test_single_precision_has_the_same_value_in_both_kinds() -> None:
    typed, binary = request(raw=False), request(raw=True)
    for sent in (typed, binary):
        sent.inputs[1].datatype = "FP32"
    typed.inputs[1].contents.ClearField("fp64_contents")
    typed.inputs[1].contents.fp32_contents.extend([0.1, 1e-3])
    binary.raw_input_contents[1] = struct.pack("<2f", 0.1, 1e-3)
    expected = list(struct.unpack("<2f", struct.pack("<2f", 0.1, 1e-3)))
    assert [row["distance"] for row in read(typed).rows] == expected
    assert [row["distance"] for row in read(binary).rows] == expected


def test_parameters_of_the_client_do_not_say_where_its_bytes_are() -> None:
    sent = request(raw=True)
    sent.inputs[0].parameters["binary_data_size"].int64_param = 10**6
    assert read(sent).rows == ROWS


def with_contents_twice(sent: Any) -> None:
    sent.inputs[0].contents.bytes_contents.append(b"UA")


def with_a_tensor_less(sent: Any) -> None:
    del sent.raw_input_contents[0]


def with_other_contents(sent: Any) -> None:
    del sent.raw_input_contents[:]
    sent.inputs[1].contents.fp32_contents.append(1.0)


def with_half_precision(sent: Any) -> None:
    del sent.raw_input_contents[:]
    sent.inputs[0].datatype = "FP16"
    sent.inputs[0].contents.fp32_contents.append(1.0)


def with_other_bytes(sent: Any) -> None:
    del sent.raw_input_contents[:]
    sent.inputs[0].contents.bytes_contents.append(b"\xff")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (with_contents_twice, r"inputs\[0\].contents: expected BYTES in raw_input_contents, found bytes_contents"),
        (with_a_tensor_less, "raw_input_contents: expected one for each of 4 tensors, or none, found 3"),
        (with_other_contents, r"inputs\[1\].contents: expected FP64 in fp64_contents, found fp32_contents"),
        (with_half_precision, r"inputs\[0\].contents: expected FP16 in raw_input_contents, found fp32_contents"),
        (with_other_bytes, r"inputs\[0\].contents: expected texts in UTF-8"),
    ],
)
def test_contents_in_the_wrong_place_are_named(spoil: Any, expected: str) -> None:
    sent = request(raw=True)
    spoil(sent)
    with pytest.raises(InvalidMessageError, match=expected):
        rest_request(sent)


def test_answer_has_the_values_of_the_rest_form() -> None:
    answer = {
        "model_name": "toy",
        "model_version": "3",
        "id": "7",
        "outputs": [
            {"name": "score", "datatype": "FP64", "shape": [2], "data": [0.1, None]},
            {"name": "label", "datatype": "BOOL", "shape": [2], "data": [True, False]},
            {"name": "rank", "datatype": "INT64", "shape": [2], "data": [1, -2]},
            {"name": "degraded", "datatype": "BYTES", "shape": [2], "data": ["null", "Zürich"]},
            {
                "name": "probabilities",
                "datatype": "FP64",
                "shape": [1, 2],
                "data": [0.25, 0.75],
                "parameters": {"names": ["a", "b"]},
            },
        ],
    }
    raw = service_pb2.ModelInferResponse.FromString(infer_response(answer, raw=True).SerializeToString())
    assert (raw.model_name, raw.model_version, raw.id) == ("toy", "3", "7")
    nan = struct.pack("<2d", 0.1, float("nan"))
    texts = packed(["null", "Zürich"], "BYTES")
    expected = [nan, b"\x01\x00", struct.pack("<2q", 1, -2), texts, struct.pack("<2d", 0.25, 0.75)]
    assert list(raw.raw_output_contents) == expected
    assert raw.outputs[4].parameters["names"].string_param == '["a","b"]'
    assert list(raw.outputs[4].shape) == [1, 2]
    typed = service_pb2.ModelInferResponse.FromString(infer_response(answer, raw=False).SerializeToString())
    assert not typed.raw_output_contents
    assert struct.pack("<2d", *typed.outputs[0].contents.fp64_contents) == nan
    assert list(typed.outputs[1].contents.bool_contents) == [True, False]
    assert list(typed.outputs[2].contents.int64_contents) == [1, -2]
    assert list(typed.outputs[3].contents.bytes_contents) == [b"null", "Zürich".encode()]
