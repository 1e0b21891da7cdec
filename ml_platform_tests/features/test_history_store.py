"""The store with history answers each request with the facts that had arrived at its prediction time."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ml_platform.data.arrival import Arrival
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.history_store import HISTORY, HistoryError, HistoryStore
from ml_platform.features.materialize import recent_facts
from ml_platform.features.online_store import Snapshot
from ml_platform.features.row_columns import RowColumns
from ml_platform.features.skew import compare_features, features_to_log
from ml_platform.features.stores import open_store
from ml_platform.features.view import KNOWN_AT, FeatureView

START = datetime(2013, 6, 1, tzinfo=UTC)
WATERMARK = START + timedelta(days=3)


def view(**changes: object) -> FeatureView:
    features = [
        {"name": "riders", "type": "float64", "description": "Riders"},
        {"name": "kind", "type": "category", "description": "Kind"},
    ]
    declared = {"name": "shop", "entity": ["shop"], "features": features, "code_version": "1", **changes}
    return FeatureView.model_validate({"function": "m:f", "key_types": {"shop": "string"}, **declared})


HOURLY = view(arrivals=[Arrival(every="hour", delay="15m")], tolerance_minutes=600)


def facts(seed: int = 0, rows: int = 400) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    minutes = np.sort(random.integers(-2 * 1440, 3 * 1440, rows))
    return pl.DataFrame(
        {
            "shop": random.choice(["a", "b", "c"], rows).tolist(),
            KNOWN_AT: [START + timedelta(minutes=int(each)) for each in minutes],
            "riders": random.normal(size=rows),
            "kind": [["x", "y", None][each] for each in random.integers(0, 3, rows)],
        },
        schema_overrides={KNOWN_AT: pl.Datetime("us", "UTC")},
    )


def requests(seed: int = 1, rows: int = 200) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    at = [START + timedelta(minutes=int(each)) for each in random.integers(0, 3 * 1440, rows)]
    shops = random.choice(["a", "b", "c", "unknown"], rows).tolist()
    return pl.DataFrame({"shop": shops, "predict_at": at}, schema_overrides={"predict_at": pl.Datetime("us", "UTC")})


def rows_of(found: pl.DataFrame) -> RowColumns:
    times = found["predict_at"].to_physical().to_numpy()
    return RowColumns({"shop": found["shop"].to_list()}, {"shop": pl.String()}, times)


@pytest.mark.parametrize("declared", [HOURLY, view(), view(entity=[], key_types={}, tolerance_minutes=30)])
def test_each_request_gets_the_facts_of_its_prediction_time(declared: FeatureView, tmp_path: Path) -> None:
    log, made = facts(), requests()
    if not declared.entity:
        log = log.drop("shop")
    features, store = FeatureSet([declared]), HistoryStore(tmp_path)
    store.publish(recent_facts(declared, log.lazy(), WATERMARK))
    served = features.serving_plan.serve(rows_of(made), store)
    numbered = made.with_row_index("at").lazy()
    expected = features.as_of(numbered, {"shop": log.lazy()}).collect().sort("at")
    assert expected["shop__riders"].null_count() < expected.height / 2  # a table of nulls would pass
    assert served.frame.equals(expected.select(features.feature_names))
    assert served.as_of.equals(made["predict_at"].alias("as_of"))


def test_the_skew_check_recomputes_requests_of_one_arrival(tmp_path: Path) -> None:
    log = facts()
    made = requests().filter(pl.col("predict_at").dt.truncate("1d") == START + timedelta(days=1))
    features, store = FeatureSet([HOURLY]), HistoryStore(tmp_path)
    store.publish(recent_facts(HOURLY, log.lazy(), WATERMARK))
    hours = made.with_columns(hour=(pl.col("predict_at") - timedelta(minutes=15)).dt.truncate("1h"))
    logged = []
    for _, group in hours.group_by("hour", maintain_order=True):
        served = features.serving_plan.serve(rows_of(group), store)
        assert list(served.watermarks) == ["shop"]
        logged.append(features_to_log(group.drop("hour"), served))
    report = compare_features(features, pl.concat(logged), {"shop": log.lazy()})
    assert (report.rows, report.mismatches) == (made.height, [])


def test_requests_of_several_arrivals_have_no_watermark(tmp_path: Path) -> None:
    features, store = FeatureSet([HOURLY]), HistoryStore(tmp_path)
    store.publish(recent_facts(HOURLY, facts().lazy(), WATERMARK))
    assert features.serving_plan.serve(rows_of(requests()), store).watermarks == {}


def test_facts_before_the_history_count_as_the_last_one_of_their_entity(tmp_path: Path) -> None:
    old = pl.DataFrame(
        {"shop": ["a", "a"], KNOWN_AT: [START - 2 * HISTORY, START - HISTORY - timedelta(days=1)], "riders": [1.0, 2.0]}
    ).with_columns(pl.lit(None, pl.String).alias("kind"), pl.col(KNOWN_AT).cast(pl.Datetime("us", "UTC")))
    published = recent_facts(view(), old.lazy(), START)
    assert published.frame["riders"].to_list() == [2.0]


def test_an_earlier_watermark_replaces_nothing(tmp_path: Path) -> None:
    store = HistoryStore(tmp_path)
    store.publish(recent_facts(view(), facts().lazy(), WATERMARK))
    again = store.publish(recent_facts(view(), facts().lazy(), START))
    assert (again.published, again.watermark) == (False, WATERMARK)


@pytest.mark.parametrize("rows", [0, 2])
def test_the_latest_facts_have_the_watermark_of_their_view(tmp_path: Path, rows: int) -> None:
    store = HistoryStore(tmp_path)
    store.publish(Snapshot(HOURLY, facts(), WATERMARK))
    found = store.lookup([HOURLY], {"shop": ["a", "b"][:rows]}, rows)
    assert found.watermarks == {HOURLY.name: WATERMARK}
    assert len(found.values) == rows


def test_a_view_without_a_history_is_named(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match=r"feature view 'shop'.*Materialize features/shop"):
        HistoryStore(tmp_path).require([view()])


def test_the_address_opens_the_same_store(tmp_path: Path) -> None:
    store = HistoryStore(tmp_path / "history")
    frame = facts().sort(KNOWN_AT)
    store.publish(Snapshot(view(), frame, WATERMARK))
    opened = open_store(store.location)
    assert isinstance(opened, HistoryStore)
    opened.require([view()])
