"""The curve of quality against delay equals scores on features that are found by reading every fact."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.data.arrival import Arrival
from ml_platform.data.lake import PARTITION
from ml_platform.evaluation.evidence import CANDIDATE, Evidence
from ml_platform.features.materialize import materialize
from ml_platform.steps.candidates import build_training_sets
from ml_platform.steps.freshness import DECLARED, curve_delays, curve_table, flat_curve, freshness_curve
from ml_platform.tasks.binary import BinaryTask
from ml_platform.tasks.metrics import score
from ml_platform_tests.components.delivery_home import PlatformFixture, open_platform
from ml_platform_tests.components.delivery_model import deliveries, delivery_model

MONTH = "2013-01"
HOURLY = Arrival(every="hour", delay="15m")
ROWS = deliveries(MONTH).head(300)


class LastLate:
    """A model whose score is one feature, so that the score shows which fact was read."""

    task = BinaryTask()

    def predict(self, rows: pl.DataFrame) -> np.ndarray:
        return rows["shops__last_late"].fill_null(0.5).cast(pl.Float64).to_numpy() * 0.8 + 0.1


def model(*arrivals: Arrival, **evaluation: Any) -> ModelAssets:
    bound = delivery_model(evaluation={"bootstrap": {"resamples": 200}, **evaluation})
    shops = bound.views[0].model_copy(update={"arrivals": list(arrivals)})
    return ModelAssets(bound.declared, [shops, *bound.views[1:]])


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformFixture]:
    """A home with ten days of deliveries, and the training set of a model whose data arrive by the hour."""
    with open_platform(tmp_path_factory.mktemp("repository") / ".ml_platform") as made:
        made.lake.write("datasets/deliveries", ROWS, MONTH)
        store, declared = made.resources["online_store"].store(), model(HOURLY)
        materialize(declared.stored_views[0], made.lake, store, [MONTH], declared.declared.partitions)
        build_training_sets(declared, [MONTH], made.lake)
        yield made


def score_of(shop: str, usable_until: datetime) -> float:
    """Return the score of :class:`LastLate` for the last delivery of ``shop`` that came by ``usable_until``."""
    known = ROWS.filter(pl.col("shop") == shop, pl.col("came_at") <= usable_until).sort("came_at", maintain_order=True)
    return 0.5 if known.is_empty() else 0.8 * float(known["late"][-1]) + 0.1


def test_points_equal_the_scores_of_the_facts_that_had_arrived(platform: PlatformFixture) -> None:
    declared = model(HOURLY, freshness_curve=["0m", "1d"])
    test = platform.lake.scan(declared.table, partitions=[MONTH]).drop(PARTITION).collect()
    label, candidate = test["label"].to_numpy().astype(np.float64), LastLate()
    evidence = Evidence(label=label, predictions={CANDIDATE: candidate.predict(test)}, block=np.arange(len(label)))

    points = {each.delay: each.metrics for each in freshness_curve(declared, candidate, test, evidence, platform.lake)}  # type: ignore[arg-type]

    requests = test.select("shop", "predict_at").rows()
    hour = timedelta(hours=1)
    usable_until = {
        DECLARED: lambda at: (at - timedelta(minutes=15)).replace(minute=0) - timedelta(microseconds=1),
        "0m": lambda at: at,
        "1d": lambda at: at - 24 * hour,
    }
    assert list(points) == [DECLARED, "0m", "1d"]
    for delay, until in usable_until.items():
        expected = score(label, np.array([score_of(shop, until(at)) for shop, at in requests]))
        assert points[delay] == {name: pytest.approx(expected[name]) for name in ("auc", "log_loss")}
    assert len({round(each["auc"], 6) for each in points.values()}) == 3


def test_training_sets_of_two_arrivals_are_two_tables() -> None:
    assert model().table == delivery_model().table
    assert len({model().table, model(HOURLY).table, model(Arrival(every="day")).table}) == 3


def test_curve_is_that_of_the_declaration_or_a_default_with_an_arrival() -> None:
    assert list(curve_delays(model())) == []
    assert list(curve_delays(model(HOURLY))) == ["0m", "1h", "6h", "1d", "7d"]
    assert list(curve_delays(model(freshness_curve=["2h"]))) == ["2h"]
    assert list(curve_delays(model(HOURLY, freshness_curve=[]))) == []


def test_stored_metrics_give_the_table_in_order_of_delay() -> None:
    stored = {"auc": 0.7, "auc_low": 0.6, "auc_delay_1d": 0.6, "auc_delay_90m": 0.65, "auc_delay_0m": 0.75}
    assert [tuple(row.values()) for row in curve_table(stored, [HOURLY])] == [
        ("as declared: every hour, after 15m", 0.7),
        ("0m after they are known", 0.75),
        ("90m after they are known", 0.65),
        ("1d after they are known", 0.6),
    ]
    assert curve_table({"auc": 0.7, "auc_low": 0.6}) == []
    assert flat_curve([]) == {}
