"""Envoy's files: routes and weights follow the desired state, and Envoy accepts the configuration."""

import asyncio
import json
import signal
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from ml_platform.serving.arm_counts import ArmCounts, read_counts
from ml_platform.serving.desired_state import DesiredState, ServedVersion
from ml_platform.serving.gateway import Gateway
from ml_platform.serving.gateway_admin import query_gateway
from ml_platform.serving.gateway_clusters import (
    CONSTANT_SERVICE,
    REQUESTS_AT_ONCE,
    cluster_name,
    fallbacks_of,
    read_clusters,
    write_clusters,
)
from ml_platform.serving.gateway_routes import ANY_MODEL, write_routes
from ml_platform.serving.processes import free_port
from ml_platform.serving.serving_settings import Constant, ReplicaSettings, ServingSettings
from ml_platform.serving.streams.gateway_client import GatewayClient, Outcome
from ml_platform_tests.polling import until
from ml_platform_tests.serving.conftest import running_envoy

ONE, TWO = ServedVersion(version="1", bento="bentos/toy/1-aa"), ServedVersion(version="2", bento="bentos/toy/2-bb")
HALF = DesiredState(stable=ONE, candidate=TWO, weights={"stable": 50, "candidate": 50})


def routes(folder: Path, **state: Any) -> list[dict[str, Any]]:
    write_routes(folder, {"toy": DesiredState(**state)}, version="toy:1", allowed_hosts=["localhost"])
    stored = json.loads((folder / "routes.json").read_text())
    found: list[dict[str, Any]] = stored["resources"][0]["virtual_hosts"][0]["routes"]
    return found


def test_routes_have_the_desired_weights_and_send_the_role(tmp_path: Path) -> None:
    _, _, toy, *_ = routes(tmp_path, stable=ONE, candidate=TWO, weights={"stable": 90, "candidate": 10})
    clusters = toy["route"]["weighted_clusters"]["clusters"]
    assert toy["match"] == {"prefix": "/v1/toy/"}
    assert [(each["name"], each["weight"]) for each in clusters] == [("toy-1-aa", 90), ("toy-2-bb>toy-1-aa", 10)]
    assert [each["request_headers_to_add"][0]["header"]["value"] for each in clusters] == ["stable", "candidate"]


def test_open_inference_path_has_the_same_versions(tmp_path: Path) -> None:
    _, _, own, tensors, *_ = routes(tmp_path, stable=ONE, candidate=TWO, weights={"stable": 90, "candidate": 10})
    assert tensors["match"] == {"path_separated_prefix": "/v2/models/toy"}
    assert tensors["route"] == own["route"]


def test_route_waits_as_long_as_the_most_patient_of_its_versions_declares(tmp_path: Path) -> None:
    seconds = {ONE: 2.5, TWO: 0.5}
    write_routes(
        tmp_path,
        {"one": DesiredState(stable=ONE, weights={"stable": 100}), "toy": HALF},
        version="1",
        allowed_hosts=["localhost"],
        settings_of=lambda served: ServingSettings(timeout_seconds=seconds[served]),
    )
    stored = json.loads((tmp_path / "routes.json").read_text())
    found = stored["resources"][0]["virtual_hosts"][0]["routes"]
    # Requests of lines are answered as long as answers come.
    expected = [("/v1/one/", "0s"), ("/v1/toy/", "0s"), ("/v1/one/", "2.5s"), ("/v1/toy/", "2.5s")]
    own = [each for each in found if each["match"].get("prefix", "") in ("/v1/one/", "/v1/toy/")]
    assert [(each["match"]["prefix"], each["route"]["timeout"]) for each in own] == expected


def test_shadow_receives_copies_and_has_no_weight(tmp_path: Path) -> None:
    _, lines, toy, *_ = routes(tmp_path, stable=ONE, shadow=TWO, weights={"stable": 100})
    assert lines["match"]["headers"][0]["string_match"]["prefix"] == "application/x-ndjson"
    assert not {"request_mirror_policies", "retry_policy"} & lines["route"].keys()
    assert toy["route"]["request_mirror_policies"] == [{"cluster": "toy-2-bb"}]
    assert [each["name"] for each in toy["route"]["weighted_clusters"]["clusters"]] == ["toy-1-aa"]


def test_model_that_starts_is_answered_with_503_until_it_has_a_route(tmp_path: Path) -> None:
    state = {"toy": DesiredState(stable=ONE, weights={"stable": 100})}
    write_routes(tmp_path, state, version="1", allowed_hosts=["localhost"], starting=["toy", "other"])
    stored = json.loads((tmp_path / "routes.json").read_text())
    _, _, toy, other, *_, unknown = stored["resources"][0]["virtual_hosts"][0]["routes"]
    assert "weighted_clusters" in toy["route"]
    assert (other["match"]["prefix"], other["direct_response"]["status"]) == ("/v1/other/", 503)
    assert unknown["direct_response"]["status"] == 404


def test_any_model_without_a_route_is_answered_with_503_while_the_models_are_unknown(tmp_path: Path) -> None:
    state = {"toy": DesiredState(stable=ONE, weights={"stable": 100})}
    write_routes(tmp_path, state, version="1", allowed_hosts=["localhost"], starting=[ANY_MODEL, "zoo"])
    stored = json.loads((tmp_path / "routes.json").read_text())
    found = stored["resources"][0]["virtual_hosts"][0]["routes"]
    # The first match counts, so the route of all other models comes after those of known ones.
    paths = [path for each in found for kind, path in each["match"].items() if "prefix" in kind]
    v2 = ["/v2/models/toy", "/v2/models/zoo", "/v2/models/"]
    lines, *others = paths
    assert (lines, others) == ("/v1/toy/", ["/v1/toy/", "/v1/zoo/", "/v1/", *v2, "/"])
    answers = [each for each in found if any("prefix" in kind for kind in each["match"])]
    statuses = [each.get("direct_response", {}).get("status") for each in answers]
    assert statuses == [None, None, 503, 503, None, 503, 503, 404]


def test_only_hosts_of_this_machine_reach_the_models_on_loopback(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2"):
        assert "*" not in Gateway(tmp_path, 18080, host=host).allowed_hosts
    assert Gateway(tmp_path, 18080, host="0.0.0.0").allowed_hosts == ["*"]
    routes(tmp_path, stable=ONE, weights={"stable": 100})
    _, others = json.loads((tmp_path / "routes.json").read_text())["resources"][0]["virtual_hosts"]
    assert others["routes"][0]["direct_response"]["status"] == 403


def test_model_that_serves_nothing_has_no_route(tmp_path: Path) -> None:
    ready, _, unknown = routes(tmp_path)
    assert ready["match"] == {"path": "/ready"}
    assert unknown["direct_response"]["status"] == 404


def test_unavailable_response_asks_the_client_to_retry_after_a_second(tmp_path: Path) -> None:
    Gateway(tmp_path, 18080).write_bootstrap()
    stored = json.loads((tmp_path / "envoy.json").read_text())
    (listener,) = stored["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    headers = {
        each["filter"]["status_code_filter"]["comparison"]["value"]["default_value"]: each["headers_to_add"]
        for each in manager["local_reply_config"]["mappers"]
        if "status_code_filter" in each["filter"]
    }
    assert [header["header"] for header in headers[503]] == [{"key": "retry-after", "value": "1"}]
    assert manager["request_timeout"] == "15s"


def test_access_log_is_private_and_an_existing_one_becomes_private(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "gateway", 18080)
    gateway.write_bootstrap()
    log = gateway.folder / "access.jsonl"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (log, gateway.folder)] == [0o600, 0o700]
    log.write_text("{}\n")
    log.chmod(0o644)
    gateway.write_bootstrap()
    assert (stat.S_IMODE(log.stat().st_mode), log.read_text()) == (0o600, "{}\n")


def test_service_of_a_rebuilt_bento_has_another_name() -> None:
    assert cluster_name("toy", ONE) != cluster_name("toy", ServedVersion(version="1", bento="bentos/toy/1-cc"))


