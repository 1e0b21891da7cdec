"""The estimated loss is evidence only while the realised one is not there, and only with a reliable track record."""

import pytest
from scipy.stats import norm

from ml_platform.monitoring.estimated_loss import estimated_loss
from ml_platform.monitoring.label_doubts import Doubt
from ml_platform.monitoring.performance import Period
from ml_platform.monitoring.retraining_policy import LossEvidence
from ml_platform_tests.monitoring.test_track_record import period

IMMATURE = [Doubt(kind="immature", text="")]
GOOD_RECORD = [period(at, 0.40) for at in range(4)]


def found(periods: list[Period], *, version: int = 7, promised: float = 0.35) -> LossEvidence | None:
    return estimated_loss(periods, version=version, metric="log_loss", promised=promised, tolerance=0.02)


def test_evidence_follows_from_the_distance_of_the_estimate_in_standard_errors() -> None:
    evidence = found([*GOOD_RECORD, period(4, None, 0.42)])
    assert evidence is not None
    p_value = norm.sf((0.42 - 0.37) / (0.02 / 1.959964))
    assert evidence.evidence == pytest.approx(0.5 / p_value**0.5, rel=1e-4)
    assert (evidence.mean, evidence.days, evidence.labels, evidence.since) == (0.42, 1, 0, "2013-11-02")


def test_estimate_within_the_promise_is_no_evidence() -> None:
    evidence = found([*GOOD_RECORD, period(4, None, 0.42)], promised=0.5)
    assert evidence is not None
    assert evidence.evidence < 1


def test_realised_period_needs_no_estimate_and_an_immature_one_does() -> None:
    assert found(GOOD_RECORD) is None
    immature = period(4, 0.39, label_state="marked", pending=300, doubts=IMMATURE)
    assert found([*GOOD_RECORD, immature]) is not None


def test_unreliable_or_short_record_is_not_used_and_says_why() -> None:
    missed = found([*(period(at, 0.6) for at in range(4)), period(4, None, 0.5)])
    short = found([period(0, 0.40), period(1, None, 0.5)])
    assert missed is not None
    assert short is not None
    assert (missed.days, short.days) == (0, 0)
    assert missed.note.startswith("Not reliable: 0 of 4")
    assert short.note.startswith("Too few periods for a judgement: 1 of 1")


def test_other_version_or_no_estimate_is_no_evidence() -> None:
    assert found([*GOOD_RECORD, period(4, None)], version=8) is None
    assert found([*GOOD_RECORD, period(4, None).model_copy(update={"estimates": {}})]) is None
