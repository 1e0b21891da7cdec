"""The application of a service, called through ASGI without a server: limits, failures and metrics."""

import asyncio
import json
import logging
import math
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bento.app import Limits, PredictApp, ServiceConfig
from bento.predictor import Prediction, Predictor, calibration_function
from ml_platform.data.instants import microseconds_of
from ml_platform.data.lake import Lake
from ml_platform.errors import PlatformError
from ml_platform.features.served_features import ServedFeatures
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.features.view import FeatureView
from ml_platform.monitoring.log_lines import read_records
from ml_platform.monitoring.prediction_log import ingest_log_files, predictions_table
from ml_platform.serving.deprecation import Deprecation
from ml_platform.serving.request_contract import RequestContract, ValidRequest
from ml_platform.tasks.catalog import as_task
from ml_platform_tests.bento.conftest import VIEW
from ml_platform_tests.polling import until

CONTRACT = RequestContract.model_validate({"model": "toy", "fields": [{"name": "x", "type": "float"}]})


class HalvingModel:
    """Stands in for a loaded model: the score is half of x.

    x = 13 is a bug, x = 14 a missing snapshot, and x = 15 a row without facts.
    """

    contract = CONTRACT
    task = as_task("binary")
    store = SnapshotStore(Path("nothing is read"))
    views: Sequence[FeatureView] = ()

    def __init__(self, read: Callable[[datetime, int, float], ServedFeatures] | None = None) -> None:
        self._read = read

    def require_features(self) -> None:
        self.store.require(self.views)

    def predict_together(self, requests: Sequence[tuple[ValidRequest, datetime]]) -> list[Prediction]:
        return [self.predict(*each) for each in requests]

    def answers(self, prediction: Prediction, requested: object) -> list[dict[str, Any]]:
        return prediction.answers()

    def predict(self, request: ValidRequest, arrived_at: datetime) -> Prediction:
        rows = request.frame()
        if 13 in request.columns["x"]:
            raise ZeroDivisionError
        if 14 in request.columns["x"]:
            raise PlatformError("View 'delays'", expected="a snapshot", found="none", fix="Publish it.")
        times = np.full(rows.height, microseconds_of(arrived_at), dtype=np.int64)
        served = self._read(arrived_at, rows.height, 5.0) if self._read else cast(ServedFeatures, None)
        scores = (rows["x"] / 2).to_list()
        marks: list[dict[str, Any]] | None = None
        if 15 in request.columns["x"]:
            marks = [{"missing": ["view"]} if x == 15 else {} for x in request.columns["x"]]
        return Prediction(scores, [score >= 1 for score in scores], times, served, degraded=marks)


def app_of(log: Path | None = None, limits: Limits | None = None, read: Any = None) -> PredictApp:
    app = PredictApp(ServiceConfig("toy", "3", log), lambda: cast(Predictor, HalvingModel(read)), limits)
    app.start()
    return app


def ask(app: PredictApp, body: Any, method: str = "POST", path: str = "/v1/toy/predict", **keywords: Any) -> Any:
    async def request() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://toy") as client:
            content = body if isinstance(body, bytes) or hasattr(body, "__aiter__") else json.dumps(body).encode()
            return await client.request(method, path, content=content, **keywords)

    return asyncio.run(request())


def ask_lines(app: PredictApp, body: str) -> httpx.Response:
    found: httpx.Response = ask(app, body.encode(), headers={"content-type": "application/x-ndjson"})
    return found


