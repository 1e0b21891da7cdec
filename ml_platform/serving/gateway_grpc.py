"""Renders the part of Envoy's configuration for gRPC: routes to the bridge, and the way back for its requests.

The name of the model is inside a message of the Open Inference Protocol, where Envoy cannot route by it. So a call goes
to the bridge, which asks the same gateway in the REST form:

1. The public listener checks the key, the rate and the quota of the client, receives the message, and calls the bridge.
2. The bridge sends the REST request, with the key, to a second listener of the gateway.
3. That listener checks the key again, and the model, and routes as for any request. It takes nothing from the rate.

The bridge and the second listener are Unix sockets in the gateway's folder, for its owner alone.
"""

from typing import Any

from ml_platform.serving.bridge_settings import ANSWER_SECONDS, BRIDGE_SOCKET, CALLS_AT_ONCE
from ml_platform.serving.gateway_access import without_key
from ml_platform.serving.grpc_reflection import (
    HEALTH_METHOD,
    HEALTH_SERVICE,
    REFLECTION_METHOD,
    REFLECTION_SERVICES,
)
from ml_platform.serving.inference_messages import METHODS, SERVICE
from ml_platform.serving.marked_processes import BRIDGE

KEYLESS_METHODS = ("ServerLive", "ServerReady", "ServerMetadata")
"""Methods that need no key, as the pages of the REST form about the server; gRPC's health check needs none either."""


def grpc_routes() -> list[dict[str, Any]]:
    """Return the routes to the bridge, one for each method."""
    return [
        *(_route(f"{SERVICE}/{method}", needs_key=method not in KEYLESS_METHODS) for method in METHODS),
        _route(f"{HEALTH_SERVICE}/{HEALTH_METHOD}", needs_key=False),
        # Such a call goes on until the client ends it, so it cannot be kept until it is complete.
        *(
            {**route, "typed_per_filter_config": without_buffer()}
            for route in (_route(f"{service}/{REFLECTION_METHOD}") for service in REFLECTION_SERVICES)
        ),
    ]


def without_buffer() -> dict[str, Any]:
    """Return the setting of a route whose requests are passed on as they arrive."""
    kind = "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.BufferPerRoute"
    return {"envoy.filters.http.buffer": {"@type": kind, "disabled": True}}


def _route(path: str, *, needs_key: bool = True) -> dict[str, Any]:
    return {
        "match": {"path": f"/{path}", "grpc": {}},
        "route": {
            "cluster": BRIDGE,
            "timeout": f"{ANSWER_SECONDS}s",
            "idle_timeout": f"{ANSWER_SECONDS}s",
            # Only calls that reached no bridge, such as one that restarts.
            "retry_policy": {"retry_on": "connect-failure,refused-stream", "num_retries": 2},
        },
        **({} if needs_key else {"typed_per_filter_config": without_key()}),
    }


def bridge_cluster() -> dict[str, Any]:
    """Return the cluster of the bridge; those of services have a hyphen in their names."""
    # Relative to the working directory, since the path of a socket must be short.
    address = {"pipe": {"path": BRIDGE_SOCKET}}
    protocol = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        "name": BRIDGE,
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [{"max_requests": CALLS_AT_ONCE, "max_pending_requests": CALLS_AT_ONCE}]},
        "load_assignment": {
            "cluster_name": BRIDGE,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "typed_extension_protocol_options": {
            protocol: {
                "@type": f"type.googleapis.com/{protocol}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }
