"""The demo: the partitions that it trains on, those of the model within its data, and its line about the ranking."""

from types import SimpleNamespace

import dagster as dg
import polars as pl
import pytest

from ml_platform.components.not_loaded import not_loaded_definitions
from ml_platform.components.project import DomainNotLoadedError
from ml_platform.console.demo import _answer_text, _model_partitions, ranking_line, require_loaded
from ml_platform.data.partitions import PartitionScheme

DAYS = PartitionScheme(cadence="day", start="2011-01-01", time_zone="America/New_York")
WEEKS = PartitionScheme(cadence="week", start="2011-01-02", time_zone="America/New_York")
DATA, TRAINING_SET = dg.AssetKey(["datasets", "rides"]), dg.AssetKey(["demand", "training_set"])


def demo(first: str, last: str) -> SimpleNamespace:
    return SimpleNamespace(MODEL="demand", FIRST_PARTITION=first, LAST_PARTITION=last)


@pytest.mark.parametrize(("last", "expected"), [("2011-01-15", ["2011-01-02", "2011-01-09"]), ("2011-01-07", [])])
def test_days_of_data_name_the_weeks_that_are_whole(last: str, expected: list[str]) -> None:
    assert _model_partitions(demo("2011-01-01", last), {DATA: DAYS, TRAINING_SET: WEEKS}) == expected


def test_model_with_the_partitions_of_its_data_or_without_any() -> None:
    days = ["2011-01-01", "2011-01-02"]
    assert _model_partitions(demo(*days), {DATA: DAYS, TRAINING_SET: DAYS}) == days
    assert _model_partitions(demo("", ""), {DATA: None, TRAINING_SET: None}) == []


def test_domain_that_does_not_load_is_named_with_its_error() -> None:
    loaded = not_loaded_definitions({"rides": "assets/rides/defs.yaml:3: there is no attribute 'kyes'"})
    with pytest.raises(
        DomainNotLoadedError, match=r"Domain 'rides': expected .*defs.yaml:3: there is no.*'kyes'\. Correct"
    ):
        require_loaded(loaded, "rides")
    require_loaded(loaded, "demand")


def test_answer_is_the_label_in_words_or_the_interval() -> None:
    assert _answer_text({"label": True}, {True: "late"}) == "late"
    assert _answer_text({"label": "Gentoo"}, {}) == "Gentoo"
    assert _answer_text({"label": None, "interval": {"lower": 1.26, "upper": 20.0}}, {}) == "1.3 to 20.0"
    assert _answer_text({"label": None, "interval": None}, {}) == ""


def test_ranking_is_said_of_the_tenth_with_the_highest_scores() -> None:
    outcomes = pl.Series([None, True, True, *[False] * 18, True], dtype=pl.Boolean)
    scores = [0.99, 0.9, 0.1, *[0.2] * 18, 0.8]
    assert ranking_line(outcomes, scores, "flights") == (
        "The event happened for 2 of the 2 flights with the highest scores, a tenth (100%), and for 3 of all 21 (14%)."
    )


@pytest.mark.parametrize("outcomes", [pl.Series([12.0] * 20), pl.Series([True] * 9), pl.Series(["Adelie"] * 20)])
def test_ranking_is_not_said_of_other_outcomes_or_of_few_rows(outcomes: pl.Series) -> None:
    assert ranking_line(outcomes, [0.5] * len(outcomes), "rows") == ""
