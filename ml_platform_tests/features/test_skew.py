"""The skew check recomputes the features of logged predictions and reports those that differ."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.skew import (
    MAX_PARTS,
    SkewFoundError,
    SkewSettings,
    compare_features,
    features_to_log,
    merge_reports,
    sample_predictions,
)
from ml_platform.features.view import INSTANT, ViewError
from ml_platform_tests.features.test_feature_set import LOGS, NOON, VIEWS, rows, store

FEATURES = FeatureSet(VIEWS)


@pytest.fixture
def predictions(tmp_path: Path) -> pl.DataFrame:
    request = rows(("N1", 3), ("N2", 3), ("N3", 1), late=5).with_columns(request_id=pl.lit("r1"))
    return features_to_log(request, FEATURES.serve(request, store(tmp_path)))


def test_features_recomputed_from_the_logs_are_equal(predictions: pl.DataFrame) -> None:
    report = compare_features(FEATURES, predictions, LOGS)
    assert report.passed
    assert (report.rows, report.features) == (3, 6)
    report.raise_if_failed()


def test_facts_known_after_the_watermark_are_ignored(predictions: pl.DataFrame) -> None:
    newer = pl.LazyFrame(
        [("JFK", 15, NOON.replace(minute=3), 0.1)], schema=LOGS["hourly"].collect_schema(), orient="row"
    )
    logs = LOGS | {"hourly": pl.concat([LOGS["hourly"], newer])}
    assert compare_features(FEATURES, predictions, logs).passed


def test_differing_value_is_reported_with_its_rows(predictions: pl.DataFrame) -> None:
    skewed = predictions.with_columns(hourly__busy=pl.col("hourly__busy") + 0.125)
    report = compare_features(FEATURES, skewed, LOGS)
    (mismatch,) = report.mismatches
    assert (mismatch.feature, mismatch.view, mismatch.rows) == ("hourly__busy", "hourly", 2)
    assert mismatch.examples[0]["request_id"] == "r1"
    assert (mismatch.examples[0]["logged"], mismatch.examples[0]["recomputed"]) == (0.875, 0.75)
    with pytest.raises(SkewFoundError, match="found 1 that differ: 'hourly__busy'"):
        report.raise_if_failed()


def test_rewritten_change_log_is_reported(predictions: pl.DataFrame) -> None:
    rewritten = LOGS | {"leg": LOGS["leg"].with_columns(model=pl.lit("B787"))}
    report = compare_features(FEATURES, predictions, rewritten)
    assert [each.feature for each in report.mismatches] == ["leg__model"]
    assert report.mismatches[0].rows == 1  # The legs of the other rows were stale or unknown.


def test_null_instead_of_a_served_value_is_reported(predictions: pl.DataFrame) -> None:
    emptied = LOGS | {"hourly": LOGS["hourly"].filter(pl.lit(False))}
    assert {each.feature for each in compare_features(FEATURES, predictions, emptied).mismatches} == {
        "hourly__busy",
        "hourly__age_minutes",
    }


def test_numbers_are_compared_as_float32(predictions: pl.DataFrame) -> None:
    wide = predictions.with_columns(pl.col("hourly__busy").cast(pl.Float64) + 1e-12)
    assert compare_features(FEATURES, wide, LOGS).passed


def test_empty_predictions_are_rejected(predictions: pl.DataFrame) -> None:
    with pytest.raises(ViewError, match="found no prediction"):
        compare_features(FEATURES, predictions.clear(), LOGS)


def test_predictions_without_a_watermarks_column_are_rejected(predictions: pl.DataFrame) -> None:
    with pytest.raises(ViewError, match="no 'watermarks'"):
        compare_features(FEATURES, predictions.drop("watermarks"), LOGS)


def test_each_prediction_is_recomputed_with_its_own_watermarks(tmp_path: Path, predictions: pl.DataFrame) -> None:
    later = rows(("N1", 3), late=30)
    fresh = pl.concat(
        [
            LOGS["hourly"],
            pl.LazyFrame(
                [("JFK", 15, NOON.replace(minute=10), 0.9)], schema=LOGS["hourly"].collect_schema(), orient="row"
            ),
        ]
    )
    from ml_platform.features.online_store import latest_facts
    from ml_platform_tests.features.test_feature_set import HOURLY

    newer = store(tmp_path)
    newer.publish(latest_facts(HOURLY, fresh, NOON.replace(minute=20)))
    second = features_to_log(later.with_columns(request_id=pl.lit("r2")), FEATURES.serve(later, newer))
    both = pl.concat([predictions, second])
    assert both["watermarks"].n_unique() == 2
    assert compare_features(FEATURES, both, LOGS | {"hourly": fresh}).passed
    assert both.schema["as_of"] == INSTANT


def logs_of(count: int) -> pl.LazyFrame:
    """Return logged predictions, the latest last; the last one has no watermarks."""
    times = [NOON.replace(minute=at % 60, second=at // 60) for at in range(count)]
    marks = ["{}" if at == count - 1 else '{"hourly": "2013-07-01T12:00:00Z"}' for at in range(count)]
    return pl.LazyFrame({"id": range(count), "logged_at": times, "watermarks": marks})


def test_sample_is_drawn_from_the_latest_predictions_with_watermarks() -> None:
    few = sample_predictions([logs_of(10)], SkewSettings(rows=3, latest=4))["id"].to_list()
    assert len(few) == 3
    assert set(few) <= {5, 6, 7, 8}
    assert sorted(sample_predictions([logs_of(10)], SkewSettings(rows=50, latest=4))["id"]) == [5, 6, 7, 8]


def test_earlier_days_are_read_only_until_there_are_enough_predictions() -> None:
    def days() -> Iterator[pl.LazyFrame]:
        yield logs_of(3).with_columns(pl.col("id") + 100)  # two with watermarks
        yield logs_of(10)
        pytest.fail("a day was read that is not needed")

    assert sorted(sample_predictions(days(), SkewSettings(rows=50, latest=4))["id"]) == [7, 8, 100, 101]


def test_days_without_watermarks_are_read_up_to_a_limit() -> None:
    read: list[int] = []

    def days() -> Iterator[pl.LazyFrame]:
        for day in range(1_000):
            read.append(day)
            yield logs_of(1)

    assert sample_predictions(days(), SkewSettings()).is_empty()
    assert len(read) == MAX_PARTS


def test_seed_determines_the_sample() -> None:
    draws = [sample_predictions([logs_of(60)], SkewSettings(rows=5, seed=seed))["id"].to_list() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_merged_report_adds_rows_and_mismatches(predictions: pl.DataFrame) -> None:
    skewed = predictions.with_columns(hourly__busy=pl.col("hourly__busy") + 0.125)
    both = merge_reports([compare_features(FEATURES, predictions, LOGS), compare_features(FEATURES, skewed, LOGS)])
    assert (both.rows, both.passed) == (2 * predictions.height, False)
    assert {line["feature"] for line in both.records()} == {"hourly__busy"}
    assert "request_id=r1" in both.records()[0]["prediction"]
