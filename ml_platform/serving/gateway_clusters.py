"""The clusters of the gateway: the services of each version, and those that answer without a healthy one.

Envoy loads a new file of clusters when it is renamed into place; no request is lost.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_platform.data.atomic import write_json
from ml_platform.serving.desired_state import DesiredState, ServedVersion
from ml_platform.serving.serving_settings import Constant, SettingsOf, default_settings

CLUSTERS_FILE = "clusters.json"
CONNECT_SECONDS = 1

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
_EXTENSIONS = "type.googleapis.com/envoy.extensions"


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
        for each in stored_clusters(folder)
    }


def stored_clusters(folder: Path) -> list[dict[str, Any]]:
    """Return the clusters in Envoy's form that were written last; none without a file."""
    path = folder / CLUSTERS_FILE
    return list(json.loads(path.read_text())["resources"]) if path.exists() else []


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
    replicas = [{"endpoint": {"address": socket_address("127.0.0.1", port)}} for port in ports]
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
            "endpoints": [{"lb_endpoints": replicas}],
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


def socket_address(host: str, port: int) -> dict[str, Any]:
    """Return Envoy's form of an address."""
    return {"socket_address": {"address": host, "port_value": port}}