@pytest.mark.slow
def test_envoy_accepts_the_configuration(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, 18080)
    gateway.write_bootstrap()
    ports = {"toy-1-aa": 9001, "toy-2-bb": 9002}
    write_clusters(tmp_path, ports, fallbacks_of("toy", HALF).values(), version="1")
    routes(tmp_path, **HALF.model_dump())
    done = subprocess.run([*gateway.command, "--mode", "validate"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_refusals_by_the_gateway_are_no_errors_of_the_service(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "gateway", free_port())
    gateway.write_bootstrap(starting=["toy"])
    name = cluster_name("toy", ONE)

    async def slow_service(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await asyncio.sleep(0.1)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                await writer.drain()
        writer.close()

    async def statuses() -> list[int]:
        service = await asyncio.start_server(slow_service, "127.0.0.1", 0)
        async with service, httpx.AsyncClient(base_url=gateway.url, timeout=20) as client:
            await _until_status(client, 503)
            write_clusters(gateway.folder, {name: service.sockets[0].getsockname()[1]}, version="1")
            state = {"toy": DesiredState(stable=ONE, weights={"stable": 100})}
            write_routes(gateway.folder, state, version="1", allowed_hosts=gateway.allowed_hosts)
            await _until_status(client, 200)
            # At most one connection to the service stands, so all other requests wait until theirs does.
            assert set(await _statuses_of_a_burst(gateway, REQUESTS_AT_ONCE)) == {200}
            return await _statuses_of_a_burst(gateway, 200)

    with running_envoy(gateway):
        found = asyncio.run(statuses())
        assert set(found) == {200, 503}
        counts = read_counts(gateway.folder, {name: 250}, tmp_path)[name]
        assert (counts.errors, counts.answers >= found.count(200)) == (0, True)


@pytest.mark.slow
def test_request_whose_service_ended_has_a_reason_of_its_own(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "gateway", free_port())
    gateway.write_bootstrap(starting=["toy"])

    async def ending_service(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while b"/readyz" in await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async def outcomes() -> tuple[Outcome, Outcome]:
        service = await asyncio.start_server(ending_service, "127.0.0.1", 0)
        client = GatewayClient(gateway.url, "toy", connections=1, timeout_seconds=20)
        async with service:
            await _until(client, lambda outcome: outcome.status == 503)
            starting = await client.ask("one", b"{}")
            write_clusters(gateway.folder, {cluster_name("toy", ONE): service.sockets[0].getsockname()[1]}, version="1")
            state = {"toy": DesiredState(stable=ONE, weights={"stable": 100})}
            write_routes(gateway.folder, state, version="1", allowed_hosts=gateway.allowed_hosts)
            ended = await _until(client, lambda outcome: outcome.kind == "failed")
        await client.close()
        return starting, ended

    with running_envoy(gateway):
        starting, ended = asyncio.run(outcomes())
    assert (starting.kind, starting.retry_seconds) == ("busy", 1)
    assert (ended.status, json.loads(ended.body)["error"]["reason"]) == (503, "interrupted")


async def _until(client: GatewayClient, wanted: Callable[[Outcome], bool]) -> Outcome:
    for _ in range(600):
        if wanted(outcome := await client.ask("one", b"{}")):
            return outcome
        await asyncio.sleep(0.05)
    pytest.fail(f"the gateway did not give the wanted outcome within 30 s, but {outcome}")


@pytest.mark.slow
@pytest.mark.parametrize("home_page", ["http://127.0.0.1:3001", "https://reports.example/platform"])
def test_first_page_redirects_to_the_home_page(tmp_path: Path, home_page: str) -> None:
    gateway = Gateway(tmp_path / "gateway", free_port(), home_page=home_page)
    gateway.write_bootstrap(starting=["toy"])

    async def answers() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=20) as client:
            await _until_status(client, 503)
            return [await client.get(path) for path in ("/", "/other")]

    with running_envoy(gateway):
        first, other = asyncio.run(answers())
    assert (first.status_code, other.status_code) == (302, 404)
    assert httpx.URL(first.headers["location"]) == httpx.URL(f"{home_page}/")


@pytest.mark.slow
def test_client_with_a_sticky_header_stays_on_one_version(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "gateway", free_port())
    gateway.write_bootstrap(starting=["toy"])

    async def answers() -> list[set[str]]:
        """Return the versions that answered each of 40 users, who ask three times over connections of their own."""
        async with AsyncExitStack() as stack:
            ports = {}
            for served in (ONE, TWO):
                service = await asyncio.start_server(partial(_answer, served.version), "127.0.0.1", 0)
                await stack.enter_async_context(service)
                ports[cluster_name("toy", served)] = service.sockets[0].getsockname()[1]
            client = await stack.enter_async_context(httpx.AsyncClient(base_url=gateway.url, timeout=20))
            await _until_status(client, 503)
            write_clusters(gateway.folder, ports, fallbacks_of("toy", HALF).values(), version="1")
            state = {"toy": HALF.model_copy(update={"sticky_by": "x-user"})}
            write_routes(gateway.folder, state, version="1", allowed_hosts=gateway.allowed_hosts)
            await _until_status(client, 200)
            return [
                {(await client.get("/v1/toy/predict", headers={"x-user": f"user-{user}"})).text for _ in range(3)}
                for user in range(40)
            ]

    with running_envoy(gateway):
        found = asyncio.run(answers())
    assert all(len(versions) == 1 for versions in found)
    assert set.union(*found) == {"1", "2"}


TOY_SERVICE = """
import http.server, sys, threading
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "1")
        self.end_headers()
        self.wfile.write(sys.argv[2].encode())
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
if len(sys.argv) > 3:
    server.handle_request()  # in a thread, which serves this connection until its end
    server.socket.close()
    threading.Event().wait()
else:
    server.serve_forever()
"""


@contextmanager
def toy_service(text: str, port: int, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a service that answers with ``text``, with options on its first connection only; yield its process."""
    quiet = subprocess.DEVNULL
    command = [sys.executable, "-c", TOY_SERVICE, str(port), text, *options]
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_requests_that_a_candidate_does_not_accept_are_answered_by_the_stable_version(tmp_path: Path) -> None:
    # The first connection is that of the health checks, so the candidate stays healthy.
    with candidate_at_half(tmp_path, "first connection only") as (gateway, client, _):
        before = _counts(gateway)
        assert _answers(client, 60) == {(200, "1"): 60}
        # The guard sees the requests that the candidate did not accept.
        lost = _counts(gateway).since(before)
        assert lost.errors > 0
        assert lost.errors == lost.answers


@pytest.mark.slow
def test_requests_to_a_candidate_that_hangs_are_answered_by_the_stable_version(tmp_path: Path) -> None:
    with candidate_at_half(tmp_path) as (gateway, client, candidate):
        until(lambda: _text(client) == "2")
        candidate.send_signal(signal.SIGSTOP)
        # Nothing tells a hanging service from a slow one before it misses its health checks.
        until(lambda: (_health(gateway, TWO), _health(gateway, ONE)) == ("unhealthy", "healthy"))
        before = _counts(gateway)
        assert _answers(client, 60) == {(200, "1"): 60}
        assert _counts(gateway).since(before).answers == 0


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["unavailable", "previous"])
def test_policy_without_a_healthy_version_holds_until_the_stable_version_is_back(tmp_path: Path, policy: Any) -> None:
    gateway = Gateway(tmp_path / "gateway", free_port())
    gateway.write_bootstrap(starting=["toy"])
    state = DesiredState(stable=TWO, weights={"stable": 100}, previous=ONE, previous_until=1)
    settings = ServingSettings(fallback=policy)
    ports = {cluster_name("toy", each): free_port() for each in (ONE, TWO)}
    previous_port, stable_port = ports.values()
    with (
        toy_service("1", previous_port),
        toy_service("2", stable_port) as stable,
        running_envoy(gateway),
        httpx.Client(base_url=gateway.url, timeout=20) as client,
    ):
        chains = fallbacks_of("toy", state, lambda _: settings).values()
        write_clusters(gateway.folder, ports, chains, version="1")
        until(lambda: (_health(gateway, ONE), _health(gateway, TWO)) == ("healthy", "healthy"))
        hosts = gateway.allowed_hosts
        write_routes(gateway.folder, {"toy": state}, version="1", allowed_hosts=hosts, settings_of=lambda _: settings)
        until(lambda: _text(client) == "2")
        stable.kill()
        stable.wait()
        found = _answers(client, 20)
        if policy == "previous":
            assert found == {(200, "1"): 20}
        else:
            assert {status for status, _ in found} == {503}
            assert client.get("/v1/toy/predict").headers["retry-after"] == "1"
        with toy_service("2", stable_port):
            until(lambda: _text(client) == "2")
            assert _answers(client, 20) == {(200, "2"): 20}


@contextmanager
def replicas_and_previous(
    folder: Path, *behaviour: str
) -> Iterator[tuple[Gateway, httpx.Client, "subprocess.Popen[bytes]"]]:
    """Run two replicas, "1" and "2", of a version whose fallback is "p"; yield gateway, client and the second one.

    ``behaviour`` is that of the replicas; see :func:`toy_service`.
    """
    gateway = Gateway(folder / "gateway", free_port())
    gateway.write_bootstrap(starting=["toy"])
    state = DesiredState(stable=TWO, weights={"stable": 100}, previous=ONE, previous_until=1)
    settings = ServingSettings(fallback="previous", replicas=ReplicaSettings(min=2))
    (name,) = fallbacks_of("toy", state, lambda _: settings).values()
    previous, *ports = [free_port() for _ in range(3)]
    with (
        toy_service("p", previous),
        toy_service("1", ports[0], *behaviour),
        toy_service("2", ports[1], *behaviour) as second,
        running_envoy(gateway),
        httpx.Client(base_url=gateway.url, timeout=20) as client,
    ):
        write_clusters(gateway.folder, {name[0]: ports, name[1]: previous}, [name], version="1")
        until(lambda: (_health(gateway, ONE), _health(gateway, TWO)) == ("healthy", "healthy"))
        hosts = gateway.allowed_hosts
        write_routes(gateway.folder, {"toy": state}, version="1", allowed_hosts=hosts, settings_of=lambda _: settings)
        yield gateway, client, second


@pytest.mark.slow
def test_request_to_a_killed_replica_is_answered_by_the_other_one_and_not_by_the_fallback(tmp_path: Path) -> None:
    with replicas_and_previous(tmp_path) as (gateway, client, killed):
        until(lambda: _text(client) in ("1", "2"))
        assert {text for _, text in _answers(client, 40)} == {"1", "2"}
        killed.kill()
        killed.wait()
        before = _counts(gateway)
        assert _answers(client, 40) == {(200, "1"): 40}
        # Some of them were refused first, which is no fault of the version: it answered.
        assert _counts(gateway).excused > before.excused
        assert (counted := _counts(gateway).since(before)).errors == 0
        assert counted.answers == 40


@pytest.mark.slow
def test_request_that_no_replica_accepts_is_an_error_of_the_version(tmp_path: Path) -> None:
    # The first connection is that of the health checks, so both stay healthy.
    with replicas_and_previous(tmp_path, "first connection only") as (gateway, client, _):
        until(lambda: _text(client) == "p")
        before = _counts(gateway)
        assert _answers(client, 20) == {(200, "p"): 20}
        lost = _counts(gateway).since(before)
        assert lost.errors > 0
        assert lost.errors == lost.answers


def test_cluster_of_replicas_takes_as_many_requests_as_they_do(tmp_path: Path) -> None:
    write_clusters(tmp_path, {"toy-1-aa": [9001, 9002], "toy-2-bb": 9003}, [["toy-2-bb", "toy-1-aa"]], version="1")
    assert read_clusters(tmp_path) == {"toy-1-aa": [9001, 9002], "toy-2-bb": [9003], "toy-2-bb>toy-1-aa": []}
    stored = json.loads((tmp_path / "clusters.json").read_text())["resources"]
    limits = [each["circuit_breakers"]["thresholds"][0]["max_connections"] for each in stored]
    assert limits == [2 * REQUESTS_AT_ONCE, REQUESTS_AT_ONCE, 2 * REQUESTS_AT_ONCE]
    assert [each.get("lb_policy") for each in stored] == ["LEAST_REQUEST", None, "CLUSTER_PROVIDED"]


def test_fallback_of_the_stable_version_is_as_declared() -> None:
    state = DesiredState(
        stable=TWO, candidate=ONE, weights={"stable": 50, "candidate": 50}, previous=ONE, previous_until=1
    )
    one, two = cluster_name("toy", ONE), cluster_name("toy", TWO)

    def chains(fallback: Any, **changes: Any) -> dict[str, list[str]]:
        settings = ServingSettings(fallback=fallback)
        return fallbacks_of("toy", state.model_copy(update=changes), lambda _: settings)

    assert chains("unavailable") == {"candidate": [one, two]}
    assert chains("previous") == {"stable": [two, one], "candidate": [one, two]}
    assert chains("previous", previous=None) == {"candidate": [one, two]}
    constant = Constant(constant=0.1)
    assert chains(constant) == {"stable": [two, CONSTANT_SERVICE], "candidate": [one, two, CONSTANT_SERVICE]}
    assert chains(constant, stable=None) == {}


@contextmanager
def candidate_at_half(folder: Path, *options: str) -> Iterator[tuple[Gateway, httpx.Client, "subprocess.Popen[bytes]"]]:
    """Run a gateway with two toy services, the candidate with ``options``; yield gateway, client and candidate."""
    gateway = Gateway(folder / "gateway", free_port())
    gateway.write_bootstrap(starting=["toy"])
    ports = {cluster_name("toy", each): free_port() for each in (ONE, TWO)}
    stable_port, candidate_port = ports.values()
    with (
        toy_service("1", stable_port),
        toy_service("2", candidate_port, *options) as candidate,
        running_envoy(gateway),
        httpx.Client(base_url=gateway.url, timeout=20) as client,
    ):
        write_clusters(gateway.folder, ports, fallbacks_of("toy", HALF).values(), version="1")
        until(lambda: (_health(gateway, ONE), _health(gateway, TWO)) == ("healthy", "healthy"))
        write_routes(gateway.folder, {"toy": HALF}, version="1", allowed_hosts=gateway.allowed_hosts)
        until(lambda: _text(client) in ("1", "2"))
        yield gateway, client, candidate


def _answers(client: httpx.Client, requests: int) -> Counter[tuple[int, str]]:
    found = [client.get("/v1/toy/predict") for _ in range(requests)]
    return Counter((each.status_code, each.text) for each in found)


def _counts(gateway: Gateway) -> ArmCounts:
    name = cluster_name("toy", TWO)
    return read_counts(gateway.folder, {name: 250}, gateway.folder)[name]


def _text(client: httpx.Client) -> str:
    with suppress(httpx.HTTPError):
        return client.get("/v1/toy/predict").text
    return ""


def _health(gateway: Gateway, served: ServedVersion) -> str:
    """Return whether the only instance of ``served`` is ``healthy``, ``unhealthy`` or ``unknown`` to the gateway."""
    try:
        dump = json.loads(query_gateway(gateway.folder, "/clusters?format=json", seconds=2))
    except OSError:
        return "unknown"
    for cluster in dump.get("cluster_statuses", []):
        if cluster["name"] == cluster_name("toy", served):
            failed = cluster["host_statuses"][0]["health_status"].get("failed_active_health_check", False)
            return "unhealthy" if failed else "healthy"
    return "unknown"


async def _answer(text: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode())
            await writer.drain()
    writer.close()


async def _statuses_of_a_burst(gateway: Gateway, requests: int) -> list[int]:
    """Return the statuses of ``requests`` that are sent at once over connections that stand."""
    streams = [await asyncio.open_connection(gateway.host, gateway.port) for _ in range(requests)]
    for _, writer in streams:
        writer.write(b"GET /v1/toy/predict HTTP/1.1\r\nhost: localhost\r\n\r\n")
    statuses = [int((await reader.readuntil(b"\r\n\r\n")).split()[1]) for reader, _ in streams]
    for _, writer in streams:
        writer.close()
    return statuses


async def _until_status(client: httpx.AsyncClient, status: int) -> None:
    for _ in range(600):
        with suppress(httpx.HTTPError):
            if (await client.get("/v1/toy/predict")).status_code == status:
                return
        await asyncio.sleep(0.05)
    pytest.fail(f"the gateway did not answer {status} within 30 s")
