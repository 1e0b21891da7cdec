"""The drift check on synthetic data of known drift. Every setting has a test in which it changes the result."""

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from ml_platform.monitoring.drift import DriftSettings, measure_drift
from ml_platform.monitoring.drift_input import DriftInputError

ROWS = 6_000


def numbers(rows: int = ROWS, *, shift: float = 0.0, seed: int = 1) -> pl.DataFrame:
    return pl.DataFrame({"x": np.random.default_rng(seed).normal(shift, 1, rows)})


def carriers(shares: dict[str, float], rows: int = ROWS, seed: int = 1) -> pl.DataFrame:
    drawn = np.random.default_rng(seed).choice(list(shares), size=rows, p=list(shares.values()))
    return pl.DataFrame({"x": drawn})


def drifted(reference: pl.DataFrame, current: pl.DataFrame, **settings: float) -> list[str]:
    return measure_drift(reference, current, features=["x"], settings=DriftSettings.model_validate(settings)).drifted


# When a column shifts.


def test_equal_distributions_raise_no_flag_in_five_comparisons_of_thirty_columns() -> None:
    flagged = []
    for seed in range(5):
        drawn = np.random.default_rng(seed).normal(size=(2, 3_000, 30))
        reference, current = (pl.DataFrame(side, schema=[f"f{at}" for at in range(30)]) for side in drawn)
        flagged += measure_drift(reference, current, features=reference.columns, settings=DriftSettings()).drifted
    assert flagged == []


def test_tiny_shift_in_many_rows_is_ignored() -> None:
    assert drifted(numbers(50_000), numbers(50_000, shift=0.03, seed=2), sample_rows=50_000) == []


def test_shift_of_three_tenths_in_three_of_thirty_columns_is_found_every_time() -> None:
    for seed in range(3):
        drawn = np.random.default_rng(seed).normal(size=(2, 15_000, 30))
        drawn[1, :, :3] += 0.3
        reference, current = (pl.DataFrame(side, schema=[f"f{at}" for at in range(30)]) for side in drawn)
        report = measure_drift(reference, current, features=reference.columns, settings=DriftSettings())
        assert sorted(report.drifted) == ["f0", "f1", "f2"], seed


def test_changed_shares_of_categories_are_drift() -> None:
    assert drifted(carriers({"AA": 0.5, "UA": 0.5}), carriers({"AA": 0.7, "UA": 0.3}, seed=2)) == ["x"]


def test_thousands_of_rare_categories_are_not_drift() -> None:
    reference, current = (
        pl.DataFrame({"x": np.random.default_rng(seed).integers(0, 4_000, 20_000).astype(str)}) for seed in (1, 2)
    )
    assert drifted(reference, current) == []


def test_booleans_are_compared_as_categories() -> None:
    reference = pl.DataFrame({"x": [True, False] * 3_000})
    current = pl.DataFrame({"x": [True, True, True, False] * 1_500})
    report = measure_drift(reference, current, features=["x"], settings=DriftSettings())
    assert (report.columns[0].kind, report.columns[0].effect) == ("category", 0.25)


def test_effect_is_the_distance_between_the_distributions() -> None:
    reference = pl.DataFrame({"x": np.arange(3_000) / 3_000})
    current = pl.DataFrame({"x": np.tile(np.arange(1_000) / 1_000, 3) + 0.25})
    report = measure_drift(reference, current, features=["x"], settings=DriftSettings())
    assert report.columns[0].effect == pytest.approx(0.25, abs=0.002)


def test_one_odd_window_of_three_is_not_drift() -> None:
    current = pl.concat([numbers(2_000, seed=2), numbers(2_000, seed=3), numbers(2_000, shift=1.0, seed=4)])
    report = measure_drift(numbers(), current, features=["x"], settings=DriftSettings())
    assert (report.drifted, report.columns[0].windows_flagged) == ([], 1)