def samples_of(page: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return the values of a page of metrics by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_few_and_many_rows_get_equal_predictions() -> None:
    app = app_of()
    few = ask(app, {"rows": [{"x": 3}]}).json()["predictions"]
    many = ask(app, {"rows": [{"x": 3}] * 50}).json()["predictions"]
    assert few == [{"score": 1.5, "label": True}]
    assert many == few * 50


def test_valid_request_id_is_kept_and_an_invalid_one_refused() -> None:
    app = app_of()
    assert ask(app, {"rows": [{"x": 1}]}, headers={"x-request-id": "abc"}).json()["request_id"] == "abc"
    for invalid in ("a b", "x" * 201, "tab\tid", ""):
        answer = ask(app, {"rows": [{"x": 1}]}, headers={"x-request-id": invalid})
        assert (answer.status_code, answer.json()["error"]["reason"]) == (400, "request_id")
        assert answer.json()["error"]["details"][0]["path"] == "header.x-request-id"
        assert answer.headers["x-request-id"] == answer.json()["request_id"] != invalid
    longest = "x" * 200
    assert ask(app, {"rows": [{"x": 1}]}, headers={"x-request-id": longest}).json()["request_id"] == longest


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "detail"),
    [
        ("POST", "/v1/toy/predict", {"content-type": "text/plain"}, 415, "header.content-type"),
        ("POST", "/v1/toy/predict", {"content-type": "application/x-www-form-urlencoded"}, 415, "header.content-type"),
        ("POST", "/v1/toy/predict", {"content-encoding": "gzip"}, 415, "header.content-encoding"),
        ("PUT", "/v1/toy/predict", {}, 405, "method"),
        ("POST", "/metrics", {}, 405, "method"),
        ("GET", "/nothing/" + "x" * 5_000, {}, 404, "path"),
    ],
)
def test_refusal_names_the_wrong_part_of_the_request(
    method: str, path: str, headers: dict[str, str], status: int, detail: str
) -> None:
    answer = ask(app_of(), {"rows": [{"x": 1}]}, method, path, headers=headers)
    assert answer.status_code == status
    (found,) = answer.json()["error"]["details"]
    assert found["path"] == detail
    assert found["expected"]
    assert len(answer.content) < 1_000


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "Application/JSON", None])
def test_json_is_accepted_with_and_without_its_content_type(kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    assert ask(app_of(), {"rows": [{"x": 1}]}, headers=headers).status_code == 200


@pytest.mark.parametrize("extension", [True, False])
def test_websocket_is_refused(extension: bool) -> None:
    app, sent = app_of(), []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "extensions": {"websocket.http.response": {}} if extension else {}}
    asyncio.run(app(scope, receive, send))
    if extension:
        assert sent[0]["status"] == 400
        assert json.loads(sent[1]["body"])["error"]["reason"] == "websocket"
    else:
        assert sent == [{"type": "websocket.close", "code": 1003}]


def test_requests_that_arrive_together_share_a_pass_and_one_that_fails_costs_no_other_its_answer() -> None:
    model = HalvingModel()
    app = PredictApp(ServiceConfig("toy", "3", None), lambda: cast(Predictor, model))
    app.start()
    passes: list[int] = []
    together = model.predict_together

    def counted(requests: Sequence[tuple[ValidRequest, datetime]]) -> list[Prediction]:
        passes.append(len(requests))
        return together(requests)

    model.predict_together = counted  # type: ignore[method-assign]

    async def all_at_once(values: Sequence[float]) -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://toy") as client:
            bodies = [json.dumps({"rows": [{"x": x}]}) for x in values]
            return await asyncio.gather(*(client.post("/v1/toy/predict", content=body) for body in bodies))

    answers = asyncio.run(all_at_once([1, 2, 13, 4]))
    assert [answer.status_code for answer in answers] == [200, 200, 500, 200]
    assert [answers[at].json()["predictions"][0]["score"] for at in (0, 1, 3)] == [0.5, 1.0, 2.0]
    assert passes == [4, 1, 1, 1, 1]
    passes.clear()
    assert asyncio.run(all_at_once([6]))[0].status_code == 200
    assert passes == [1]


