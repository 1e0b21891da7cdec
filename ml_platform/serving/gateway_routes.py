"""The routes of the gateway, rendered from the desired states of the models.

Envoy loads a new file of routes when it is renamed into place; no request is lost.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ml_platform.data.atomic import write_json
from ml_platform.serving.desired_state import DesiredState
from ml_platform.serving.gateway_access import without_key
from ml_platform.serving.gateway_clusters import cluster_name, fallback_name, fallbacks_of
from ml_platform.serving.gateway_grpc import grpc_routes, without_buffer
from ml_platform.serving.open_inference import PREFIX
from ml_platform.serving.openapi import NDJSON
from ml_platform.serving.serving_settings import MAX_TIMEOUT_SECONDS, SettingsOf, default_settings

ROUTES_FILE = "routes.json"
ROUTES_NAME = "models"
ROLE_HEADER = "x-ml-platform-role"

ANY_HOST = ["*"]

ANY_MODEL = "*"
"""Stands for all models without a route among the models that start, while the state store cannot be read."""

_ROUTES_TYPE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
_EXTENSIONS = "type.googleapis.com/envoy.extensions"


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