def test_windows_follow_the_time_column_not_the_row_order() -> None:
    current = pl.concat([numbers(2_000, seed=2), numbers(2_000, seed=3), numbers(2_000, shift=1.0, seed=4)])
    shuffled = current.with_row_index("at").sample(fraction=1.0, shuffle=True, seed=5)
    report = measure_drift(numbers(), shuffled, features=["x"], time="at", settings=DriftSettings())
    assert report.columns[0].windows_flagged == 1


def test_two_runs_on_the_same_rows_give_equal_reports() -> None:
    reference, current = numbers(30_000), numbers(30_000, shift=0.2, seed=2)
    first, second = (measure_drift(reference, current, features=["x"], settings=DriftSettings()) for _ in range(2))
    assert first == second


def test_change_of_scale_of_a_heavy_tailed_column_is_drift() -> None:
    reference, current = (pl.DataFrame({"x": np.random.default_rng(seed).standard_cauchy(ROWS)}) for seed in (1, 2))
    report = measure_drift(reference, current * 2, features=["x"], settings=DriftSettings())
    # |x| against 2|x|: the gap 2 (atan(t) - atan(t / 2)) / π is widest at t = √2, twice the gap of x itself.
    assert report.columns[0].effect == pytest.approx(0.216, abs=0.02)
    assert report.drifted == ["x"]
    assert drifted(reference, current) == []


def test_p_value_is_corrected_for_the_number_of_columns() -> None:
    reference, current = numbers(1_000), numbers(1_000, shift=0.2, seed=2)
    more = {f"f{at}": np.random.default_rng(at).normal(size=1_000) for at in range(9)}
    settings = DriftSettings(windows=1, windows_needed=1)
    alone = measure_drift(reference, current, features=["x"], settings=settings)
    many = measure_drift(
        reference.with_columns(**more), current.with_columns(**more), features=["x", *more], settings=settings
    )
    p_values = [{each.name: each.p_value for each in report.columns}["x"] for report in (alone, many)]
    assert p_values[1] == pytest.approx(10 * (p_values[0] or 0))


@pytest.mark.parametrize(
    ("last", "season", "drifted_columns", "gradual", "nearest"),
    [
        (0.0, 0.0, ["x"], [], "earlier rows"),
        (1.0, 0.0, [], ["x"], "last partition"),
        (0.0, 1.0, [], [], "same season"),
    ],
)
def test_column_drifts_only_if_it_is_far_from_all_references(
    last: float, season: float, drifted_columns: list[str], gradual: list[str], nearest: str
) -> None:
    references = {
        "last partition": numbers(2_000, shift=last, seed=7),
        "same season": numbers(2_000, shift=season, seed=8),
    }
    report = measure_drift(
        numbers(12_000), numbers(shift=1.0, seed=2), features=["x"], settings=DriftSettings(),
        further_references=references,
    )  # fmt: skip
    assert (report.drifted, report.gradual) == (drifted_columns, gradual)
    assert report.decision == ("notice" if drifted_columns or gradual else "steady")
    if not drifted_columns:
        assert report.columns[0].reference == nearest


def test_gradual_change_is_named_in_the_reason() -> None:
    report = measure_drift(
        numbers(12_000), numbers(shift=1.0, seed=2), features=["x"], settings=DriftSettings(),
        further_references={"last partition": numbers(2_000, shift=1.0, seed=7)},
    )  # fmt: skip
    assert report.reason == "Notice: features moved gradually (1 of 1): 'x'."


# Nulls, unseen categories and volume.


def test_few_rows_with_the_same_share_of_nulls_raise_no_alarm() -> None:
    flagged = []
    for seed in range(5, 9):
        random = np.random.default_rng(seed)
        values = np.where(random.uniform(size=(2_500, 30)) < 0.5, np.nan, random.normal(size=(2_500, 30)))
        frame = pl.DataFrame(values, schema=[f"f{at}" for at in range(30)])
        flagged += measure_drift(frame[500:], frame[:500], features=frame.columns, settings=DriftSettings()).drifted
    assert flagged == []


