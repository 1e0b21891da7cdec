"""The messages of the gRPC form of the Open Inference Protocol, version 2, as classes of protobuf.

Specification: https://github.com/kserve/open-inference-protocol, with the two parameter types that Triton adds. The
classes come from a pool of their own, because clients of the protocol register messages of the same names in the
default one.
"""

from functools import cache
from typing import Any

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"
METHODS = ("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer")
"""Methods of the service; each takes the message `<method>Request` and answers with `<method>Response`."""

_PARAMETERS = "map InferParameter parameters"
_MESSAGES: dict[str, tuple[str, ...]] = {
    "ServerLiveRequest": (),
    "ServerLiveResponse": ("bool live",),
    "ServerReadyRequest": (),
    "ServerReadyResponse": ("bool ready",),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": ("string name", "string version", "repeated string extensions"),
    "ModelReadyRequest": ("string name", "string version"),
    "ModelReadyResponse": ("bool ready",),
    "ModelMetadataRequest": ("string name", "string version"),
    "ModelMetadataResponse": (
        "string name",
        "repeated string versions",
        "string platform",
        "repeated ModelMetadataResponse.TensorMetadata inputs",
        "repeated ModelMetadataResponse.TensorMetadata outputs",
    ),
    "ModelMetadataResponse.TensorMetadata": ("string name", "string datatype", "repeated int64 shape"),
    "ModelInferRequest": (
        "string model_name",
        "string model_version",
        "string id",
        _PARAMETERS,
        "repeated ModelInferRequest.InferInputTensor inputs",
        "repeated ModelInferRequest.InferRequestedOutputTensor outputs",
        "repeated bytes raw_input_contents",
    ),
    "ModelInferRequest.InferInputTensor": (
        "string name",
        "string datatype",
        "repeated int64 shape",
        _PARAMETERS,
        "InferTensorContents contents",
    ),
    "ModelInferRequest.InferRequestedOutputTensor": ("string name", _PARAMETERS),
    "ModelInferResponse": (
        "string model_name",
        "string model_version",
        "string id",
        _PARAMETERS,
        "repeated ModelInferResponse.InferOutputTensor outputs",
        "repeated bytes raw_output_contents",
    ),
    "ModelInferResponse.InferOutputTensor": (
        "string name",
        "string datatype",
        "repeated int64 shape",
        _PARAMETERS,
        "InferTensorContents contents",
    ),
    "InferParameter": (
        "choice bool bool_param",
        "choice int64 int64_param",
        "choice string string_param",
        "choice double double_param",
        "choice uint64 uint64_param",
    ),
    "InferTensorContents": (
        "repeated bool bool_contents",
        "repeated int32 int_contents",
        "repeated int64 int64_contents",
        "repeated uint32 uint_contents",
        "repeated uint64 uint64_contents",
        "repeated float fp32_contents",
        "repeated double fp64_contents",
        "repeated bytes bytes_contents",
    ),
}
"""The fields of each message in the order of their numbers, from 1; `choice` fields exclude each other."""


@cache
def message(name: str) -> Any:
    """Return the class of the message ``name``, such as `ModelInferRequest`."""
    from google.protobuf.message_factory import GetMessageClass

    return GetMessageClass(_pool().FindMessageTypeByName(f"{PACKAGE}.{name}"))


def file_descriptor() -> Any:
    """Return the ``FileDescriptorProto`` of the messages."""
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    file = FileDescriptorProto(name="open_inference.proto", package=PACKAGE, syntax="proto3")
    added: dict[str, Any] = {}
    for name, fields in _MESSAGES.items():
        outer, _, inner = name.rpartition(".")
        added[name] = (added[outer].nested_type if outer else file.message_type).add(name=inner)
        for number, text in enumerate(fields, 1):
            _add_field(added[name], name, number, text)
    return file


@cache
def _pool() -> Any:
    from google.protobuf.descriptor_pool import DescriptorPool

    pool = DescriptorPool()
    pool.Add(file_descriptor())
    return pool


def _add_field(owner: Any, owner_name: str, number: int, text: str) -> None:
    """Add the field of ``text`` to the message ``owner``: `repeated`, `map` or `choice` if so, its type, its name."""
    *rule, kind, name = text.split()
    field = owner.field.add(name=name, number=number, label=_label(repeated=rule in (["repeated"], ["map"])))
    if rule == ["map"]:
        # A map from text is a list of messages with a key and a value.
        entry = owner.nested_type.add(name=f"{name.capitalize()}Entry")
        entry.options.map_entry = True
        for place, each in enumerate(("string key", f"{kind} value"), 1):
            _add_field(entry, entry.name, place, each)
        kind = f"{owner_name}.{entry.name}"
    if rule == ["choice"]:
        if not owner.oneof_decl:
            owner.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    _set_type(field, kind)


def _label(*, repeated: bool) -> Any:
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto

    return FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL


def _set_type(field: Any, kind: str) -> None:
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto

    if kind[0].isupper():
        field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    else:
        field.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
