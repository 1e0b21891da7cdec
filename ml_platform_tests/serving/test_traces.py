"""One trace from the gateway through the service to the row of the prediction log, in a real collector."""

from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
import pytest

from ml_platform.data.traces import (
    ENDPOINT_VARIABLE,
    SHARE_VARIABLE,
    TraceSettingError,
    collector_address,
    sampled_share,
)
from ml_platform.monitoring.log_lines import read_records
from ml_platform.serving.desired_state import DesiredState, ServedVersion
from ml_platform.serving.gateway import Gateway
from ml_platform.serving.gateway_clusters import cluster_name, write_clusters
from ml_platform.serving.processes import free_port
from ml_platform_tests.bento.conftest import served_features
from ml_platform_tests.bento.test_app import app_of, ask
from ml_platform_tests.collector import listening, running_collector
from ml_platform_tests.polling import until
from ml_platform_tests.serving.conftest import running_envoy

ONE = ServedVersion(version="3", bento="bentos/toy/3-aa")
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"
NAMES = {"ingress", "router toy-3-aa egress", "predict", "read features"}
ROW = {"rows": [{"x": 1}]}
REQUESTS = {
    "begun": {},
    "continued": {"traceparent": f"{PARENT}-01"},
    "not-sampled": {"traceparent": f"{PARENT}-00"},
}


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/v1/toy/openapi.json").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.slow
def test_request_has_one_trace_from_the_gateway_to_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_collector() as collector:
        monkeypatch.setenv(ENDPOINT_VARIABLE, collector.address)
        gateway = Gateway(tmp_path / "gateway", free_port(), traces=collector.address, trace_share=1.0)
        gateway.write_bootstrap()
        log = tmp_path / "log"
        port = free_port()
        with listening(app_of(log, read=served_features), port), running_envoy(gateway):
            write_clusters(gateway.folder, {cluster_name("toy", ONE): port}, version="1")
            gateway.write_routes({"toy": DesiredState(stable=ONE, weights={"stable": 100})}, version="1")
            with httpx.Client(base_url=gateway.url, timeout=20) as client:
                until(lambda: answers(client))
                for name, headers in REQUESTS.items():
                    answer = client.post("/v1/toy/predict", json=ROW, headers={"x-request-id": name, **headers})
                    assert answer.status_code == 200
            # Envoy sends its spans five at a time, or after five seconds.
            until(lambda: {each.name for each in collector.spans() if each.trace_id in PARENT} == NAMES)
        spans = collector.spans()
    records = {each["request_id"]: each for file in log.glob("*.jsonl") for each in read_records(file)}
    for name in ("begun", "continued"):
        trace = records[name]["trace_id"]
        own = {each.span_id: each for each in spans if each.trace_id == trace}
        (predict,) = (each for each in own.values() if each.name == "predict")
        (read,) = (each for each in own.values() if each.name == "read features")
        assert predict.attributes["ml_platform.prediction_id"] == records[name]["prediction_id"]
        assert predict.attributes["ml_platform.request_id"] == name
        assert (read.parent_id, predict.started_at <= read.started_at <= read.ended_at) == (predict.span_id, True)
        upstream = own[predict.parent_id]
        assert (upstream.service, own[upstream.parent_id].service) == ("gateway", "gateway")
    assert records["continued"]["trace_id"] == PARENT.split("-")[1]
    assert records["begun"]["trace_id"] != records["continued"]["trace_id"]


def test_without_a_collector_the_row_has_the_trace_of_its_client(tmp_path: Path) -> None:
    app = app_of(tmp_path, read=served_features)
    for name, headers in {**REQUESTS, "wrong": {"traceparent": "00-1-2-3"}}.items():
        ask(app, ROW, headers={"x-request-id": name, **headers})
    app.stop()
    records = [each for file in tmp_path.glob("*.jsonl") for each in read_records(file)]
    trace = PARENT.split("-")[1]
    assert {each["request_id"]: each["trace_id"] for each in records} == {
        "begun": None,
        "continued": trace,
        "not-sampled": trace,
        "wrong": None,
    }


@pytest.mark.parametrize(
    ("read", "variable", "value"),
    [
        (collector_address, ENDPOINT_VARIABLE, "127.0.0.1:4318"),
        (collector_address, ENDPOINT_VARIABLE, "grpc://collector:4317"),
        (sampled_share, SHARE_VARIABLE, "10%"),
        (sampled_share, SHARE_VARIABLE, "1.5"),
    ],
)
def test_wrong_setting_is_named(read: Callable[[Mapping[str, str]], object], variable: str, value: str) -> None:
    with pytest.raises(TraceSettingError, match=f"{variable}: expected"):
        read({variable: value})