def test_unseen_categories_that_rare_ones_let_expect_are_not_drift() -> None:
    drawn = np.random.default_rng(1).integers(0, 4_000, 8_000).astype(str)
    reference, current = pl.DataFrame({"x": drawn[:6_000]}), pl.DataFrame({"x": drawn[6_000:]})
    column = measure_drift(reference, current, features=["x"], settings=DriftSettings()).columns[0]
    assert column.unseen_share == pytest.approx(np.exp(-1.5), abs=0.03)  # the chance that 6,000 draws miss one of 4,000
    assert not column.unseen_appeared
    assert drifted(reference, pl.DataFrame({"x": [f"new_{at}" for at in range(2_000)]})) == ["x"]


def test_new_nulls_are_drift_although_the_other_values_have_the_same_distribution() -> None:
    current = numbers(seed=2).with_columns(pl.when(pl.int_range(pl.len()) % 2 == 0).then("x").alias("x"))
    column = measure_drift(numbers(), current, features=["x"], settings=DriftSettings()).columns[0]
    assert (column.shifted, column.nulls_changed, column.null_rate_current) == (False, True, 0.5)


def test_nan_counts_as_null() -> None:
    current = pl.DataFrame({"x": [float("nan"), 1.0] * 3_000})
    column = measure_drift(numbers(), current, features=["x"], settings=DriftSettings()).columns[0]
    assert column.null_rate_current == 0.5


def test_column_that_is_all_null_is_reported_by_its_null_rate() -> None:
    column = measure_drift(
        numbers(), pl.DataFrame({"x": [None] * ROWS}), features=["x"], settings=DriftSettings()
    ).columns[0]
    assert (column.nulls_changed, column.null_rate_current, column.stability_index) == (True, 1.0, None)


def test_unseen_category_is_named() -> None:
    current = carriers({"AA": 0.45, "UA": 0.5, "ZZ": 0.05}, seed=2)
    column = measure_drift(carriers({"AA": 0.5, "UA": 0.5}), current, features=["x"], settings=DriftSettings()).columns[
        0
    ]
    assert (column.unseen_appeared, column.unseen_examples) == (True, ["ZZ"])
    assert column.unseen_share == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize(("expected_rows", "changed"), [(100, True), (ROWS, False), (13_000, True), (None, False)])
def test_volume_is_compared_with_the_expected_rows(expected_rows: float | None, changed: bool) -> None:
    report = measure_drift(
        numbers(), numbers(seed=2), features=["x"], settings=DriftSettings(), expected_rows=expected_rows
    )
    assert (report.volume_changed, report.decision) == (changed, "alert" if changed else "steady")


# Variation within the reference.


def weeks(*shifts: float, rows: int = 2_000, seed: int = 1) -> pl.DataFrame:
    """Return consecutive weeks of rows, each with its own mean."""
    return pl.concat([numbers(rows, shift=shift, seed=seed + at) for at, shift in enumerate(shifts)])


def test_weeks_that_differ_no_more_than_earlier_weeks_are_not_drift() -> None:
    reference = weeks(0.0, 0.5, -0.5, 0.0, 0.5, -0.5)
    assert drifted(reference, weeks(0.5, 0.5, 0.5, seed=50)) == []
    assert drifted(reference, weeks(1.5, 1.5, 1.5, seed=50)) == ["x"]


def test_limit_of_a_column_follows_from_its_own_past() -> None:
    restless = weeks(0.0, 0.5, 0.0, 0.5, 0.0, 0.5)
    columns = [
        measure_drift(reference, weeks(0, 0, 0, seed=50), features=["x"], settings=DriftSettings()).columns[0]
        for reference in (restless, numbers(12_000))
    ]
    # The means of neighbours differ by one half: 2 Φ(1 / 4) - 1 = 0.197, and the limit is twice this.
    assert columns[0].limit == pytest.approx(2 * 0.197, abs=0.04)
    assert columns[1].limit == 0.1


