"""The statuses of gRPC that calls end with, and which of them an error of HTTP is."""

from enum import IntEnum


class GrpcStatus(IntEnum):
    """A status of gRPC, by its number."""

    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


_OF_HTTP = {
    400: GrpcStatus.INVALID_ARGUMENT,
    401: GrpcStatus.UNAUTHENTICATED,
    403: GrpcStatus.PERMISSION_DENIED,
    404: GrpcStatus.NOT_FOUND,
    408: GrpcStatus.DEADLINE_EXCEEDED,
    413: GrpcStatus.RESOURCE_EXHAUSTED,
    415: GrpcStatus.INVALID_ARGUMENT,
    422: GrpcStatus.INVALID_ARGUMENT,
    429: GrpcStatus.RESOURCE_EXHAUSTED,
    502: GrpcStatus.UNAVAILABLE,
    503: GrpcStatus.UNAVAILABLE,
    504: GrpcStatus.DEADLINE_EXCEEDED,
}


def grpc_status(http_status: int) -> GrpcStatus:
    """Return the status of gRPC for an error with ``http_status``; INTERNAL for one without a counterpart."""
    return _OF_HTTP.get(http_status, GrpcStatus.INTERNAL)
