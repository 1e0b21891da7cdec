"""The course of a rollout is kept at a bounded number of points, the first and the last among them."""

from datetime import UTC, datetime, timedelta

from ml_platform.serving.arm_counts import ArmCounts, ArmTotals
from ml_platform.serving.rollout_curve import MAX_POINTS, RolloutCurve, read_curve_end, write_curve
from ml_platform.state.store import StateStore

START = datetime(2026, 1, 1, tzinfo=UTC)


def after(curve: RolloutCurve, second: float, weight: int = 5) -> RolloutCurve:
    totals = {arm: ArmTotals(answers=int(second)) for arm in ("candidate", "stable")}
    return curve.after(totals, weight, {"errors": 1.0}, START + timedelta(seconds=second))


def test_points_within_the_interval_are_left_out_except_those_of_a_new_step() -> None:
    curve = after(after(after(RolloutCurve(started=START), 1), 1.5), 1.6, weight=25)
    assert [(point.seconds, point.weight) for point in curve.points] == [(1, 5), (1.6, 25)]
    assert after(curve, 1.7, weight=25) is curve


def test_long_rollout_takes_no_more_space_than_a_short_one() -> None:
    curve = RolloutCurve(started=START)
    for second in range(10_000):
        curve = after(curve, second)
        assert len(curve.points) <= MAX_POINTS
    assert curve.points[0].seconds == 0
    assert curve.points[-1].seconds > 10_000 - curve.interval_seconds
    gaps = {late.seconds - early.seconds for early, late in zip(curve.points, curve.points[1:], strict=False)}
    assert gaps == {curve.interval_seconds}


def test_stored_end_tells_when_a_point_is_due_without_the_curve(state_store: StateStore) -> None:
    assert read_curve_end(state_store, "toy") is None
    curve = after(after(RolloutCurve(started=START), 1), 3)
    write_curve(state_store, "toy", curve)
    end = read_curve_end(state_store, "toy")
    assert end is not None
    assert end == curve.end
    now = START + timedelta(seconds=3.9)
    assert not end.is_due(START, 5, now)
    assert end.is_due(START, 25, now)
    assert end.is_due(START, 5, now + timedelta(seconds=0.1))
    assert end.is_due(START + timedelta(seconds=1), 5, now)


def test_totals_grow_over_restarts() -> None:
    totals = ArmTotals(answers=5, errors=1).plus(ArmCounts(answers=3, errors=2, timed=3, slow=1))
    assert totals == ArmTotals(answers=8, errors=3, timed=3, slow=1)
