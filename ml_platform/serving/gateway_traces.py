"""The traces of Envoy: its spans go to a collector of OpenTelemetry, and services get the header `traceparent`."""

from typing import Any
from urllib.parse import urlsplit

from ml_platform.data.traces import SEND_SECONDS, TRACES_PATH
from ml_platform.serving.gateway_clusters import socket_address

COLLECTOR = "traces"
"""Name of the cluster of the collector."""

SERVICE_NAME = "gateway"


def tracing(address: str, share: float) -> dict[str, Any]:
    """Return the settings of the HTTP filter that begins a trace for the ``share`` (0 to 1) of the requests.

    A request whose client sends a sampled `traceparent` continues that trace.
    """
    provider = {
        "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
        "service_name": SERVICE_NAME,
        "http_service": {
            "http_uri": {"uri": f"{address}{TRACES_PATH}", "cluster": COLLECTOR, "timeout": f"{SEND_SECONDS}s"}
        },
    }
    request_id = {
        "@type": "type.googleapis.com/envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
        # Clients choose their request ids, which need not be UUIDs, and get them back unchanged.
        "pack_trace_reason": False,
        "use_request_id_for_trace_sampling": False,
    }
    return {
        "request_id_extension": {"typed_config": request_id},
        "tracing": {
            "provider": {"name": "envoy.tracers.opentelemetry", "typed_config": provider},
            "random_sampling": {"value": round(share * 100, 4)},
            # A span of its own for each attempt, so that a retry on another version is seen.
            "spawn_upstream_span": True,
        },
    }


def collector_cluster(address: str) -> dict[str, Any]:
    """Return the cluster of the collector at ``address``, such as http://127.0.0.1:4318."""
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    endpoint = {"endpoint": {"address": socket_address(str(parts.hostname), port)}}
    cluster: dict[str, Any] = {
        "name": COLLECTOR,
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": COLLECTOR, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    if parts.scheme == "https":
        context = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
        cluster["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": context,
                "sni": parts.hostname,
                "common_tls_context": {
                    "validation_context": {"trusted_ca": {"filename": "/etc/ssl/certs/ca-certificates.crt"}}
                },
            },
        }
    return cluster