def test_slow_body_does_not_take_the_place_of_a_complete_request() -> None:
    app = app_of(limits=Limits(requests_at_once=1))
    finished = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b'{"rows": '
        await finished.wait()
        yield b'[{"x": 1}]}'

    async def both() -> tuple[int, int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://toy") as client:
            waiting = asyncio.create_task(client.post("/v1/toy/predict", content=slow()))
            await asyncio.sleep(0)
            quick = await client.post("/v1/toy/predict", content=b'{"rows": [{"x": 1}]}')
            finished.set()
            return (await waiting).status_code, quick.status_code

    assert asyncio.run(both()) == (200, 200)


def test_service_without_online_features_is_not_ready_and_its_answer_names_no_file(tmp_path: Path) -> None:
    app = app_of()
    model = cast(HalvingModel, app.predictor)
    assert ask(app, b"", "GET", "/readyz").status_code == 200
    model.store = SnapshotStore(tmp_path)
    model.views = [VIEW]
    ready = ask(app, b"", "GET", "/readyz")
    assert (ready.status_code, str(tmp_path) in ready.text) == (503, False)


def test_row_of_a_degraded_prediction_is_marked() -> None:
    app = app_of()
    answer = ask(app, {"rows": [{"x": 1}, {"x": 15}]}).json()["predictions"]
    assert "degraded" not in answer[0]
    assert answer[1]["degraded"] == {"missing": ["view"]}


def test_requests_with_one_request_id_are_logged_as_different_predictions(tmp_path: Path, read: Any) -> None:
    app = app_of(tmp_path, read=read)
    answers = [ask(app, {"rows": [{"x": 1}, {"x": x}]}, headers={"x-request-id": "same"}) for x in (2, 3, 4)]
    app.stop()
    (file,) = tmp_path.glob("*.jsonl")
    logged = list(read_records(file))
    assert {line["request_id"] for line in logged} == {"same"}
    assert {answer.headers["x-request-id"] for answer in answers} == {"same"}
    # The header has the id of the first row; the last six digits are the row.
    first_ids = [answer.headers["x-prediction-id"] for answer in answers]
    assert [(line["prediction_id"], line["row"], line["score"]) for line in logged] == [
        (first_ids[0], 0, 0.5), (first_ids[0][:-1] + "1", 1, 1.0),
        (first_ids[1], 0, 0.5), (first_ids[1][:-1] + "1", 1, 1.5),
        (first_ids[2], 0, 0.5), (first_ids[2][:-1] + "1", 1, 2.0),
    ]  # fmt: skip
    assert len({line["prediction_id"] for line in logged}) == 6


def wait_for_written_rows(app: PredictApp, rows: int) -> None:
    until(lambda: ask(app, b"", "GET", "/healthz").json()["prediction_log"]["written_rows"] == rows)


def test_client_and_latency_of_a_request_are_in_log_and_table(tmp_path: Path, read: Any) -> None:
    app = app_of(tmp_path / "log", read=read)
    for number, name in enumerate(("shop", "Not a name", None)):
        headers = {} if name is None else {"x-ml-platform-client": name}
        ask(app, {"rows": [{"x": 1}, {"x": 2}]}, headers={"x-request-id": f"r{number}", **headers})
    lines = {"x-request-id": "r3", "x-ml-platform-client": "batch", "content-type": "application/x-ndjson"}
    assert ask(app, b'{"x": 1}\n{"x": 2}\n', headers=lines).status_code == 200
    app.stop()
    lake = Lake.standalone(tmp_path / "lake")
    ingest_log_files(lake, "toy", tmp_path / "log")
    stored = lake.scan(predictions_table("toy")).sort("request_id", "row").collect()
    assert stored["client"].to_list() == ["shop", "shop", None, None, None, None, "batch", "batch"]
    first, second, *_ = latencies = stored["latency_ms"].to_list()
    assert first == second  # of one request
    assert all(0 < latency < 60_000 for latency in latencies)


def test_lake_stores_each_prediction_once_while_its_file_grows(tmp_path: Path, read: Any) -> None:
    lake = Lake.standalone(tmp_path / "lake")
    app = app_of(tmp_path / "log", read=read)
    counts = []
    for x in (2, 3, 4):
        ask(app, {"rows": [{"x": x}]}, headers={"x-request-id": "same"})
        wait_for_written_rows(app, x - 1)
        ingested = ingest_log_files(lake, "toy", tmp_path / "log")
        counts.append((ingested.lines, ingested.added, ingested.duplicates, ingested.corrupt))
    app.stop()
    assert counts == [(1, 1, 0, 0)] * 3
    stored = lake.scan(predictions_table("toy")).sort("prediction_id").collect()
    assert stored.select("request_id", "score").rows() == [("same", 1.0), ("same", 1.5), ("same", 2.0)]


def test_openapi_document_describes_the_ids_in_the_headers_of_an_answer() -> None:
    app = app_of()
    operation = ask(app, b"", "GET", "/openapi.json").json()["paths"]["/v1/toy/predict"]["post"]
    (parameter,) = [each for each in operation["parameters"] if each["name"] == "x-request-id"]
    assert parameter["schema"]["maxLength"] == 200
    described = operation["responses"]["200"]["headers"]
    assert set(described) == {"x-request-id", "x-prediction-id"}
    headers = ask(app, {"rows": [{"x": 1}]}).headers
    assert set(described) <= set(headers)
    assert described["x-prediction-id"]["schema"]["format"] == "uuid"
    assert str(uuid.UUID(headers["x-prediction-id"])) == headers["x-prediction-id"]


def test_answers_and_refusals_of_a_deprecated_endpoint_say_until_when_it_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deprecated = Deprecation(since=date(2026, 11, 1), sunset=date(2027, 2, 1), link="https://models.example.org/next")
    monkeypatch.setattr(HalvingModel, "contract", CONTRACT.model_copy(update={"deprecated": deprecated}))
    app = app_of()
    expected = {
        "deprecation": "@1793491200",
        "sunset": "Mon, 01 Feb 2027 00:00:00 GMT",
        "link": '<https://models.example.org/next>; rel="deprecation"',
    }
    for body in ({"rows": [{"x": 1}]}, {"rows": [{"x": "text"}]}):
        assert expected.items() <= dict(ask(app, body).headers).items()
    assert "deprecation" not in ask(app, b"", "GET", "/readyz").headers
    operation = ask(app, b"", "GET", "/openapi.json").json()["paths"]["/v1/toy/predict"]["post"]
    assert operation["deprecated"] is True
    assert {"deprecation", "sunset"} <= set(operation["responses"]["200"]["headers"])
    monkeypatch.undo()
    assert "deprecation" not in ask(app_of(), {"rows": [{"x": 1}]}).headers


def test_lines_are_answered_and_logged_like_requests(tmp_path: Path, read: Any) -> None:
    app = app_of(tmp_path, read=read)
    lines = [json.dumps({"x": x % 11}) for x in range(600)]
    lines[300] = '{"y": 1}'
    answer = ask_lines(app, "\n".join(lines))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    found = [json.loads(line) for line in answer.text.splitlines()]
    assert [each.get("score") for each in found] == [None if x == 300 else x % 11 / 2 for x in range(600)]
    assert (found[300]["line"], found[300]["error"]["details"][0]["path"]) == (301, "rows[0].x")
    ids = [each["prediction_id"] for each in found if "score" in each]
    app.stop()
    (file,) = tmp_path.glob("*.jsonl")
    logged = list(read_records(file))
    assert sorted(line["prediction_id"] for line in logged) == sorted(ids)
    assert {line["request_id"] for line in logged} == {answer.headers["x-request-id"]}


def test_stream_whose_service_fails_ends_with_a_line_that_says_so(caplog: pytest.LogCaptureFixture) -> None:
    lines = [json.dumps({"x": 13 if number == 400 else 1}) for number in range(600)]
    *answered, last = ask_lines(app_of(), "\n".join(lines)).text.splitlines()
    assert len(answered) == 256
    assert json.loads(last)["error"]["status"] == 503
    assert "ZeroDivisionError" in caplog.text


class OpenStream:
    """A request of lines through ASGI, one event at a time; its body is not complete before ``finish``."""

    def __init__(self, app: PredictApp) -> None:
        self._body: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        scope = {
            "type": "http", "method": "POST", "path": "/v1/toy/predict",
            "headers": [(b"content-type", b"application/x-ndjson")],
        }  # fmt: skip
        self.task = asyncio.ensure_future(app(scope, self._body.get, cast(Any, self._sent.put)))

    def write(self, body: str, more: bool = True) -> None:
        self._body.put_nowait({"type": "http.request", "body": body.encode(), "more_body": more})

    def leave(self) -> None:
        self._body.put_nowait({"type": "http.disconnect"})

    async def status(self) -> int:
        return int((await self._sent.get())["status"])

    async def lines(self) -> list[Any]:
        """Return the lines of the next part of the answer."""
        body: bytes = (await self._sent.get())["body"]
        return [json.loads(line) for line in body.splitlines()]


def test_line_is_answered_before_the_next_one_is_sent() -> None:
    async def exchange() -> None:
        stream = OpenStream(app := app_of())
        for x in range(3):
            stream.write(json.dumps({"x": x}) + "\n{")
            if x == 0:
                assert await stream.status() == 200
                assert not stream.task.done()
            (answer,) = await stream.lines()
            assert answer["score"] == x / 2
            stream.write("wrong}\n")
            (refused,) = await stream.lines()
            assert (refused["line"], refused["error"]["status"]) == (2 * x + 2, 400)
        stream.write('{"x": 9}', more=False)
        assert [each["score"] for each in await stream.lines()] == [4.5]
        assert await stream.lines() == []
        await stream.task
        assert app._streams == 0

    asyncio.run(exchange())


def test_slow_body_is_refused_by_its_status_or_after_the_answers_that_it_got() -> None:
    async def exchange() -> None:
        app = app_of(limits=Limits(pause_seconds=0.05))
        silent = OpenStream(app)
        silent.write('{"x": 1}')
        assert await silent.status() == 408
        started = OpenStream(app)
        started.write('{"x": 1}\n{"x":')
        assert await started.status() == 200
        assert [each["score"] for each in await started.lines()] == [0.5]
        (last,) = await started.lines()
        assert (last["error"]["status"], last["error"]["reason"]) == (408, "slow")
        await started.task
        assert app._streams == 0

    asyncio.run(exchange())


def test_stream_of_a_client_that_left_ends_and_gives_its_places_back() -> None:
    async def exchange() -> None:
        app = app_of()
        stream = OpenStream(app)
        stream.write('{"x": 1}\n')
        assert await stream.status() == 200
        await stream.lines()
        stream.leave()
        await asyncio.wait_for(stream.task, 20)
        assert app._streams == 0

    asyncio.run(exchange())


def test_stream_takes_one_of_two_places_and_gives_it_back() -> None:
    app = app_of()
    app._streams = 2
    refused = ask_lines(app, '{"x": 1}')
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    app._streams = 0
    for body in ('{"x": 1}', "{", ""):
        assert ask_lines(app, body).status_code == 200
    assert app._streams == 0


def test_only_an_answer_with_predictions_has_a_prediction_id() -> None:
    app = app_of()
    assert "x-prediction-id" in ask(app, {"rows": [{"x": 1}]}).headers
    assert "x-prediction-id" not in ask(app, {"rows": [{"x": "text"}]}).headers
    assert "x-prediction-id" not in ask(app, b"", "GET", "/readyz").headers


def test_bug_gives_a_500_with_the_request_id_and_the_service_continues(caplog: pytest.LogCaptureFixture) -> None:
    app = app_of()
    with caplog.at_level(logging.ERROR):
        answer = ask(app, {"rows": [{"x": 13}]}, headers={"x-request-id": "bad-1"})
    assert (answer.status_code, answer.json()["request_id"]) == (500, "bad-1")
    assert "ZeroDivisionError" in caplog.text
    assert "ZeroDivisionError" not in answer.text
    assert ask(app, {"rows": [{"x": 1}]}).status_code == 200


def test_error_that_a_person_can_fix_gives_a_503_and_the_log_has_the_fix(caplog: pytest.LogCaptureFixture) -> None:
    answer = ask(app_of(), {"rows": [{"x": 14}]})
    assert (answer.status_code, answer.json()["error"]["reason"]) == (503, "unavailable")
    assert answer.headers["retry-after"] == "1"
    assert "Publish it." in caplog.text
    assert "Publish it." not in answer.text


async def _dripping(parts: list[bytes], pause: float) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
        await asyncio.sleep(pause)


def test_body_in_parts_is_joined_and_a_huge_one_rejected() -> None:
    app = app_of()
    assert ask(app, _dripping([b'{"rows":', b'[{"x":2}]}'], 0)).json()["predictions"][0]["score"] == 1.0
    assert ask(app, _dripping([b" " * 2**20] * 5, 0)).status_code == 413


def _conversation(app: PredictApp, receive: Any) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/v1/toy/predict", "method": "POST", "headers": []}
    asyncio.run(app(scope, receive, send))
    return sent


def test_body_that_does_not_arrive_times_out() -> None:
    async def never() -> Any:
        await asyncio.Event().wait()

    assert _conversation(app_of(limits=Limits(body_seconds=0.05)), never)[0]["status"] == 408


def test_requests_beyond_the_limit_are_rejected_with_retry_after() -> None:
    answer = ask(app_of(limits=Limits(requests_at_once=0)), {"rows": [{"x": 1}]})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")


def test_client_at_its_limit_is_refused_while_others_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    app, waiting = app_of(), threading.Event()

    def predict(request: ValidRequest, arrived_at: datetime) -> Prediction:
        waiting.wait(30)
        return HalvingModel().predict(request, arrived_at)

    monkeypatch.setattr(app.predictor, "predict", predict)
    large, small = (json.dumps({"rows": [{"x": 1}] * rows}).encode() for rows in (50, 1))

    def headers(client: str, limit: str) -> dict[str, str]:
        return {"x-ml-platform-client": client, "x-ml-platform-client-concurrency": limit}

    async def requests() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://toy") as client:

            def post(body: bytes, sent: dict[str, str]) -> asyncio.Task[httpx.Response]:
                return asyncio.create_task(client.post("/v1/toy/predict", content=body, headers=sent))

            slow = [post(large, headers("greedy", "2")) for _ in range(2)]
            while app.in_flight < 2:
                await asyncio.sleep(0)
            refused = await post(large, headers("greedy", "2"))
            waiting.set()
            others = [await post(small, sent) for sent in (headers("calm", "1"), {}, headers("odd", "many"))]
            return [refused, *others, *[await each for each in slow], await post(small, headers("greedy", "2"))]

    refused, *answered = asyncio.run(requests())
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    error = refused.json()["error"]
    assert (error["reason"], error["details"][0]["path"]) == ("concurrency", "header.x-api-key")
    assert [each.status_code for each in answered] == [200] * 6
    assert app._clients._taken == {}  # no client is remembered


def test_prediction_that_takes_too_long_times_out() -> None:
    answer = ask(app_of(limits=Limits(answer_seconds=0.0)), {"rows": [{"x": 1}] * 50})
    assert (answer.status_code, answer.json()["error"]["reason"]) == (503, "timeout")


def test_metrics_count_rows_errors_and_feature_ages(tmp_path: Path, read: Any) -> None:
    app = app_of(tmp_path, read=read)
    ask(app, {"rows": [{"x": 1}, {"x": 3}]})
    ask(app, b"{")
    app.stop()
    own = {"model": "toy", "version": "3"}
    samples = samples_of(ask(app, b"", "GET", "/metrics").text)
    assert samples["ml_platform_predictions_total", frozenset(own.items())] == 2
    assert samples["ml_platform_request_seconds_count", frozenset(own.items())] == 1
    for name, labels, value in [
        ("ml_platform_error_responses_total", {"reason": "json"}, 1),
        ("ml_platform_prediction_labels_total", {"label": "true"}, 1),
        ("ml_platform_feature_age_minutes", {"view": "view"}, 5),
        ("ml_platform_feature_missing_rows_total", {"view": "view"}, 0),
    ]:
        assert samples[name, frozenset((own | labels).items())] == value, name


def test_view_without_facts_counts_its_rows_as_missing_and_has_no_age(tmp_path: Path, read: Any) -> None:
    def stale(at: datetime, rows: int, minutes: float) -> ServedFeatures:
        served: ServedFeatures = read(at, rows, minutes)
        served.ages_minutes[:] = np.nan
        return served

    app = app_of(tmp_path, read=stale)
    ask(app, {"rows": [{"x": 1}, {"x": 3}]})
    app.stop()
    samples = samples_of(ask(app, b"", "GET", "/metrics").text)
    own = frozenset({"model": "toy", "version": "3", "view": "view"}.items())
    assert samples["ml_platform_feature_missing_rows_total", own] == 2
    # The rows of one request are not independent, so the comparison of two versions counts one of them.
    service = frozenset({"model": "toy", "version": "3"}.items())
    names = ("ml_platform_sampled_reads_total", "ml_platform_sampled_missing_total", "ml_platform_sampled_score_count")
    assert [samples[name, service] for name in names] == [1, 1, 1]
    assert math.isnan(samples["ml_platform_feature_age_minutes", own])


def test_open_inference_request_is_answered_like_one_of_the_own_form(tmp_path: Path) -> None:
    app = app_of(tmp_path)
    tensors = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [2], "data": [1, 3]}], "id": "7"}
    for path in ("/v2/models/toy/infer", "/v2/models/toy/versions/3/infer"):
        answer = ask(app, tensors, path=path)
        assert (answer.status_code, answer.headers["x-prediction-id"][-6:]) == (200, "000000")
        outputs = {each["name"]: each["data"] for each in answer.json()["outputs"]}
        assert outputs["score"] == [0.5, 1.5]
        assert (answer.json()["model_name"], answer.json()["model_version"], answer.json()["id"]) == ("toy", "3", "7")
    wrong = ask(app, {"inputs": [{**tensors["inputs"][0], "datatype": "BYTES"}]}, path="/v2/models/toy/infer")  # type: ignore[dict-item]
    assert wrong.status_code == 422
    assert "inputs[0].datatype" in wrong.json()["error"]
    many_digits = {"inference-header-content-length": "1" * 5000}
    assert ask(app, b"{", path="/v2/models/toy/infer", headers=many_digits).status_code == 400
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/toy", "/v2/models/toy/versions/3/ready"):
        assert ask(app, b"", "GET", path).status_code == 200, path
    assert ask(app, b"", "GET", "/v2/models/other").status_code == 404
    app.stop()
    assert ask(app, b"", "GET", "/v2/models/toy/ready").status_code == 503


