"""Each rule of the retraining policy calls for a retraining, prevents it, or says what it lacks; all are recorded."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from ml_platform.monitoring.retraining_policy import (
    DriftEvidence,
    EvaluatedWindow,
    Evidence,
    LossEvidence,
    RetrainingDecision,
    Spending,
    decide,
)
from ml_platform.monitoring.retraining_settings import RetrainingPolicy

MAY, JUNE, JULY = (datetime(2013, month, 1, tzinfo=UTC) for month in (6, 7, 8))
"""Ends of the windows 2013-05, 2013-06 and 2013-07."""

QUIET = Evidence(
    window="2013-06",
    data_time=JUNE,
    evaluated=EvaluatedWindow("2013-05", MAY),
    champion=EvaluatedWindow("2013-05", MAY),
    drift=DriftEvidence("steady", "Steady: nothing changed."),
)
WORSE = LossEvidence(
    version=3, metric="log_loss", promised=0.45, mean=0.58, days=30, labels=900, evidence=180.0, until="2013-06-28"
)


def decided(evidence: Evidence, **policy: Any) -> RetrainingDecision:
    return decide(RetrainingPolicy.model_validate(policy), evidence)


def effects(decision: RetrainingDecision) -> dict[str, str]:
    return {each.rule: each.effect for each in decision.because}


def test_without_a_policy_each_closed_window_is_trained_on() -> None:
    late = replace(QUIET, decided_until=JULY, spent=Spending(runs=99))
    assert decide(None, late).retrain
    assert decide(None, late).text == "Retrain: 2013-06 has closed."


@pytest.mark.parametrize(("since", "retrain"), [(1, False), (2, False), (3, True), (4, True), (0, True)])
def test_new_data_counts_closed_windows_and_changed_rows_of_the_evaluated_one(since: int, retrain: bool) -> None:
    found = decided(replace(QUIET, windows_since=since), new_data={"every_windows": 3})
    assert found.retrain is retrain
    assert found.because[0].numbers == {"windows": since, "needed": 3}


@pytest.mark.parametrize(
    ("severity", "found", "effect"),
    [
        ("alert", "steady", "no cause"),
        ("alert", "notice", "no cause"),
        ("alert", "alert", "retrain"),
        ("notice", "notice", "retrain"),
        ("notice", "not evaluated", "unknown"),
    ],
)
def test_drift_calls_for_a_retraining_from_its_severity_on(severity: str, found: Any, effect: str) -> None:
    evidence = replace(QUIET, drift=DriftEvidence(found, "Scores shifted."))
    decision = decided(evidence, drift={"severity": severity})
    assert effects(decision) == {"drift": effect}
    assert decision.retrain is (effect == "retrain")
    assert "Scores shifted." in decision.text


def test_drift_that_is_not_measured_is_named() -> None:
    decision = decided(replace(QUIET, drift=None), drift={})
    assert decision.text == "Don't retrain: The drift of 2013-06 is not measured yet."


def test_realised_loss_calls_for_a_retraining_once_its_evidence_is_enough() -> None:
    assert decided(replace(QUIET, realised=WORSE), loss={"error": 0.01}).retrain
    stricter = decided(replace(QUIET, realised=WORSE), loss={"error": 0.001})
    assert not stricter.retrain
    assert stricter.text == (
        "Don't retrain: The realised log loss of version 3 is 0.5800 on 30 days until 2013-06-28, and at most 0.4500 "
        "was promised. The evidence that it is worse by more than 0.02 is 180.0; 1,000 calls for a retraining."
    )


def test_labels_that_are_not_due_are_named() -> None:
    waiting = replace(WORSE, days=0, labels=0, evidence=1.0, until="", waiting_for="2013-06-02")
    decision = decided(replace(QUIET, realised=waiting), loss={})
    assert effects(decision) == {"loss": "unknown"}
    assert "The labels of 2013-06-02 are not due." in decision.text


def test_estimated_loss_counts_beside_the_realised_one_where_it_is_known() -> None:
    decision = decided(replace(QUIET, realised=replace(WORSE, evidence=2.0), estimated=WORSE), loss={})
    assert effects(decision) == {"loss": "no cause", "estimated_loss": "retrain"}
    assert decision.retrain


def test_estimated_loss_without_a_reliable_record_is_unknown_and_says_why() -> None:
    unused = replace(WORSE, days=0, since="2013-06-01", note="Not reliable: 1 of 4 realised values.")
    decision = decided(replace(QUIET, estimated=unused), loss={"estimated": True})
    assert effects(decision) == {"loss": "unknown", "estimated_loss": "unknown"}
    assert decision.because[1].text == (
        "The estimated loss of the predictions from 2013-06-01 is not used. Not reliable: 1 of 4 realised values."
    )


def test_estimated_loss_names_its_period_and_its_record() -> None:
    found = replace(WORSE, labels=0, until="", since="2013-06-01", note="5 of 5 realised values.")
    text = decided(replace(QUIET, estimated=found), loss={"estimated": True}).because[1].text
    assert "is 0.5800 for the predictions from 2013-06-01, whose labels are not known yet, and at most 0.4500" in text
    assert text.endswith("5 of 5 realised values.")


@pytest.mark.parametrize(("limit", "retrain"), [(31, False), (30, True)])
def test_old_champion_calls_for_a_retraining_on_the_data_clock(limit: float, retrain: bool) -> None:
    assert decided(QUIET, max_age_days=limit).retrain is retrain


def test_cooldown_prevents_a_retraining_and_both_are_recorded() -> None:
    decision = decided(QUIET, new_data={}, cooldown_days=31)
    assert not decision.retrain
    assert effects(decision) == {"new_data": "retrain", "cooldown": "prevent"}
    assert decision.text == "Don't retrain: 2013-05 was evaluated 30.0 days ago, within the cooldown of 31 days."
    assert decided(QUIET, new_data={}, cooldown_days=30).retrain


@pytest.mark.parametrize(
    ("budget", "spent", "retrain"),
    [
        ({"runs": 2}, Spending(1, 1e9), True),
        ({"runs": 2}, Spending(2, 0.0), False),
        ({"training_seconds": 3600}, Spending(99, 3599.0), True),
        ({"training_seconds": 3600}, Spending(1, 3600.0), False),
    ],
)
def test_spent_budget_is_a_hard_stop(budget: dict[str, float], spent: Spending, retrain: bool) -> None:
    decision = decided(replace(QUIET, spent=spent), new_data={}, budget={"days": 90, **budget})
    assert decision.retrain is retrain
    assert ("The budget is spent" in decision.text) is not retrain


def test_calendar_names_its_reason_and_may_return_each_year() -> None:
    block = {"first": "2012-06-15", "last": "2012-07-05", "reason": "Holiday traffic."}
    assert decided(QUIET, new_data={}, calendar=[block]).retrain
    yearly = decided(QUIET, new_data={}, calendar=[{**block, "every_year": True}])
    assert yearly.text.endswith("from 2012-06-15 to 2012-07-05, every year: Holiday traffic.")
    assert not yearly.retrain


@pytest.mark.parametrize("known", [{"decided_until": JULY}, {"evaluated": EvaluatedWindow("2013-07", JULY)}])
def test_window_before_a_decided_one_is_not_trained_on(known: dict[str, Any]) -> None:
    decision = decided(replace(QUIET, **known), new_data={})
    assert effects(decision)["clock"] == "prevent"
    assert "it landed late, or the data clock went back" in decision.text


def test_model_without_candidate_or_champion_is_trained_unless_prevented() -> None:
    new = Evidence("2013-06", JUNE, drift=QUIET.drift)
    assert decided(new, drift={}).text == "Retrain: No candidate was evaluated yet."
    assert decided(replace(QUIET, champion=None), max_age_days=90).text == "Retrain: The model has no champion."
    block = {"first": "2013-07-01", "last": "2013-07-01", "reason": "Freeze."}
    assert not decided(new, drift={}, calendar=[block]).retrain


def test_changed_code_calls_for_a_retraining() -> None:
    assert (
        decided(replace(QUIET, changed_code=("lightgbm",)), drift={}).text
        == "Retrain: The code of 'lightgbm' has changed."
    )


def test_outcome_is_equal_for_equal_effects_and_differs_with_them() -> None:
    policy: dict[str, Any] = {"loss": {}, "drift": {}}
    first, later, worse = (
        decided(replace(QUIET, realised=replace(WORSE, evidence=number)), **policy) for number in (1.0, 2.0, 200.0)
    )
    assert first.outcome == later.outcome
    assert first.because != later.because
    assert worse.outcome != first.outcome
    assert decided(QUIET, **policy) == decided(replace(QUIET), **policy)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"cooldown_days": 3}, "needs a rule that calls for a retraining: new_data, drift, loss or max_age_days"),
        ({"new_data": {}, "budget": {"days": 30}}, "a budget needs runs, training_seconds or both"),
        ({"new_data": {"every_window": 3}}, "there is no attribute 'every_window'. Did you mean 'every_windows'?"),
        (
            {"new_data": {}, "calendar": [{"first": "2013-02-01", "last": "2013-01-01", "reason": "x"}]},
            "the last day 2013-01-01 is before the first day 2013-02-01",
        ),
    ],
)
def test_policy_that_cannot_act_is_refused(policy: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message.replace("?", r"\?")):
        RetrainingPolicy.model_validate(policy)


def test_data_time_is_the_end_of_the_window() -> None:
    assert decided(replace(QUIET, data_time=JUNE + timedelta(days=2)), new_data={}).data_time == JUNE + timedelta(
        days=2
    )
