"""A drift check reads a bounded sample of many rows, and counts rows and nulls in all of them."""

import numpy as np
import polars as pl
import pytest

from ml_platform.monitoring.drift import DriftSettings, measure_drift
from ml_platform.monitoring.drift_report import DriftReport
from ml_platform.monitoring.drift_rows import DriftRows, Totals, read_drift_rows

MONTHS, PER_MONTH = [f"2013-{month:02}" for month in range(1, 9)], 10_000
WINDOW = MONTHS[-1]


def history(seed: int = 0, per_month: int = PER_MONTH) -> pl.DataFrame:
    """Return eight months of a number that changes a little every month, a category, and a feed that is often null."""
    random, rows = np.random.default_rng(seed), len(MONTHS) * per_month
    months = np.repeat(MONTHS, per_month)
    level = np.repeat(random.normal(0, 0.1, len(MONTHS)), per_month)
    x = random.normal(level)
    x[random.uniform(size=rows) < 0.1] = np.nan
    feed = pl.Series(random.normal(size=rows)).scatter(np.flatnonzero(random.uniform(size=rows) < 0.3), None)
    return pl.DataFrame(
        {
            "example_id": [f"{month}-{number}" for number, month in enumerate(months)],
            "partition": months,
            "predict_at": np.arange(rows),
            "x": x,
            "feed": feed,
            "kind": random.choice(["a", "b", "c"], rows),
        }
    )


def read(table: pl.DataFrame, limit: int = 16_000, window_limit: int = 3_000, seed: int = 0) -> DriftRows:
    return read_drift_rows(
        table.lazy(),
        window=WINDOW,
        key="example_id",
        columns=["x", "feed", "kind"],
        limit=limit,
        window_limit=window_limit,
        seed=seed,
    )


def drift(table: pl.DataFrame, **settings: int) -> DriftReport:
    """Return the drift of the last month, from as many rows as the settings let it read."""
    declared = DriftSettings(usual_windows=6, **settings)  # type: ignore[arg-type] # numbers of rows
    found = read(table, declared.read_rows, declared.windows * declared.sample_rows)
    return measure_drift(
        found.rows.filter(pl.col("partition") != WINDOW),
        found.rows.filter(pl.col("partition") == WINDOW),
        features=["x", "feed", "kind"],
        settings=declared,
        time="predict_at",
        expected_rows=found.totals_of(MONTHS[:-1]).rows / 7,
        reference_totals=found.totals_of(MONTHS[:-1]),
        current_totals=found.totals_of([WINDOW]),
    )


def test_few_rows_are_all_read() -> None:
    table = history()
    assert read(table, limit=80_000).rows.equals(table)


def test_sample_has_the_same_share_of_each_partition() -> None:
    found = read(history(), window_limit=0)
    rows = dict(found.rows.group_by("partition").len().iter_rows())
    assert sorted(rows) == MONTHS
    # A fifth of the rows; four standard deviations of a binomial number are 160.
    assert [month for month, count in rows.items() if abs(count - PER_MONTH / 5) > 160] == []


def test_window_has_a_larger_share_where_it_would_have_too_few_rows() -> None:
    found = read(history(), window_limit=6_000)
    rows = dict(found.rows.group_by("partition").len().iter_rows())
    assert abs(rows[WINDOW] - 6_000) < 200
    assert abs(rows[MONTHS[0]] - 2_000) < 160
    assert read(history(), window_limit=50_000).rows.filter(partition=WINDOW).height == PER_MONTH


def test_sample_depends_on_keys_and_seed_and_not_on_the_order_of_rows() -> None:
    table = history()
    found = read(table).rows
    assert read(table.sample(fraction=1.0, shuffle=True, seed=3)).rows.equals(found)
    assert set(read(table, seed=1).rows["example_id"]) != set(found["example_id"])


def test_totals_count_nulls_and_nan_of_all_rows() -> None:
    table = history()
    found = read(table)
    for month in MONTHS:
        rows = table.filter(partition=month)
        nulls = {"x": int(rows["x"].is_nan().sum()), "feed": rows["feed"].null_count(), "kind": 0}
        assert min(nulls["x"], nulls["feed"]) > 500
        assert found.totals[month] == Totals(PER_MONTH, nulls)
    both = found.totals_of(MONTHS[:2])
    assert (both.rows, both.nulls["x"]) == (20_000, int(table.head(20_000)["x"].is_nan().sum()))
    assert found.totals_of([]) == Totals(0)


def test_report_of_a_sample_has_the_counts_of_all_rows() -> None:
    table = history()
    report = drift(table, read_rows=16_000, sample_rows=1_000)
    assert (report.rows_reference, report.rows_current) == (70_000, 10_000)
    assert 13_000 < report.compared_reference < 15_000
    assert 2_500 < report.compared_current < 3_500
    rates = {column.name: column.null_rate_current for column in report.columns}
    assert rates["feed"] == table.filter(partition=WINDOW)["feed"].null_count() / PER_MONTH
    assert report.expected_rows == PER_MONTH


@pytest.mark.parametrize("change", ["none", "shift", "nulls", "unseen", "volume"])
def test_sample_and_all_rows_give_the_same_decision_and_columns(change: str) -> None:
    table = history(seed=5)
    now = pl.col("partition") == WINDOW
    if change == "shift":
        table = table.with_columns(x=pl.when(now).then(pl.col("x") + 0.8).otherwise("x"))
    elif change == "nulls":
        table = table.with_columns(feed=pl.when(now & (pl.col("predict_at") % 3 == 0)).then(None).otherwise("feed"))
    elif change == "unseen":
        new = now & (pl.col("predict_at") % 10 == 0)
        table = table.with_columns(kind=pl.when(new).then(pl.lit("new")).otherwise("kind"))
    elif change == "volume":
        table = table.filter(~now | (pl.col("predict_at") % 3 == 0))
    whole, sample = drift(table, sample_rows=1_000), drift(table, read_rows=16_000, sample_rows=1_000)
    assert whole.compared_reference == 70_000
    assert (sample.decision, sample.drifted) == (whole.decision, whole.drifted)
    expected = {"none": [], "shift": ["x"], "nulls": ["feed"], "unseen": ["kind"], "volume": []}[change]
    assert whole.drifted == expected
    assert whole.volume_changed == (change == "volume")


def test_stretches_of_a_sample_are_as_long_as_a_window() -> None:
    """The usual distance of a number that changes every month is that of a third of a month, in a sample too."""
    limits = []
    for settings in ({}, {"read_rows": 32_000}):
        report = drift(history(seed=2), minimum_rows=100, sample_rows=2_000, **settings)
        limits.append(next(column.limit for column in report.columns if column.name == "x"))
    assert limits[0] == pytest.approx(limits[1], abs=0.06)
