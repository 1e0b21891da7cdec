"""The gateway with keys, by a real Envoy: who is answered, who is refused and how, and what follows a change."""

import base64
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2

from ml_platform.serving.access_watch import AccessPlan, AccessWatch, write_first_access
from ml_platform.serving.client_keys import Client, NewKey, add_client, revoke_keys, rotate_key, set_limits
from ml_platform.serving.client_usage import requests_today
from ml_platform.serving.desired_state import DesiredState, ServedVersion
from ml_platform.serving.gateway import Gateway
from ml_platform.serving.gateway_access import CLIENTS, KEYS, QUOTAS, RATES
from ml_platform.serving.gateway_admin import query_gateway
from ml_platform.serving.gateway_clusters import cluster_name, write_clusters
from ml_platform.serving.processes import free_port
from ml_platform.state.store import StateStore
from ml_platform_tests.polling import until

pytestmark = pytest.mark.slow

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ONE = ServedVersion(version="1", bento="bentos/toy/1-aa")


class Echo(BaseHTTPRequestHandler):
    """A service that answers with the headers that it received, in the output `headers` to the protocol's requests."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        if self.path.startswith("/v2/"):
            output = {"name": "headers", "datatype": "BYTES", "shape": [1], "data": [body.decode()]}
            body = json.dumps({"model_name": "toy", "model_version": "1", "outputs": [output]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Write no line to the output of the tests."""


@dataclass
class KeyedGateway:
    """A running gateway with keys and gRPC before the models `toy` and `other`, and the watch over its keys."""

    gateway: Gateway
    state: StateStore
    watch: AccessWatch
    plan: AccessPlan

    def add(self, name: str, **limits: object) -> str:
        """Return the key of a new client, which the gateway knows already."""
        key = NewKey.make()
        add_client(self.state, Client.model_validate({"name": name, **limits}), key, NOW)
        self.step()
        return key.text

    def step(self, now: datetime = NOW) -> None:
        """Run a pass of the watch at ``now`` and wait until the gateway has loaded what it wrote."""
        self.watch.step(now)
        files = [self.gateway.folder / f"{name}.json" for name in (KEYS, CLIENTS, RATES, QUOTAS)]
        written = [json.loads(file.read_text())["version_info"] for file in files]
        until(lambda: all(each in self._loaded() for each in written), seconds=20)

    def _loaded(self) -> str:
        return query_gateway(self.gateway.folder, "/config_dump?resource=ecds_filters", seconds=5)

    def post(self, key: str | None = None, *, model: str = "toy", **headers: str) -> httpx.Response:
        sent = headers if key is None else {"x-api-key": key, **headers}
        return httpx.post(f"{self.gateway.url}/v1/{model}/predict", content=b"{}", headers=sent)

    def call(
        self, key: str | None = None, *, model: str = "toy", method: str = "ModelInfer", **metadata: str
    ) -> tuple[grpc.StatusCode, str, dict[str, str]]:
        """Return status, text and trailers of a gRPC call; the text of an answer is what the service received."""
        request = {"ModelInfer": service_pb2.ModelInferRequest(model_name=model)}.get(method)
        sent = metadata if key is None else {"x-api-key": key, **metadata}
        with grpc.insecure_channel(f"127.0.0.1:{self.gateway.port}") as channel:
            ask = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            content = b"" if request is None else request.SerializeToString()
            try:
                answer, call = ask.with_call(content, metadata=list(sent.items()), timeout=20)
            except grpc.RpcError as error:
                return error.code(), error.details(), dict(error.trailing_metadata())
        if method != "ModelInfer":
            return call.code(), "", dict(call.trailing_metadata())
        (text,) = service_pb2.ModelInferResponse.FromString(answer).outputs[0].contents.bytes_contents
        return call.code(), text.decode(), dict(call.trailing_metadata())


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedGateway]:
    folder = tmp_path_factory.mktemp("keys")
    state = StateStore.in_folder(folder)
    gateway = Gateway(folder / "gateway", free_port(), keys=True, grpc=True)
    plan = AccessPlan(gateway=gateway.folder, state=str(state.path), keys=True)
    gateway.write_bootstrap()
    write_first_access(plan, NOW)
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        models = {model: DesiredState(stable=ONE, weights={"stable": 100}) for model in ("toy", "other")}
        write_clusters(gateway.folder, {cluster_name(each, ONE): service.server_port for each in models}, version="1")
        gateway.write_routes(models, version="1")
        with (folder / "envoy.log").open("wb") as log:
            envoy = subprocess.Popen(gateway.command, cwd=gateway.folder, stdout=log, stderr=log)
            command = [sys.executable, "-m", "ml_platform.serving.grpc_bridge"]
            bridge = subprocess.Popen(command, cwd=gateway.folder, stdout=log, stderr=log)
        try:
            started = KeyedGateway(gateway, state, AccessWatch(plan), plan)
            until(lambda: _is_ready(gateway), seconds=60)
            until(lambda: started.call(method="ServerReady")[0] == grpc.StatusCode.OK, seconds=60)
            yield started
        finally:
            bridge.terminate()
            bridge.wait()
            envoy.terminate()
            envoy.wait()
            service.shutdown()


