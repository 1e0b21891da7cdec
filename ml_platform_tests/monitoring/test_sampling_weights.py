"""Estimates from sampled predictions are unbiased, and tables without weights are read as before."""

import random
from datetime import timedelta
from pathlib import Path

import polars as pl

from bento.log_sampling import is_kept
from ml_platform.monitoring.log_lines import PREDICTION_SCHEMA
from ml_platform.monitoring.logged_nulls import logged_features
from ml_platform.monitoring.performance import PerformanceSettings, measure_period
from ml_platform.monitoring.prediction_log import pair_by_role, predictions_table
from ml_platform.monitoring.sampling_weights import equally_weighted, total_weight
from ml_platform_tests.monitoring.prediction_history import JULY, MODEL, PredictionHistory, measure

ROWS, SHARE = 40_000, 0.1


def stream(share: float, base_rate: float, name: str) -> pl.DataFrame:
    """Return what a log with ``share`` keeps of :data:`ROWS` outcomes with ``base_rate``."""
    chance = random.Random(name)
    outcomes = [float(chance.random() < base_rate) for _ in range(ROWS)]
    kept = [number for number in range(ROWS) if is_kept(f"{name}{number}", [{"x": number}], share)]
    return pl.DataFrame(
        {
            "request_id": [f"{name}{number}" for number in kept],
            "predict_at": [JULY + timedelta(seconds=number) for number in kept],
            "score": [0.5] * len(kept),
            "outcome": [outcomes[number] for number in kept],
            "weight": [1 / share] * len(kept),
        }
    )


def test_performance_of_a_stream_whose_share_changed_is_that_of_all_requests() -> None:
    rows = pl.concat([stream(1.0, 0.2, "before"), stream(SHARE, 0.6, "after")])
    settings = PerformanceSettings(period="1mo", minimum_days=1)
    known_by = JULY + timedelta(days=40)

    def rate(labelled: pl.DataFrame) -> dict[str, float]:
        return {"rate": float(labelled["outcome"].to_numpy().mean())}

    period = measure_period(JULY, "1", rows, rate, settings, known_by)
    assert abs(period.predictions - 2 * ROWS) < 5 * 600  # the standard error of the sampled half
    assert period.predictions == period.labelled
    assert period.base_rate == period.metrics["rate"]
    # About 8,000 rows of equal weight; without weights the rate would be 0.24.
    assert abs(period.metrics["rate"] - 0.4) < 5 * 0.0055
    assert rows["outcome"].mean() < 0.27  # type: ignore[operator]


def test_rows_of_equal_weight_all_stay_and_arms_stay_pairs() -> None:
    rows = stream(SHARE, 0.5, "a")
    assert equally_weighted(rows, ["request_id"]).equals(rows)
    assert total_weight(rows.drop("weight")) == rows.height
    mixed = pl.concat([rows, stream(1.0, 0.5, "b")])
    arms = [equally_weighted(mixed.with_columns(score=pl.lit(score)), ["request_id"]) for score in (0.1, 0.9)]
    assert arms[0]["request_id"].to_list() == arms[1]["request_id"].to_list()
    assert arms[0].height < mixed.height / 2


def test_weights_are_stored_and_a_table_of_an_earlier_release_gets_them(tmp_path: Path) -> None:
    history = PredictionHistory(tmp_path / "current")
    old = {name: dtype for name, dtype in PREDICTION_SCHEMA.items() if name not in ("client", "latency_ms", "weight")}
    history.predict(1, 2, score=0.5)
    history.ingest()
    rows = history.predictions()
    table = predictions_table(MODEL)
    earlier = PredictionHistory(tmp_path / "earlier")
    earlier.lake.write(table, rows.select(list(old)), "2026-01-01")
    earlier.land("2013-07", {1: 1, 2: 0, 3: 1})
    earlier.known_by = JULY + timedelta(days=1)
    earlier.predict(3, weight=1.0, prediction_id="new", score=0.5)
    earlier.ingest()
    assert earlier.predictions()["weight"].to_list() == [1.0, 1.0, 1.0]
    assert earlier.join() == 3
    earlier.predict(3, 4, weight=10.0, score=0.5, file="b", prediction_id="sampled")
    ingested = earlier.ingest()
    assert (ingested.rows, ingested.represented) == (4, 13)
    stored = dict(earlier.predictions().select("prediction_id", "weight").rows())
    assert stored == {"p000001": 1.0, "p000002": 1.0, "new": 1.0, "sampled": 10.0}
    assert pl.scan_delta(earlier.lake.delta_address(table)).collect().height == 4
    # The copied predictions keep their outcomes.
    assert earlier.join() == 1
    (period,) = earlier.periods(measure())
    assert (period.predictions, period.labelled) == (12, 12)


def test_pairs_of_stored_arms_stay_pairs(tmp_path: Path) -> None:
    history = PredictionHistory(tmp_path)
    for role in ("stable", "shadow"):
        for number in range(50):
            if is_kept(f"q{number}", [{"flight": number}], 0.5):
                history.predict(number, role=role, request_id=f"q{number}", weight=2.0)
    history.ingest()
    pairs = pair_by_role(history.predictions(), "stable", "shadow")
    assert 2 * pairs.height == history.predictions().height > 0


def test_nulls_of_logged_features_are_those_of_all_requests() -> None:
    def part(name: str, rows: int, weight: float, value: str) -> pl.LazyFrame:
        return pl.LazyFrame(
            {
                "prediction_id": [f"{name}{number}" for number in range(rows)],
                "predict_at": [JULY] * rows,
                "features": [value] * rows,
                "weight": [weight] * rows,
            }
        )

    parts = [part("a", 2_000, 1.0, '{"x": null}'), part("b", 200, 10.0, '{"x": 1.0}')]
    found = logged_features(parts, JULY, JULY + timedelta(days=1), rows=10_000, seed=0)
    # Half of 4,000 requests, from about 200 rows each.
    assert abs(found["x"].is_null().mean() - 0.5) < 5 * 0.02  # type: ignore[operator]