def test_recent_scores_are_those_of_one_row_of_each_request(tmp_path: Path, read: Any) -> None:
    app = app_of(tmp_path, read=read)
    ask(app, {"rows": [{"x": 1}, {"x": 3}]}, headers={"x-request-id": "one"})
    ask(app, {"rows": [{"x": 1}]}, headers={"x-request-id": "two"})
    app.stop()
    page = json.loads(ask(app, b"", "GET", "/recent_scores").text)
    assert page["requests"] == 2
    (first, first_score), (second, second_score) = page["scores"]
    assert first_score in (0.5, 1.5)
    assert second_score == 0.5
    assert "one" not in first
    assert first != second


def test_readiness_follows_start_and_stop() -> None:
    app = PredictApp(ServiceConfig("toy", "3", None), lambda: cast(Predictor, HalvingModel()))
    assert ask(app, b"", "GET", "/readyz").status_code == 503
    assert ask(app, {"rows": [{"x": 1}]}).status_code == 503
    app.start()
    assert ask(app, b"", "GET", "/readyz").status_code == 200
    app.stop()
    assert ask(app, b"", "GET", "/readyz").status_code == 503


def test_failing_prediction_log_is_visible_and_the_service_continues(tmp_path: Path, read: Any) -> None:
    (tmp_path / "file").touch()
    app = app_of(tmp_path / "file" / "log", read=read)
    assert ask(app, b"", "GET", "/readyz").text == "ready\n"
    assert ask(app, {"rows": [{"x": 1}, {"x": 3}]}).status_code == 200
    state = until(lambda: (now := ask(app, b"", "GET", "/healthz").json())["status"] == "degraded" and now)
    log = state["prediction_log"]
    assert (log["state"], log["error"], log["dropped_rows"], log["written_rows"]) == (
        "failing",
        "Not a directory",
        2,
        0,
    )
    readiness = ask(app, b"", "GET", "/readyz")
    expected = "ready; prediction_log failing: Not a directory; 2 rows dropped\n"
    assert (readiness.status_code, readiness.text) == (200, expected)
    own = frozenset({"model": "toy", "version": "3"}.items())
    samples = samples_of(ask(app, b"", "GET", "/metrics").text)
    names = ("failing", "written_rows", "dropped_rows", "unconfirmed_rows", "pending_rows")
    assert [samples[f"ml_platform_prediction_log_{name}", own] for name in names] == [1, 0, 2, 0, 0]
    (tmp_path / "file").unlink()
    assert ask(app, {"rows": [{"x": 1}]}).status_code == 200
    state = until(lambda: (now := ask(app, b"", "GET", "/healthz").json())["status"] == "ok" and now)
    assert (state["prediction_log"]["written_rows"], state["prediction_log"]["dropped_rows"]) == (1, 2)
    assert ask(app, b"", "GET", "/readyz").text == "ready\n"
    samples = samples_of(ask(app, b"", "GET", "/metrics").text)
    assert [samples[f"ml_platform_prediction_log_{name}", own] for name in names] == [0, 1, 2, 0, 0]
    app.stop()


