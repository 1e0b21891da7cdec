"""The application of a service, called through ASGI without a server: limits, failures and metrics."""

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import polars as pl
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bento.app import Limits, PredictApp, ServiceConfig
from bento.predictor import Prediction, Predictor, calibration_function
from ml_platform.errors import PlatformError
from ml_platform.features.served_features import ServedFeatures
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.serving.request_contract import RequestContract, ValidRequest

CONTRACT = RequestContract.model_validate({"model": "toy", "fields": [{"name": "x", "type": "float"}]})


class HalvingModel:
    """Stands in for a loaded model: the score is half of x; x = 13 is a bug, and x = 14 a missing snapshot."""

    contract = CONTRACT
    store = SnapshotStore(Path("nothing is read"))

    def __init__(self, read: Callable[[datetime, int, float], ServedFeatures] | None = None) -> None:
        self._read = read

    def predict(self, request: ValidRequest, arrived_at: Any) -> Prediction:
        rows = request.frame()
        if 13 in request.columns["x"]:
            raise ZeroDivisionError
        if 14 in request.columns["x"]:
            raise PlatformError("View 'delays'", expected="a snapshot", found="none", fix="Publish it.")
        times = pl.Series("predict_at", [arrived_at] * rows.height, dtype=pl.Datetime("us", "UTC"))
        served = self._read(arrived_at, rows.height, 5.0) if self._read else cast(ServedFeatures, None)
        scores = (rows["x"] / 2).to_list()
        return Prediction(scores, [score >= 1 for score in scores], rows.with_columns(times), served)


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


def test_valid_request_id_is_kept_and_an_invalid_one_replaced() -> None:
    app = app_of()
    assert ask(app, {"rows": [{"x": 1}]}, headers={"x-request-id": "abc"}).json()["request_id"] == "abc"
    assert len(ask(app, {"rows": [{"x": 1}]}, headers={"x-request-id": "a b"}).json()["request_id"]) == 32


def test_bug_gives_a_500_with_the_request_id_and_the_service_continues(caplog: pytest.LogCaptureFixture) -> None:
    app = app_of()
    with caplog.at_level(logging.ERROR):
        answer = ask(app, {"rows": [{"x": 13}]}, headers={"x-request-id": "bad-1"})
    assert (answer.status_code, answer.json()["request_id"]) == (500, "bad-1")
    assert "ZeroDivisionError" in caplog.text
    assert "ZeroDivisionError" not in answer.text
    assert ask(app, {"rows": [{"x": 1}]}).status_code == 200


def test_error_that_a_person_can_fix_gives_a_503_with_the_fix() -> None:
    answer = ask(app_of(), {"rows": [{"x": 14}]})
    assert (answer.status_code, answer.json()["error"]["reason"]) == (503, "unavailable")
    assert "Publish it." in answer.json()["error"]["message"]


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
    assert math.isnan(samples["ml_platform_feature_age_minutes", own])


def test_readiness_follows_start_and_stop() -> None:
    app = PredictApp(ServiceConfig("toy", "3", None), lambda: cast(Predictor, HalvingModel()))
    assert ask(app, b"", "GET", "/readyz").status_code == 503
    assert ask(app, {"rows": [{"x": 1}]}).status_code == 503
    app.start()
    assert ask(app, b"", "GET", "/readyz").status_code == 200
    app.stop()
    assert ask(app, b"", "GET", "/readyz").status_code == 503


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