def test_limit_does_not_grow_with_the_length_of_the_history() -> None:
    level = np.arange(48) / 4  # the range grows with the history, the steps do not
    limits = [
        measure_drift(weeks(*level[:count]), weeks(0, 0, 0, seed=90), features=["x"], settings=DriftSettings())
        .columns[0]
        .limit
        for count in (12, 24, 48)
    ]
    assert limits == pytest.approx([0.2, 0.2, 0.2], abs=0.06)  # one step of a quarter: 2 (2 Φ(1 / 8) - 1) = 0.2


def test_outage_among_the_earlier_rows_does_not_hide_disjoint_rows() -> None:
    outage = pl.DataFrame({"x": [1e9] * 2_000})
    reference = pl.concat([*[numbers(2_000, seed=at) for at in range(3)], outage, numbers(4_000, seed=9)])
    report = measure_drift(reference, numbers(shift=50, seed=20), features=["x"], settings=DriftSettings())
    assert report.columns[0].limit == 0.1
    assert (report.drifted, report.not_judged) == (["x"], [])


def test_trend_does_not_hide_rows_beyond_it() -> None:
    reference = weeks(*np.arange(12) / 4)
    report = measure_drift(reference, weeks(3.25, 3.5, 3.75, seed=50), features=["x"], settings=DriftSettings())
    assert report.columns[0].limit == pytest.approx(2 * 0.1, abs=0.06)  # one step of a quarter: 2 Φ(1 / 8) - 1 = 0.1
    assert report.drifted == ["x"]


def test_limit_stays_below_the_largest_distance_when_all_neighbours_are_disjoint() -> None:
    reference, current = weeks(*np.arange(6) * 20), weeks(200, 220, 240, seed=50)
    column = measure_drift(reference, current, features=["x"], settings=DriftSettings()).columns[0]
    assert (column.limit, column.effect, column.finding) == (0.95, 1.0, "drifted")


@pytest.mark.parametrize(
    ("reference", "current", "reason"),
    [
        (weeks(0, 3, 0, 3, 0, 3), weeks(1, 1, 1, seed=50), "it changes all the time"),
        (numbers().with_columns(x=pl.lit(None, pl.Float64)), numbers(), "no values in the earlier rows"),
        (numbers(), numbers().with_columns(x=pl.lit(None, pl.Float64)), "no values in the new rows"),
        (
            numbers(),
            numbers().with_columns(pl.when(pl.int_range(pl.len()) % 1_000 == 0).then("x").alias("x")),
            "too few values: 6000 in the earlier rows, 2 in a window of the new rows",
        ),
    ],
    ids=["restless", "empty_before", "empty_now", "sparse_now"],
)
def test_column_of_which_nothing_could_be_found_is_not_called_steady(
    reference: pl.DataFrame, current: pl.DataFrame, reason: str
) -> None:
    settings = DriftSettings(null_rate_change=1)  # the null rate has a check of its own
    report = measure_drift(reference, current, features=["x"], settings=settings)
    assert report.columns[0].not_judged is not None
    assert report.columns[0].not_judged.startswith(reason)
    assert (report.not_judged, report.decision) == (["x"], "not evaluated")
    assert report.reason == "Not evaluated: cannot be judged (1 of 1): 'x'."


def test_column_that_cannot_be_judged_is_named_beside_steady_ones() -> None:
    reference, current = (numbers(seed=seed).with_columns(empty=pl.lit(None, pl.Float64)) for seed in (1, 2))
    report = measure_drift(reference, current, features=["x", "empty"], settings=DriftSettings())
    assert (report.decision, report.reason) == ("steady", "Steady: cannot be judged (1 of 2): 'empty'.")


def test_null_rate_within_the_usual_range_of_the_reference_is_not_drift() -> None:
    def sparse(seed: int) -> pl.DataFrame:
        return numbers(2_000, seed=seed).with_columns(pl.when(pl.int_range(pl.len()) % 2 == 0).then("x").alias("x"))

    full = [numbers(2_000, seed=at) for at in range(3)]
    often, once = pl.concat([full[0], sparse(3), full[1], sparse(4), full[2]]), pl.concat([sparse(3), *full, *full])
    now = pl.concat([sparse(5), sparse(6), numbers(2_000, seed=9)])
    assert drifted(often, now) == []
    assert drifted(once, now) == ["x"]  # one outage does not make nulls usual
    assert drifted(numbers(12_000), now) == ["x"]


