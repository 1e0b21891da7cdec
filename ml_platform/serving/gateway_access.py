"""Renders the part of Envoy's configuration that decides who may ask: keys, limits and quotas of clients, and TLS.

A request passes these filters in order; no other process takes part:

1. The key of the header is moved to where the next filter reads it; the client's own copies of our headers are removed.
2. ``client_keys`` compares the hash of its secret: 401.
3. ``clients`` names the client of the key to the service and compares the model with those of the client: 403.
4. ``client_rates`` and ``client_quotas`` take one request from the bucket of the client: 429.

Each of the last four is a file that Envoy loads when it is replaced, for the next request of open connections too. A
loaded file of buckets fills these again, so each has its own: only a change of limits may do that.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

from ml_platform.data.atomic import write_json
from ml_platform.serving.client_keys import Client, ClientKey
from ml_platform.serving.inference_messages import SERVICE
from ml_platform.serving.open_inference import PREFIX

CLIENT_HEADER = "x-ml-platform-client"
"""Header with the name of the client, which the gateway sets; one from outside is removed."""

CONCURRENCY_HEADER = "x-ml-platform-client-concurrency"
"""Header with the number of requests that the client may have under way in all services together."""

KEY_HEADER = "x-api-key"
KEYS, CLIENTS, RATES, QUOTAS = "client_keys", "clients", "client_rates", "client_quotas"
CERTIFICATE = "certificate"
_STATS_PREFIX, _REQUESTS = "access", "requests"
REQUESTS_STAT = f"{_STATS_PREFIX}.{_REQUESTS}"
"""Name of Envoy's counter of requests, with the tags ``client`` and ``code``."""

REFUSAL_METADATA = "ml_platform"
FOREIGN_MODEL = "model"

_FILTERS = "type.googleapis.com/envoy.extensions.filters.http"
_KINDS = {
    KEYS: f"{_FILTERS}.basic_auth.v3.BasicAuth",
    CLIENTS: f"{_FILTERS}.lua.v3.Lua",
    RATES: f"{_FILTERS}.local_ratelimit.v3.LocalRateLimit",
    QUOTAS: f"{_FILTERS}.local_ratelimit.v3.LocalRateLimit",
}
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
_NO_USER = "-:{SHA}" + "A" * 27 + "="
"""Line of a user that no key names: the filter takes no empty list."""

_UNLIMITED = {"max_tokens": 2**31, "tokens_per_fill": 2**31, "fill_interval": "1s"}
_NEVER_FILLED = {"tokens_per_fill": 1, "fill_interval": f"{10 * 365 * 86_400}s"}
"""A quota is not filled bit by bit: its file is replaced when a day begins."""

_MOVE_KEY = f"""
function envoy_on_request(handle)
  local headers = handle:headers()
  local key = headers:get("{KEY_HEADER}")
  local bearer = headers:get("authorization")
  if key == nil and bearer ~= nil then
    key = string.match(bearer, "^[Bb][Ee][Aa][Rr][Ee][Rr] +(.*)$")
  end
  headers:remove("{KEY_HEADER}")
  headers:remove("authorization")
  if key ~= nil then
    headers:add("authorization", "Basic " .. (string.match(key, "^%w+$") or "-"))
  end
end
"""

_GRPC_PATTERN = SERVICE.replace(".", "%.")
_NAME_CLIENT = f"""
function envoy_on_request(handle)
  local headers = handle:headers()
  local client = keys[headers:get("{CLIENT_HEADER}")]
  local key = string.match(headers:get("authorization") or "", "^Basic (.*)$")
  headers:remove("authorization")
  if client == nil then
    headers:remove("{CLIENT_HEADER}")
    handle:respond({{[":status"] = "401"}}, "")
    return
  end
  headers:replace("{CLIENT_HEADER}", client.name)
  headers:replace("{CONCURRENCY_HEADER}", client.concurrency)
  local path = headers:get(":path") or ""
  if string.match(path, "^/{_GRPC_PATTERN}/%a+$") then
    -- The bridge asks for the model with this key.
    headers:add("{KEY_HEADER}", key)
  elseif client.models ~= nil and string.match(path, "^/grpc%.reflection%.%w+%.ServerReflection/%a+$") then
    -- It names no model, and answers about none.
    return
  elseif client.models ~= nil then
    local model = string.match(path, "^/v1/([^/?]+)/") or string.match(path, "^{PREFIX}/models/([^/?]+)")
    if model == nil or not client.models[model] then
      handle:streamInfo():dynamicMetadata():set("{REFUSAL_METADATA}", "refusal", "{FOREIGN_MODEL}")
      handle:respond({{[":status"] = "403"}}, "The key of the request is not for this model.")
    end
  end
end
"""