def test_valid_key_is_answered_and_the_service_sees_the_client_but_no_key(keyed: KeyedGateway) -> None:
    key = keyed.add("alice", concurrency=7)
    for headers in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}):
        answer = keyed.post(**{**headers, "x-ml-platform-client": "bob", "x-ml-platform-client-concurrency": "999"})
        assert answer.status_code == 200
        received = answer.json()
        assert (received["x-ml-platform-client"], received["x-ml-platform-client-concurrency"]) == ("alice", "7")
        assert not {"x-api-key", "authorization"} & received.keys()


@pytest.mark.parametrize(
    ("key", "found"),
    [
        (None, "none"),
        ("wrong", "an unknown, malformed, expired or revoked one"),
        (base64.b64encode(b"0123456789:secret").decode(), "an unknown, malformed, expired or revoked one"),
        ("a" * 20_000, "an unknown, malformed, expired or revoked one"),
        ('"; DROP \\', "an unknown, malformed, expired or revoked one"),
    ],
)
def test_request_without_a_valid_key_is_refused_in_our_form(keyed: KeyedGateway, key: str | None, found: str) -> None:
    answer = keyed.post(key)
    error = answer.json()["error"]
    assert (answer.status_code, error["status"], error["reason"]) == (401, 401, "key")
    assert (error["details"][0]["path"], error["details"][0]["found"]) == ("header.x-api-key", found)
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "username" not in answer.text
    # The paths of the models are no secret to keep, but nobody without a key learns them here.
    assert httpx.get(f"{keyed.gateway.url}/unknown").status_code == 401


def test_credentials_of_another_scheme_are_no_key(keyed: KeyedGateway) -> None:
    key = keyed.add("basic")
    assert keyed.post(authorization=f"Basic {key}").status_code == 401
    assert keyed.post(authorization=f"bearer {key}").status_code == 200


def test_load_balancer_needs_no_key(keyed: KeyedGateway) -> None:
    for path in ("/ready", "/v2/health/ready", "/v2/health/live"):
        assert httpx.get(f"{keyed.gateway.url}{path}").status_code == 200
    assert httpx.get(f"{keyed.gateway.url}/v2/models/toy").status_code == 401


def test_client_may_ask_only_its_models(keyed: KeyedGateway) -> None:
    key = keyed.add("narrow", models=["other"])
    assert keyed.post(key, model="other").status_code == 200
    refused = keyed.post(key)
    assert (refused.status_code, refused.json()["error"]["reason"]) == (403, "model")
    assert refused.json()["error"]["details"][0]["path"] == "header.x-api-key"
    infer = httpx.post(f"{keyed.gateway.url}/v2/models/other/infer", content=b"{}", headers={"x-api-key": key})
    assert infer.status_code == 200
    for path in (
        "/v1/other/../toy/predict",
        "/v1//toy/predict",
        "/v1/toy%2Fpredict",
        "/v2/models/toy/infer",
        "/v2/models/toy?x=/v1/other/",
        "/v2/repository/index",
        "/",
        "/v1/other",
    ):
        connection = http.client.HTTPConnection(keyed.gateway.host, keyed.gateway.port)
        connection.request("POST", path, body=b"{}", headers={"x-api-key": key})
        assert connection.getresponse().status == 403, path
        connection.close()


def test_grpc_call_with_a_valid_key_reaches_the_service_without_it(keyed: KeyedGateway) -> None:
    key = keyed.add("remote", concurrency=7)
    for metadata in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}):
        forged = {"x-ml-platform-client": "bob", "x-ml-platform-client-concurrency": "999", "x-user": "17"}
        status, text, _ = keyed.call(**{**metadata, **forged})
        received = json.loads(text)
        assert status == grpc.StatusCode.OK
        assert (received["x-ml-platform-client"], received["x-ml-platform-client-concurrency"]) == ("remote", "7")
        assert (received["x-user"], received["x-ml-platform-role"]) == ("17", "stable")
        assert not {"x-api-key", "authorization"} & received.keys()


@pytest.mark.parametrize("key", [None, "wrong", "a" * 20_000])
def test_grpc_call_without_a_valid_key_is_refused(keyed: KeyedGateway, key: str | None) -> None:
    status, text, trailers = keyed.call(key)
    assert status == grpc.StatusCode.UNAUTHENTICATED
    assert text == "The request has no valid API key. Send the key as x-api-key, or as authorization: Bearer."
    assert trailers["www-authenticate"].startswith("Bearer")
    assert keyed.call(key, method="ModelReady")[0] == grpc.StatusCode.UNAUTHENTICATED
    assert keyed.call(method="ServerLive")[0] == grpc.StatusCode.OK