def test_first_period_without_a_reference_is_not_evaluated() -> None:
    report = measure_drift(numbers(0), numbers(), features=["x"], settings=DriftSettings())
    assert (report.decision, report.columns, report.windows_evaluated) == ("not evaluated", [], 0)
    assert report.reason == "Not evaluated: there are no earlier rows to compare with."


def test_reference_of_too_few_rows_is_not_evaluated() -> None:
    report = measure_drift(numbers(499), numbers(shift=3), features=["x"], settings=DriftSettings())
    assert (report.decision, report.reason) == (
        "not evaluated", "Not evaluated: 499 earlier rows are too few to compare with.",
    )  # fmt: skip


# The decision.


def with_score(shift_x: float, shift_score: float, seed: int) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    return pl.DataFrame({"x": random.normal(shift_x, 1, ROWS), "score": random.normal(shift_score, 1, ROWS)})


@pytest.mark.parametrize(
    ("shift_x", "shift_score", "decision"),
    [(0.0, 0.0, "steady"), (2.0, 0.0, "notice"), (0.0, 0.5, "alert"), (2.0, 0.5, "alert")],
)
def test_drifted_scores_are_an_alert_and_drifted_features_alone_a_notice(
    shift_x: float, shift_score: float, decision: str
) -> None:
    report = measure_drift(
        with_score(0, 0, 1), with_score(shift_x, shift_score, 2), features=["x"], scores=["score"],
        settings=DriftSettings(),
    )  # fmt: skip
    assert report.decision == decision


def test_rows_without_a_score_are_a_reference_for_features_only() -> None:
    reference = with_score(0, 0, 1)
    fitted_on = reference.with_columns(score=pl.lit(None, pl.Float64), x=pl.col("x") + 9)
    report = measure_drift(
        pl.concat([fitted_on, reference]),
        with_score(0, 0, 2),
        features=["x"],
        scores=["score"],
        settings=DriftSettings(),
    )
    score, x = report.columns
    assert (score.drifted, score.null_rate_reference) == (False, 0.0)
    assert x.effect == pytest.approx(0.5, abs=0.02)


def test_reason_counts_and_names_the_findings() -> None:
    both = with_score(3, 0.5, 2).with_columns(pl.when(pl.int_range(pl.len()) % 2 == 0).then("x").alias("x"))
    report = measure_drift(
        with_score(0, 0, 1), both, features=["x"], scores=["score"], settings=DriftSettings(), expected_rows=1_000
    )
    assert report.reason == (
        "Alert: 6000 rows where about 1000 are usual; scores shifted (1 of 2): 'score'; "
        "share of nulls changed (1 of 2): 'x'; features shifted (1 of 2): 'x'."
    )


def test_scores_come_before_features_with_a_larger_effect() -> None:
    report = measure_drift(
        with_score(0, 0, 1), with_score(3, 0.5, 2), features=["x"], scores=["score"], settings=DriftSettings()
    )
    assert report.drifted == ["score", "x"]


def test_too_few_rows_are_not_evaluated() -> None:
    report = measure_drift(numbers(), numbers(100, shift=5), features=["x"], settings=DriftSettings())
    assert (report.decision, report.windows_evaluated, report.columns[0].effect) == ("not evaluated", 0, None)


def test_no_rows_at_all_are_an_alert_of_the_volume() -> None:
    report = measure_drift(numbers(), numbers(0), features=["x"], settings=DriftSettings(), expected_rows=ROWS)
    assert (report.decision, report.volume_changed) == ("alert", True)


