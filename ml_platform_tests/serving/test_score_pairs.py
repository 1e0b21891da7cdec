"""Scores of the same request by both versions are compared once, whatever was read before or twice."""

import json

import pytest

from ml_platform.serving.score_pairs import MAX_WAITING, ScorePairs


def page(scores: dict[str, float] | list[tuple[str, float]], requests: int | None = None) -> str:
    listed = list(scores.items()) if isinstance(scores, dict) else scores
    return json.dumps({"requests": len(listed) if requests is None else requests, "scores": listed})


def test_pairs_are_counted_once_although_pages_overlap() -> None:
    pairs = ScorePairs(changed_by=0.2)
    stable, shadow = page({"a": 0.1, "b": 0.5}), page({"a": 0.15, "b": 0.8})
    assert pairs.add([("stable", "s", stable), ("candidate", "c", shadow)]) == (2, 1)
    assert pairs.add([("stable", "s", stable), ("candidate", "c", shadow)]) == (2, 1)


def test_answer_of_the_shadow_may_come_a_look_later() -> None:
    pairs = ScorePairs(changed_by=0.2)
    assert pairs.add([("stable", "s", page({"a": 0.1}))]) == (0, 0)
    assert pairs.add([("candidate", "c", page({"a": 0.9}))]) == (1, 1)


def test_replicas_and_a_restarted_process_are_read_from_their_start() -> None:
    pairs = ScorePairs(changed_by=0.2)
    pairs.add([("stable", "s1", page({"a": 0.1})), ("stable", "s2", page({"b": 0.1})), ("candidate", "c", page({}))])
    found = pairs.add([("candidate", "c", page({"a": 0.1, "b": 0.1}, requests=2))])
    assert found == (2, 0)
    pairs.add([("stable", "s1", page({"d": 0.1}, requests=700))])
    assert pairs.add([("candidate", "c", page({"d": 0.1}, requests=1))]) == (3, 0)


@pytest.mark.parametrize("score", [-0.5, 1.5, 250.0])
def test_scores_that_are_no_probabilities_are_not_compared(score: float) -> None:
    pairs = ScorePairs(changed_by=0.2)
    assert pairs.add([("stable", "s", page({"a": score})), ("candidate", "c", page({"a": 0.1}))]) == (0, 0)


def test_request_id_that_a_client_sends_twice_is_left_out() -> None:
    pairs = ScorePairs(changed_by=0.2)
    twice = [("a", 0.1), ("a", 0.9)]
    assert pairs.add([("stable", "s", page(twice)), ("candidate", "c", page([("a", 0.1)]))]) == (0, 0)


def test_requests_without_an_answer_of_the_other_are_forgotten() -> None:
    pairs = ScorePairs(changed_by=0.2)
    many = {str(number): 0.5 for number in range(MAX_WAITING + 10)}
    pairs.add([("stable", "s", page(many))])
    assert pairs.add([("candidate", "c", page(many))]) == (MAX_WAITING, 0)