def header_removal() -> dict[str, Any]:
    """Return the extension that removes the gateway's own headers from each request before anything reads them."""
    mutations = [{"remove": name} for name in (CLIENT_HEADER, CONCURRENCY_HEADER)]
    kind = "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    return {"name": "own_headers", "typed_config": {"@type": kind, "mutations": mutations}}


def access_filters(folder: Path, *, limits: bool = True) -> list[dict[str, Any]]:
    """Return the filters of a gateway with keys; they read the files of :class:`AccessFiles` in ``folder``.

    Without ``limits``, a request takes nothing from rate and quota. Each listener would have buckets of its own.
    """
    first = {
        "name": "move_key",
        "typed_config": {"@type": f"{_FILTERS}.lua.v3.Lua", "default_source_code": {"inline_string": _MOVE_KEY}},
    }
    discovered = [
        {
            "name": name,
            "config_discovery": {"config_source": from_file(folder / _file_name(name)), "type_urls": [kind]},
        }
        for name, kind in _KINDS.items()
        if limits or name not in (RATES, QUOTAS)
    ]
    return [first, *discovered]


def without_key() -> dict[str, Any]:
    """Return the setting of a route that answers without a key."""
    disabled = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}
    return dict.fromkeys(("move_key", *_KINDS), disabled)


def request_counter() -> dict[str, Any]:
    """Return the access log that counts the requests of each client by status; clients are known names only.

    A gRPC call counts by the request of the bridge, which has its status.
    """
    tags = [
        {"name": "client", "value_format": f"%REQ({CLIENT_HEADER.upper()})%"},
        {"name": "code", "value_format": "%RESPONSE_CODE%"},
    ]
    has_client = {"name": CLIENT_HEADER, "present_match": True}
    no_call = {"name": ":path", "string_match": {"prefix": f"/{SERVICE}/"}, "invert_match": True}
    counter = {"stat": {"name": _REQUESTS, "tags": tags}, "value_fixed": 1}
    return {
        "name": "envoy.access_loggers.stats",
        "filter": {"and_filter": {"filters": [{"header_filter": {"header": each}} for each in (has_client, no_call)]}},
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.stats.v3.Config",
            "stats_scope": {"prefix": _STATS_PREFIX},
            "counters": [counter],
        },
    }


def tls_socket(folder: Path) -> dict[str, Any]:
    """Return the transport socket of a listener with TLS, with the certificate of :class:`AccessFiles`."""
    certificate = {"name": CERTIFICATE, "sds_config": from_file(folder / _file_name(CERTIFICATE))}
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TLS}.DownstreamTlsContext",
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificate_sds_secret_configs": [certificate],
            },
        },
    }