def test_health_check_of_grpc_needs_no_key_and_reflection_needs_one(keyed: KeyedGateway) -> None:
    key = keyed.add("looking", models=["other"])
    with grpc.insecure_channel(f"127.0.0.1:{keyed.gateway.port}") as channel:
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20) == b"\x08\x01"
        # Of a model, it is a request for the model.
        with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"\x0a\x03toy", timeout=20)
        reflect = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        for metadata in ([], [("x-api-key", "wrong")]):
            with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
                next(reflect(iter([b"\x3a\x00"]), metadata=metadata, timeout=20))
        # The key is for another model, and the services are those of all models.
        services = next(reflect(iter([b"\x3a\x00"]), metadata=[("x-api-key", key)], timeout=20))
        assert b"inference.GRPCInferenceService" in services


def test_grpc_call_is_answered_for_the_models_of_the_client_only_and_ends_with_its_key(keyed: KeyedGateway) -> None:
    key = keyed.add("limited", models=["other"])
    assert keyed.call(key, model="other")[0] == grpc.StatusCode.OK
    assert keyed.call(key, model="other/../toy")[0] == grpc.StatusCode.NOT_FOUND
    assert keyed.call(key)[:2] == (
        grpc.StatusCode.PERMISSION_DENIED,
        "The key of the request is not for this model.",
    )
    # The path of a call opens no other path.
    for path in ("/inference.GRPCInferenceService/../v1/toy/predict", "/inference.GRPCInferenceService/%2e%2e/v1/toy/"):
        connection = http.client.HTTPConnection(keyed.gateway.host, keyed.gateway.port)
        connection.request("POST", path, body=b"{}", headers={"x-api-key": key})
        assert connection.getresponse().status == 403, path
        connection.close()
    revoke_keys(keyed.state, "limited", NOW)
    keyed.step()
    assert keyed.call(key, model="other")[0] == grpc.StatusCode.UNAUTHENTICATED


def test_both_forms_take_from_one_rate_and_a_call_counts_once(keyed: KeyedGateway) -> None:
    key = keyed.add("both", requests_per_second=1, burst=50)
    started = time.monotonic()
    assert {keyed.call(key)[0] for _ in range(20)} == {grpc.StatusCode.OK}
    left = int(keyed.post(key).headers["x-ratelimit-remaining"])
    filled = time.monotonic() - started + 1
    assert 50 - 21 <= left <= 50 - 21 + filled
    stat = "access.requests.client.both.code"
    query = f"/stats?filter=^{stat}"
    until(lambda: query_gateway(keyed.gateway.folder, query, seconds=5).split() == [f"{stat}.200:", "21"])


def test_grpc_call_beyond_the_rate_is_refused_with_the_time_to_retry(keyed: KeyedGateway) -> None:
    key = keyed.add("spent", requests_per_second=1, burst=1)
    answers = (keyed.call(key) for _ in range(50))
    status, text, trailers = next(each for each in answers if each[0] != grpc.StatusCode.OK)
    assert (status, trailers["retry-after"]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "1")
    assert text.startswith("The client has used its requests per second or per day")


def test_revoked_key_ends_on_an_open_connection(keyed: KeyedGateway) -> None:
    key, other = keyed.add("leaver"), keyed.add("stayer")
    with httpx.Client(base_url=keyed.gateway.url) as client:
        path = "/v1/toy/predict"
        assert client.post(path, headers={"x-api-key": key}).status_code == 200
        connections = _opened_connections(keyed.gateway)
        revoke_keys(keyed.state, "leaver", NOW)
        keyed.step()
        assert client.post(path, headers={"x-api-key": key}).status_code == 401
        assert client.post(path, headers={"x-api-key": other}).status_code == 200
        assert _opened_connections(keyed.gateway) == connections


def test_rotated_key_is_valid_until_the_end_of_the_overlap(keyed: KeyedGateway) -> None:
    old, new = keyed.add("rotating"), NewKey.make()
    ends = NOW + timedelta(hours=1)
    rotate_key(keyed.state, "rotating", new, NOW, ends)
    keyed.step()
    assert [keyed.post(each).status_code for each in (old, new.text)] == [200, 200]
    keyed.step(ends)
    assert [keyed.post(each).status_code for each in (old, new.text)] == [401, 200]
    keyed.step()