def test_table_has_one_row_per_column_and_the_report_survives_json() -> None:
    report = measure_drift(
        with_score(0, 0, 1), with_score(3, 0, 2), features=["x"], scores=["score"], settings=DriftSettings()
    )
    assert report.table().select("name", "drifted").rows() == [("score", False), ("x", True)]
    assert type(report).model_validate_json(report.model_dump_json()) == report


# Settings.


def test_false_discovery_rate_decides_whether_a_weak_shift_is_drift() -> None:
    reference, current = numbers(1_000), numbers(1_000, shift=0.3, seed=8)  # D about 0.12, p-value about 1e-6
    assert drifted(reference, current, windows=1, windows_needed=1) == ["x"]
    assert drifted(reference, current, windows=1, windows_needed=1, false_discovery_rate=1e-9) == []


def test_minimum_ks_decides_which_distance_is_large() -> None:
    reference, current = numbers(), numbers(shift=0.15, seed=2)  # D about 0.06
    assert drifted(reference, current) == []
    assert drifted(reference, current, minimum_ks=0.03) == ["x"]


def test_minimum_total_variation_decides_which_distance_is_large() -> None:
    reference, current = carriers({"AA": 0.5, "UA": 0.5}), carriers({"AA": 0.56, "UA": 0.44}, seed=2)
    assert drifted(reference, current) == []
    assert drifted(reference, current, minimum_total_variation=0.02) == ["x"]


def test_usual_factor_decides_how_far_a_change_must_exceed_usual_changes() -> None:
    reference, current = weeks(0.0, 0.5, -0.5, 0.0, 0.5, -0.5), weeks(0.5, 0.5, 0.5, seed=50)
    assert [drifted(reference, current, usual_factor=factor) for factor in (0, 2)] == [["x"], []]


def test_usual_windows_decide_how_many_pairs_of_neighbours_are_compared() -> None:
    reference = weeks(0, 1.5, 0, 0, 0, 0, 0, 1.5)  # two pairs, the first and the last, are unusual; five are not
    assert [drifted(reference, weeks(1, 1, 1, seed=50), usual_windows=count) for count in (2, 7)] == [[], ["x"]]


def test_windows_and_windows_needed_decide_how_long_a_shift_must_last() -> None:
    current = pl.concat([numbers(4_000, seed=2), numbers(2_000, shift=0.5, seed=3)])
    assert drifted(numbers(), current) == []
    assert drifted(numbers(), current, windows_needed=1) == ["x"]
    assert drifted(numbers(), current, windows=6, windows_needed=2) == ["x"]


def test_minimum_rows_decides_whether_a_window_is_evaluated() -> None:
    assert drifted(numbers(), numbers(300, shift=1, seed=2)) == []
    assert drifted(numbers(), numbers(300, shift=1, seed=2), minimum_rows=100) == ["x"]


def test_sample_rows_limit_the_compared_rows() -> None:
    few, many = (
        measure_drift(
            numbers(), numbers(shift=0.3, seed=2), features=["x"], settings=DriftSettings(sample_rows=size)
        ).columns[0]
        for size in (50, 5_000)
    )
    assert few.p_value is not None
    assert many.p_value is not None
    assert few.p_value > 1e-3 > many.p_value


def test_seed_decides_which_rows_are_sampled() -> None:
    effects = {
        measure_drift(
            numbers(), numbers(seed=2), features=["x"], settings=DriftSettings(sample_rows=100, seed=seed)
        ).columns[0].effect
        for seed in (0, 1)
    }  # fmt: skip
    assert len(effects) == 2


def test_bins_decide_how_fine_the_stability_index_is() -> None:
    reference = pl.DataFrame({"x": np.arange(4_000.0)})
    current = pl.DataFrame({"x": [*range(1_000), *range(1_000), *range(2_000, 4_000)]})
    coarse, fine = (
        measure_drift(reference, current, features=["x"], settings=DriftSettings(bins=bins)).columns[0].stability_index
        for bins in (2, 4)
    )
    assert coarse == pytest.approx(0.0, abs=1e-5)  # each half still contains one half of the rows
    assert fine is not None
    assert fine > 1.0


