"""The check `fairness` warns about a proven difference only, and names groups that cannot be judged."""

import pytest

from ml_platform.components.performance_results import fairness_result, performance_metadata
from ml_platform.monitoring.performance import PerformanceReport
from ml_platform.monitoring.realised_fairness import RealisedFairness, RealisedRate, State
from ml_platform_tests.monitoring.test_track_record import period

RATES = [
    RealisedRate(group="sex=f", rows=300, rate=0.4, low=0.35, high=0.45),
    RealisedRate(group="sex=m", rows=400, rate=0.7, low=0.65, high=0.75),
]


def report(state: State, *, rates: list[RealisedRate] = RATES) -> PerformanceReport:
    found = RealisedFairness(
        metric="true_positive_rate",
        state=state,
        rates=rates,
        beyond=["sex f (0.400) and m (0.700), 0.300 apart (at most 0.1)"],
        too_small=["sex=x"],
    )
    return PerformanceReport(periods=[period(0, 0.4).model_copy(update={"fairness": [found]})])


@pytest.mark.parametrize(
    ("state", "passed", "text"),
    [
        ("beyond", False, "groups proven to be beyond the limit: sex f (0.400) and m (0.700), 0.300 apart"),
        ("suspected", True, "groups perhaps beyond the limit"),
        ("within", True, "none of 2 groups is beyond the limit. Too few rows to judge: 'sex=x'."),
        ("too few rows", True, "no two groups have enough rows"),
    ],
)
def test_only_a_proven_difference_warns(state: State, passed: bool, text: str) -> None:
    result = fairness_result(report(state))
    assert result.passed is passed
    assert text in str(result.description)


def test_period_without_a_rate_is_not_evaluated() -> None:
    assert "Not evaluated" in str(fairness_result(PerformanceReport(periods=[])).description)


def test_rates_of_the_latest_period_are_a_table() -> None:
    rows = [each.data for each in performance_metadata(report("within"))["by_group"].records]
    assert [(row["metric"], row["group"], row["rows"], row["rate"]) for row in rows] == [
        ("true_positive_rate", "sex=f", 300, 0.4),
        ("true_positive_rate", "sex=m", 400, 0.7),
    ]
