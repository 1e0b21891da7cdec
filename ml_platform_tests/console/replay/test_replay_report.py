"""The report of a replay: means over windows, costs by policy, and a page with every decision and its reason."""

import math

from ml_platform.console.replay.figures import (
    NEVER,
    PolicyFigures,
    WindowQuality,
    compared_policies,
    incident_values,
    mean_metrics,
    policy_figures,
    report_values,
)
from ml_platform.console.replay.incidents import Incident, PlantedIncident
from ml_platform.console.replay.report import drawn_values
from ml_platform.console.replay.steps import ReplayPlan, WindowRecord, WindowSent
from ml_platform.console.site.charts import lines_chart
from ml_platform.console.site.pages import replay_page

MONTHS = ["2013-04", "2013-05"]
PLAN = ReplayPlan(domain="shops", model="late", policy="policy", windows=MONTHS)


def quality(window: str, log_loss: float, *, n: int = 90) -> WindowQuality:
    metrics = {"log_loss": log_loss, "auc": 0.7} if n else {}
    return WindowQuality(window=window, version=1, predictions=100, doubled=0, lost=0, n=n, metrics=metrics)


def record(window: str, *, decision: str, seconds: float) -> WindowRecord:
    at = f"{window}-30T12:00:00+00:00"
    return WindowRecord(
        window=window,
        sent=WindowSent(window=window, rows=100, resent=0, seconds=1.0, champion=1),
        decisions=[{"kind": "retraining", "at": at, "decision": decision, "reason": f"<1 of 2> in {window}"}],
        drift={"partition": window, "columns": {"late__hour": 1.25}},
        champion=1,
        runs=4,
        failed_runs=["a-run"] if seconds else [],
        run_seconds=20.0,
        training_seconds=seconds,
        trainings=1 if seconds else 0,
        seconds=60.0,
    )


RECORDS = [
    record("2013-04", decision="don't retrain", seconds=0.0),
    record("2013-05", decision="retrain", seconds=12.0),
]


def policies() -> dict[str, PolicyFigures]:
    replayed = [quality("2013-04", 0.40), quality("2013-05", 0.50)]
    kept = [quality("2013-04", 0.40), quality("2013-05", 0.60)]
    return {
        "policy": policy_figures("policy", replayed, RECORDS),
        NEVER: policy_figures(NEVER, kept, RECORDS, computed=True),
    }


def test_each_window_has_equal_weight_and_one_without_outcomes_none() -> None:
    found = mean_metrics([quality("2013-04", 0.4, n=10), quality("2013-05", 0.6), quality("2013-06", 9.0, n=0)])
    assert math.isclose(found["log_loss"], 0.5)
    assert mean_metrics([]) == {}


def test_a_computed_policy_costs_no_training() -> None:
    found = policies()
    assert (found["policy"].trainings, found["policy"].training_seconds) == (1, 12.0)
    assert (found[NEVER].trainings, found[NEVER].training_seconds) == (0, 0.0)


def test_the_json_names_its_windows_by_their_period() -> None:
    found = report_values(PLAN, RECORDS, policies(), "month", "log_loss")
    assert [each["month"] for each in found["months"]] == MONTHS
    may = found["months"][1]
    assert {name: may[name] for name in ("n", "auc", "log_loss", "champion_version", "lost", "doubled")} == {
        "n": 90,
        "auc": 0.7,
        "log_loss": 0.5,
        "champion_version": 1,
        "lost": 0,
        "doubled": 0,
    }
    assert [each["decision"] for each in may["decisions"]] == ["retrain"]
    assert found["policies"]["never"]["mean"]["log_loss"] == 0.5


def test_the_page_shows_each_decision_with_its_reason_as_text() -> None:
    page = replay_page(
        drawn_values(report_values(PLAN, RECORDS, policies(), "month", "log_loss"), policies(), RECORDS), "month"
    )
    assert "&lt;1 of 2&gt; in 2013-04" in page
    assert "don&#39;t retrain" in page
    assert "late__hour" in page
    assert page.count('<polyline class="line line-') == 4  # two policies, two metrics
    assert "never, 2013-05: 0.6000" in page


def test_a_window_without_drift_is_empty_in_the_heat_map() -> None:
    records = [RECORDS[0].model_copy(update={"drift": None}), RECORDS[1]]
    values = report_values(PLAN, records, policies(), "month", "log_loss")
    assert "late__hour" in replay_page(drawn_values(values, policies(), records), "month")


def test_a_window_without_a_value_is_a_gap() -> None:
    chart = lines_chart("auc", ["a", "b", "c"], {"policy": [0.7, None, 0.8]})
    assert chart.count("<circle") == 2
    assert lines_chart("auc", ["a"], {"policy": [None]}) == ""


def test_the_policy_is_compared_in_the_windows_that_both_policies_have() -> None:
    every = [quality("2013-05", 0.45), quality("2013-06", 9.0)]
    trained = [record("2013-04", decision="retrain", seconds=18.0), record("2013-05", decision="retrain", seconds=12.0)]
    found = compared_policies({**policies(), "monthly": policy_figures("monthly", every, trained)}, "log_loss")
    assert math.isclose(found["monthly"]["difference"], 0.05)
    assert found["monthly"]["worse_in"] == ["2013-05"]
    assert (found["monthly"]["trainings_share"], found["monthly"]["cost_share"]) == (0.5, 0.4)
    assert math.isclose(found[NEVER]["difference"], -0.05)
    assert found[NEVER]["cost_share"] is None


def test_an_incident_has_the_alerts_of_its_windows_and_of_the_next_one() -> None:
    windows = [f"2013-{month:02d}" for month in range(4, 9)]
    records = [record(each, decision="retrain", seconds=1.0) for each in windows]
    alerts = [[{"title": f"Alert of {each.window}"}] for each in records]
    records = [each.model_copy(update={"alerts": found}) for each, found in zip(records, alerts, strict=True)]
    stuck = PlantedIncident("stuck", Incident("A sensor is stuck.", lambda _, data: data), ("2013-06",), frozenset())
    qualities = [quality(each, loss) for each, loss in zip(windows, (0.2, 0.4, 0.9, 0.5, 0.3), strict=True)]
    (found,) = incident_values([stuck], records, qualities, "log_loss")
    assert [each["title"] for each in found["noticed"]] == ["Alert of 2013-06", "Alert of 2013-07"]
    assert [round(found[each], 6) for each in ("before", "within", "after")] == [0.3, 0.9, 0.4]