def test_minimum_category_share_decides_which_categories_are_grouped() -> None:
    reference = carriers({"AA": 0.9, "UA": 0.05, "DL": 0.05})
    current = carriers({"AA": 0.9, "UA": 0.10, "DL": 0.0}, seed=2)
    assert drifted(reference, current, minimum_total_variation=0.02) == ["x"]
    assert drifted(reference, current, minimum_total_variation=0.02, minimum_category_share=0.1) == []


def test_null_rate_change_decides_how_many_new_nulls_are_accepted() -> None:
    current = numbers(seed=2).with_columns(pl.when(pl.int_range(pl.len()) % 10 != 0).then("x").alias("x"))
    assert drifted(numbers(), current) == ["x"]
    assert drifted(numbers(), current, null_rate_change=0.2) == []


def test_unseen_share_decides_how_many_unseen_categories_are_accepted() -> None:
    current = carriers({"AA": 0.48, "UA": 0.48, "ZZ": 0.04}, seed=2)
    assert drifted(carriers({"AA": 0.5, "UA": 0.5}), current) == ["x"]
    assert drifted(carriers({"AA": 0.5, "UA": 0.5}), current, unseen_share=0.1) == []


def test_volume_factor_decides_which_change_of_the_volume_is_accepted() -> None:
    changed = [
        measure_drift(
            numbers(), numbers(seed=2), features=["x"], expected_rows=4_000,
            settings=DriftSettings(volume_factor=factor),
        ).volume_changed
        for factor in (1.2, 2.0)
    ]  # fmt: skip
    assert changed == [True, False]


def test_feature_expected_to_change_is_measured_but_not_flagged() -> None:
    settings = DriftSettings(expected_to_change=["x"])
    report = measure_drift(numbers(), numbers(shift=3, seed=2), features=["x"], settings=settings)
    assert report.drifted == []
    assert report.columns[0].effect == pytest.approx(0.87, abs=0.02)  # 2 Φ(3 / 2) - 1


def test_nulls_in_a_feature_expected_to_change_are_still_drift() -> None:
    settings = DriftSettings(expected_to_change=["x"])
    current = pl.DataFrame({"x": [None] * ROWS}, schema={"x": pl.Float64})
    assert measure_drift(numbers(), current, features=["x"], settings=settings).drifted == ["x"]


def test_misspelt_feature_expected_to_change_is_rejected() -> None:
    with pytest.raises(DriftInputError, match=r"'expected_to_change': .* 1 unknown: 'day_of_yaer'"):
        measure_drift(numbers(), numbers(), features=["x"], settings=DriftSettings(expected_to_change=["day_of_yaer"]))


def test_more_windows_needed_than_there_are_is_rejected() -> None:
    with pytest.raises(ValidationError, match=r"windows_needed \(4\) must not exceed windows \(3\)"):
        DriftSettings(windows_needed=4)


# Bad input.


def test_missing_column_is_named_with_the_closest_match() -> None:
    reference = numbers().rename({"x": "wind_speed"})
    with pytest.raises(DriftInputError, match=r"reference table: .* 1 missing: 'wind_sped'. .*Did you mean 'wind_sp"):
        measure_drift(reference, numbers(), features=["wind_sped"], settings=DriftSettings())


def test_column_of_another_kind_is_named_with_both_types() -> None:
    with pytest.raises(DriftInputError, match=r"'x': expected numbers .* found Float64 in the reference, String in"):
        measure_drift(numbers(), carriers({"AA": 1.0}), features=["x"], settings=DriftSettings())


def test_column_that_is_neither_number_nor_category_is_rejected() -> None:
    times = numbers().select(pl.lit("2013-01-01").str.to_date().alias("x"))
    with pytest.raises(DriftInputError, match="found Date in the reference"):
        measure_drift(times, times, features=["x"], settings=DriftSettings())


def test_empty_list_of_columns_is_rejected() -> None:
    with pytest.raises(DriftInputError, match="at least one column"):
        measure_drift(numbers(), numbers(), features=[], settings=DriftSettings())