def test_flood_of_one_client_is_refused_and_leaves_others_alone(keyed: KeyedGateway) -> None:
    flooding = keyed.add("flooding", requests_per_second=1, burst=5)
    calm = keyed.add("calm", requests_per_second=1000, burst=1000)
    answers = [keyed.post(flooding) for _ in range(40)]
    others = [keyed.post(calm).status_code for _ in range(20)]
    refused = [each for each in answers if each.status_code == 429]
    assert len(refused) >= 20
    assert {each.status_code for each in answers} == {200, 429}
    assert (refused[0].headers["retry-after"], refused[0].headers["x-ratelimit-limit"]) == ("1", "5")
    error = refused[0].json()["error"]
    assert (error["reason"], error["details"][0]["path"]) == ("limit", "header.x-api-key")
    assert others == [200] * 20


def test_change_of_keys_does_not_fill_the_buckets_again(keyed: KeyedGateway) -> None:
    key = keyed.add("counted", requests_per_second=1, burst=10, requests_per_day=3)
    assert [keyed.post(key).status_code for _ in range(4)] == [200, 200, 200, 429]
    revoke_keys(keyed.state, "counted", NOW)
    renewed = NewKey.make()
    rotate_key(keyed.state, "counted", renewed, NOW, NOW + timedelta(hours=1))
    keyed.step()
    assert [keyed.post(each).status_code for each in (key, renewed.text)] == [401, 429]


def test_quota_says_when_the_day_ends_and_outlives_a_restart_of_the_watch(keyed: KeyedGateway) -> None:
    key = keyed.add("daily", requests_per_second=1000, burst=1000, requests_per_day=5)
    assert [keyed.post(key).status_code for _ in range(3)] == [200] * 3
    until(lambda: _stepped_usage(keyed, "daily") >= 3, seconds=20)
    used = requests_today(keyed.state, NOW)["daily"]
    restarted = AccessWatch(keyed.plan)
    restarted.step(NOW)
    statuses = [keyed.post(key) for _ in range(6)]
    refused = [each for each in statuses if each.status_code == 429]
    assert refused[0].headers["retry-after"] == "Mon, 02 Mar 2026 00:00:00 GMT"
    assert len(statuses) - len(refused) <= 5 - 3
    assert used >= 3
    keyed.watch = restarted
    keyed.step(NOW + timedelta(days=1))
    assert keyed.post(key).status_code == 200
    keyed.step()


def test_changed_limits_are_applied(keyed: KeyedGateway) -> None:
    key = keyed.add("changing", requests_per_second=1, burst=2)
    set_limits(keyed.state, Client(name="changing", requests_per_second=500, burst=500, models=("toy",)))
    keyed.step()
    assert keyed.post(key, model="other").status_code == 403
    assert keyed.post(key).headers["x-ratelimit-limit"] == "500"


def test_headers_for_envoy_change_nothing_and_make_no_series(keyed: KeyedGateway) -> None:
    key = keyed.add("clever")
    for number in range(3):
        headers = {"x-envoy-upstream-alt-stat-name": f"made-up-{number}", "x-envoy-retry-on": "5xx"}
        received = keyed.post(key, **headers).json()
        assert not {"x-envoy-retry-on", "x-envoy-upstream-alt-stat-name"} & received.keys()
        keyed.post("wrong", **{"x-ml-platform-client": f"made-up-{number}"})
    stats = query_gateway(keyed.gateway.folder, "/stats?usedonly", seconds=5)
    assert "made-up" not in stats
    assert "access.requests.client.clever.code.200: 3" in stats


def test_no_key_is_in_a_file_of_the_gateway_or_of_the_state_store(keyed: KeyedGateway) -> None:
    key = keyed.add("secretive")
    secret = base64.b64decode(key).decode().partition(":")[2]
    assert keyed.post(key).status_code == 200
    assert keyed.post(key[:-1]).status_code == 401
    access_log = keyed.gateway.folder / "access.jsonl"
    until(lambda: '"client":"secretive"' in access_log.read_text(), seconds=30)
    files = [each for each in keyed.gateway.folder.parent.rglob("*") if each.is_file()]
    assert {"access.jsonl", "client_keys.json", "envoy.log", "state.db"} <= {each.name for each in files}
    for file in files:
        content = file.read_bytes()
        assert not [each for each in (key, key[:-1], secret) if each.encode() in content], file
    assert (keyed.gateway.folder / "client_keys.json").stat().st_mode & 0o077 == 0


def _stepped_usage(keyed: KeyedGateway, client: str) -> int:
    """Return the stored requests of ``client`` after another pass of a watch that stores at once."""
    watch = AccessWatch(keyed.plan)
    watch.step(NOW)
    return requests_today(keyed.state, NOW).get(client, 0)


def _opened_connections(gateway: Gateway) -> int:
    text = query_gateway(gateway.folder, "/stats?filter=^http.gateway.downstream_cx_total$", seconds=5)
    return int(text.rpartition(":")[2])


def _is_ready(gateway: Gateway) -> bool:
    try:
        return httpx.get(f"{gateway.url}/ready").status_code == 200
    except httpx.HTTPError:
        return False
