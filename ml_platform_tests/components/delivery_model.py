"""A small complete model of a test domain: deliveries of three shops, which are late by distance and by shop."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from ml_platform.components.model.component import Model
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.features.view import FeatureView

MONTHS = ("2013-01", "2013-02", "2013-03", "2013-04")
PER_DAY = 30
FUNCTIONS = "assets.shop_deliveries"
"""Importable while `DOMAIN` is on the path of `assets`."""

DOMAIN = Path(__file__).parent / "delivery_domain"


def deliveries(month: str, weight: float = 2.0) -> pl.DataFrame:
    """Return the deliveries of ``month``: 30 per day for 28 days, each arriving two hours after the order.

    ``weight`` is the effect of the distance on the log-odds of a late delivery.
    """
    random = np.random.default_rng(int(month.replace("-", "")))
    start = datetime.fromisoformat(f"{month}-01").replace(tzinfo=UTC)
    rows = 28 * PER_DAY
    shop, distance = random.integers(0, 3, rows), random.normal(size=rows)
    chance = 1 / (1 + np.exp(-(-1.0 + weight * distance + 0.8 * (shop - 1))))
    ordered = [start + timedelta(days=n // PER_DAY, hours=8, minutes=20 * (n % PER_DAY)) for n in range(rows)]
    return pl.DataFrame(
        {
            "delivery": [f"{month}-{number:04}" for number in range(rows)],
            "shop": [f"s{one}" for one in shop],
            "distance": distance,
            "ordered_at": pl.Series(ordered, dtype=pl.Datetime("us", "UTC")),
            "came_at": pl.Series([at + timedelta(hours=2) for at in ordered], dtype=pl.Datetime("us", "UTC")),
            "late": (random.random(rows) < chance).astype(np.int8),
            "minutes": 10 * distance + 3 * shop + 2 * random.normal(size=rows),
        }
    )


def delivery_model(**changes: object) -> ModelAssets:
    """Return the declared model, with ``changes`` of its attributes."""
    declared = {
        "name": "late",
        "description": "Whether a delivery comes late",
        "owners": ["team:shops"],
        "target": "comes late",
        "partitions": {"start": "2013-01", "end": "2013-12", "time_zone": "UTC"},
        "examples": {"function": f"{FUNCTIONS}:examples", "sources": ["deliveries"]},
        "request": [
            {"name": "shop", "type": "string"},
            {"name": "distance", "type": "float"},
            {"name": "ordered_at", "type": "datetime"},
        ],
        "prediction_time": {"field": "ordered_at"},
        "features": ["shops", "order", "when"],
        "trainers": {"lightgbm": {"trainer": "lightgbm", "settings": {"max_rounds": 30, "num_threads": 1}}},
        "evaluation": {"slices": ["shop"], "request_only": ["when"], "bootstrap": {"resamples": 200}},
        "gates": [
            {"type": "paired_test", "metric": "log_loss", "margin": 0.05},
            {"type": "metric_limit", "metric": "auc", "limit": 0.6},
            {"type": "leak"},
            {"type": "contract"},
            {"type": "latency", "maximum_p99_ms": 10_000},
        ],
    }
    return ModelAssets(Model.model_validate(declared | changes), VIEWS)


def delivery_minutes_model() -> ModelAssets:
    """Return a regression of the delay in minutes, with a gate on the coverage of its intervals."""
    return delivery_model(
        name="minutes",
        target="minutes late",
        task="regression",
        examples={"function": f"{FUNCTIONS}:minutes_late", "sources": ["deliveries"]},
        trainers={"lightgbm": {"interval": 0.8, "refit": False, "settings": {"max_rounds": 300, "num_threads": 1}}},
        evaluation={"request_only": ["when"], "primary_metric": "rmse", "bootstrap": {"resamples": 200}},
        gates=[
            {"type": "paired_test", "metric": "rmse", "margin": 0.05},
            {"type": "baseline", "metric": "mae"},
            {"type": "metric_limit", "metric": "coverage", "limit": 0.7},
            {"type": "leak"},
            {"type": "contract"},
            {"type": "latency", "maximum_p99_ms": 10_000},
        ],
    )


def delivery_speed_model() -> ModelAssets:
    """Return a model of three classes of speed, with a gate on the share of right answers."""
    return delivery_model(
        name="speed",
        target="class of speed",
        task="multiclass",
        examples={"function": f"{FUNCTIONS}:speed", "sources": ["deliveries"]},
        gates=[
            {"type": "paired_test", "metric": "log_loss", "margin": 0.05},
            {"type": "metric_limit", "metric": "accuracy", "limit": 0.6},
            {"type": "leak"},
            {"type": "contract"},
            {"type": "latency", "maximum_p99_ms": 10_000},
        ],
    )


def delivery_quantiles_model() -> ModelAssets:
    """Return a model of quantiles of the delay, beside a naive forecast that is wrong: the distance of the order."""
    return delivery_model(
        name="quantiles",
        target="minutes late",
        task={"type": "quantile", "levels": [0.2, 0.5, 0.8], "season_feature": "order__distance"},
        examples={"function": f"{FUNCTIONS}:minutes_late", "sources": ["deliveries"]},
        gates=[
            {"type": "paired_test", "metric": "pinball", "margin": 0.05},
            {"type": "baseline", "metric": "pinball", "required": ["seasonal_naive"]},
            {"type": "metric_limit", "metric": "mase", "limit": 0.95},
            {"type": "leak"},
            {"type": "contract"},
            {"type": "latency", "maximum_p99_ms": 10_000},
        ],
    )


VIEWS = [
    FeatureView.model_validate(
        {
            "name": "shops",
            "entity": ["shop"],
            "function": f"{FUNCTIONS}:lateness",
            "sources": [{"dataset": "deliveries", "available_from": {"came_at": ["came_at", "shop", "late"]}}],
            "features": [{"name": "last_late", "description": "Whether the last delivery came late"}],
        }
    ),
    FeatureView.model_validate(
        {
            "name": "order",
            "kind": "request",
            "function": f"{FUNCTIONS}:order_distance",
            "fields": ["distance"],
            "features": [{"name": "distance", "description": "Distance to the customer", "unit": "km"}],
        }
    ),
    FeatureView.model_validate(
        {
            "name": "when",
            "kind": "request",
            "function": f"{FUNCTIONS}:order_hour",
            "fields": ["ordered_at"],
            "features": [{"name": "hour", "description": "Hour of the day"}],
        }
    ),
]
