"""Describes the gRPC services of the gateway to clients without their files, such as grpcurl: gRPC's server reflection.

Specification: https://github.com/grpc/grpc/blob/master/doc/server-reflection.md. Both versions of the service have the
same messages.
"""

from functools import cache
from typing import Any

from ml_platform.serving.inference_messages import METHODS, PACKAGE, SERVICE, file_descriptor

HEALTH_SERVICE, HEALTH_METHOD = "grpc.health.v1.Health", "Check"
PACKAGES = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
REFLECTION_SERVICES = tuple(f"{package}.ServerReflection" for package in PACKAGES)
REFLECTION_METHOD = "ServerReflectionInfo"

MAX_QUESTIONS = 100
"""Messages of a client that one call answers; a client needs a few for each service."""

_NOT_FOUND = 5

_MESSAGES: dict[str, tuple[tuple[int, str, str], ...]] = {
    "ServerReflectionRequest": (
        (1, "string", "host"),
        (3, "choice string", "file_by_filename"),
        (4, "choice string", "file_containing_symbol"),
        (5, "choice ExtensionRequest", "file_containing_extension"),
        (6, "choice string", "all_extension_numbers_of_type"),
        (7, "choice string", "list_services"),
    ),
    "ExtensionRequest": ((1, "string", "containing_type"), (2, "int32", "extension_number")),
    "ServerReflectionResponse": (
        (1, "string", "valid_host"),
        (2, "ServerReflectionRequest", "original_request"),
        (4, "choice FileDescriptorResponse", "file_descriptor_response"),
        (6, "choice ListServiceResponse", "list_services_response"),
        (7, "choice ErrorResponse", "error_response"),
    ),
    "FileDescriptorResponse": ((1, "repeated bytes", "file_descriptor_proto"),),
    "ListServiceResponse": ((1, "repeated ServiceResponse", "service"),),
    "ServiceResponse": ((1, "string", "name"),),
    "ErrorResponse": ((1, "int32", "error_code"), (2, "string", "error_message")),
}
"""The fields of the messages that the services use: number, type and name."""


def reflection_answer(package: str, received: bytes) -> bytes:
    """Return the answer to one message of a call to the reflection service of ``package``.

    Raises ``DecodeError`` when ``received`` is no such message.
    """
    request = _message(package, "ServerReflectionRequest").FromString(received)
    response = _message(package, "ServerReflectionResponse")(valid_host=request.host, original_request=request)
    kind = request.WhichOneof("choice")
    if kind == "list_services":
        for name in (SERVICE, HEALTH_SERVICE, *REFLECTION_SERVICES):
            response.list_services_response.service.add(name=name)
        return bytes(response.SerializeToString())
    try:
        if kind == "file_by_filename":
            file = _pool().FindFileByName(request.file_by_filename)
        elif kind == "file_containing_symbol":
            file = _pool().FindFileContainingSymbol(request.file_containing_symbol)
        else:
            raise KeyError(kind)
        response.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)
    except KeyError:
        response.error_response.error_code = _NOT_FOUND
        response.error_response.error_message = "The gateway has no such file or symbol."
    return bytes(response.SerializeToString())


def _message(package: str, name: str) -> Any:
    from google.protobuf.message_factory import GetMessageClass

    return GetMessageClass(_pool().FindMessageTypeByName(f"{package}.{name}"))


@cache
def _pool() -> Any:
    """Return a pool of its own with the files of all services."""
    from google.protobuf.descriptor_pb2 import FileDescriptorProto
    from google.protobuf.descriptor_pool import DescriptorPool
    from grpc_health.v1 import health_pb2

    pool = DescriptorPool()
    inference = file_descriptor()
    service = inference.service.add(name=SERVICE.removeprefix(f"{PACKAGE}."))
    for method in METHODS:
        types = {"input_type": f".{PACKAGE}.{method}Request", "output_type": f".{PACKAGE}.{method}Response"}
        service.method.add(name=method, **types)
    pool.Add(inference)
    pool.Add(FileDescriptorProto.FromString(health_pb2.DESCRIPTOR.serialized_pb))
    for package in PACKAGES:
        pool.Add(_reflection_file(package))
    return pool


def _reflection_file(package: str) -> Any:
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

    file = FileDescriptorProto(name=f"{package.replace('.', '/')}/reflection.proto", package=package, syntax="proto3")
    for name, fields in _MESSAGES.items():
        added = file.message_type.add(name=name)
        for number, kind, field_name in fields:
            *rule, kind = kind.split()
            label = FieldDescriptorProto.LABEL_REPEATED if rule == ["repeated"] else FieldDescriptorProto.LABEL_OPTIONAL
            field = added.field.add(name=field_name, number=number, label=label)
            if rule == ["choice"]:
                if not added.oneof_decl:
                    added.oneof_decl.add(name="choice")
                field.oneof_index = 0
            if kind in _MESSAGES:
                field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                field.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
    service = file.service.add(name="ServerReflection")
    service.method.add(
        name=REFLECTION_METHOD,
        input_type=f".{package}.ServerReflectionRequest",
        output_type=f".{package}.ServerReflectionResponse",
        client_streaming=True,
        server_streaming=True,
    )
    return file