def test_health_of_a_service_without_a_log_and_before_its_start() -> None:
    app = PredictApp(ServiceConfig("toy", "3", None), lambda: cast(Predictor, HalvingModel()))
    assert ask(app, b"", "GET", "/healthz").json() == {"status": "starting or stopping", "prediction_log": None}
    app.start()
    assert ask(app, b"", "GET", "/healthz").json() == {"status": "ok", "prediction_log": None}
    assert ask(app, b"", "GET", "/livez").text == "ok\n"


def test_docs_page_names_the_fields_and_loads_nothing() -> None:
    page = ask(app_of(), b"", "GET", "/").text
    assert "<code>x</code>" in page
    assert "<script" not in page
    assert "//" not in page.replace("<!doctype", "")


def test_calibration_follows_isotonic_knots_and_platt() -> None:
    score = np.array([0.1, 0.5, 0.75])
    knots = calibration_function({"method": "isotonic", "x": [0.5, 1.0], "y": [0.2, 0.4]})
    assert knots(score).tolist() == pytest.approx([0.2, 0.2, 0.3])
    platt = calibration_function({"method": "platt", "slope": 2.0, "intercept": 0.0})
    assert platt(score).tolist() == pytest.approx([1 / 82, 0.5, 0.9])
    assert calibration_function({"method": "none"})(score) is score