class AccessFiles:
    """The files of keys, limits and certificate in ``folder``; each is replaced only when its content changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._written: dict[str, Any] = {}

    def write_clients(
        self, clients: Mapping[str, Client], keys: Sequence[ClientKey], used: Mapping[str, int], now: datetime
    ) -> None:
        """Write who may ask at ``now``, and how much. ``used`` has the requests of each client on this UTC day.

        The buckets of quotas start with what is left, so their file is written only when a quota changes, another day
        begins, or the gateway has started again, see :meth:`refill`.
        """
        day = now.astimezone(UTC).date()
        valid = [key for key in keys if key.is_valid(now) and key.client in clients]
        quotas = {each.name: each.requests_per_day for each in clients.values() if each.requests_per_day is not None}
        left = {name: quota - used.get(name, 0) for name, quota in quotas.items()}
        self._write_filter(QUOTAS, _quotas_config(left, day), of=[str(day), quotas])
        self._write_filter(RATES, _rates_config(clients))
        # A key that the next filter does not know is refused, so a new key comes last.
        self._write_filter(CLIENTS, _clients_config(clients, valid))
        self._write_filter(KEYS, _keys_config(valid))

    def write_certificate(self, certificate: str, private_key: str) -> None:
        """Write the certificate and its key, both PEM."""
        content = {"certificate_chain": {"inline_string": certificate}, "private_key": {"inline_string": private_key}}
        self._write(CERTIFICATE, {"@type": f"{_TLS}.Secret", "name": CERTIFICATE, "tls_certificate": content}, content)

    def refill(self) -> None:
        """Write the quotas at the next call even if they are the same: the gateway has started with an old file."""
        self._written.pop(QUOTAS, None)

    def _write_filter(self, name: str, config: Mapping[str, Any], *, of: Any = None) -> None:
        kind = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
        resource = {"@type": kind, "name": name, "typed_config": {"@type": _KINDS[name], **config}}
        self._write(name, resource, config if of is None else of)

    def _write(self, name: str, resource: Mapping[str, Any], of: Any) -> None:
        if self._written.get(name) != of:
            version = hashlib.sha256(json.dumps(resource, sort_keys=True).encode()).hexdigest()
            stored = {"version_info": version, "resources": [resource]}
            write_json(self.folder / _file_name(name), stored, mode=0o600)
            self._written[name] = of


def from_file(path: Path) -> dict[str, Any]:
    """Return the source of a resource that Envoy loads from ``path``, again whenever the file is replaced."""
    return {"path_config_source": {"path": str(path)}, "resource_api_version": "V3"}


def _keys_config(valid: Sequence[ClientKey]) -> dict[str, Any]:
    users = [f"{key.id}:{{SHA}}{key.secret_sha1}" for key in valid]
    return {
        "users": {"inline_string": "\n".join(users or [_NO_USER])},
        "forward_username_header": CLIENT_HEADER,
        "realm": "ml-platform",
    }


def _clients_config(clients: Mapping[str, Client], valid: Sequence[ClientKey]) -> dict[str, Any]:
    """Return the filter with a table of the clients by the ids of their keys. JSON strings are strings of Lua, too."""
    rows = []
    for key in valid:
        client = clients[key.client]
        values = f'name = {json.dumps(client.name)}, concurrency = "{client.concurrency}"'
        if client.models is not None:
            models = ", ".join(f"[{json.dumps(model)}] = true" for model in sorted(client.models))
            values += f", models = {{{models}}}"
        rows.append(f"  [{json.dumps(key.id)}] = {{{values}}},")
    table = "\n".join(["local keys = {", *rows, "}"])
    return {"default_source_code": {"inline_string": table + _NAME_CLIENT}}


def _rates_config(clients: Mapping[str, Client]) -> dict[str, Any]:
    buckets = {
        each.name: {
            "max_tokens": each.burst,
            "tokens_per_fill": each.requests_per_second,
            "fill_interval": "1s",
        }
        for each in clients.values()
    }
    # A bucket gets at least one token a second.
    return {**_buckets(RATES, buckets, retry_after="1"), "enable_x_ratelimit_headers": "DRAFT_VERSION_03"}


def _quotas_config(left: Mapping[str, int], day: date) -> dict[str, Any]:
    # A bucket has at least one token, so an exhausted quota answers one more request after each change.
    buckets = {name: {"max_tokens": max(1, requests), **_NEVER_FILLED} for name, requests in left.items()}
    midnight = datetime.combine(day + timedelta(days=1), time(), UTC)
    return _buckets(QUOTAS, buckets, retry_after=format_datetime(midnight, usegmt=True))


def _buckets(name: str, buckets: Mapping[str, Mapping[str, Any]], *, retry_after: str) -> dict[str, Any]:
    always = {"default_value": {"numerator": 100}}
    client = {"request_headers": {"header_name": CLIENT_HEADER, "descriptor_key": "client"}}
    return {
        "stat_prefix": name,
        "filter_enabled": always,
        "filter_enforced": always,
        "token_bucket": _UNLIMITED,
        "always_consume_default_token_bucket": False,
        "rate_limits": [{"actions": [client]}],
        "descriptors": [
            {"entries": [{"key": "client", "value": client}], "token_bucket": bucket}
            for client, bucket in sorted(buckets.items())
        ],
        "response_headers_to_add": [{"header": {"key": "retry-after", "value": retry_after}}],
    }


def _file_name(name: str) -> str:
    return f"{name}.json"
