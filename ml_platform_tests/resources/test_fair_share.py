"""Weighted fair sharing: 50 models of 5 domains get their shares, and none waits for ever."""

import pytest

from benchmarks import fair_share
from resources.fair_share import need, place


def test_domain_with_runs_waits_for_its_own_and_one_without_begins_now() -> None:
    first = place(now=100.0, last_finish=0.0, cost=60.0, weight=3.0)
    assert (first.start, first.finish) == (100.0, 120.0)
    second = place(now=100.0, last_finish=first.finish, cost=60.0, weight=3.0)
    assert (second.start, second.finish) == (120.0, 140.0)


def test_cost_is_that_of_the_scarcest_resource() -> None:
    capacity = {"runs": 8.0, "gpu": 2.0}
    assert (need(80.0, {"runs": 1.0}, capacity).resource, need(80.0, {"runs": 1.0}, capacity).seconds) == ("runs", 10.0)
    with_gpu = need(80.0, {"runs": 1.0, "gpu": 1.0}, capacity)
    assert (with_gpu.resource, with_gpu.seconds) == ("gpu", 40.0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_domain_gets_its_share_of_processors_and_gpus(seed: int) -> None:
    found = fair_share.busy(days=30, seed=seed)
    for name, share in found["share"].items():
        assert share == pytest.approx(fair_share.entitled()[name.split()[0]], rel=0.05), name
    assert all(use >= 0.9 for use in found["use"].values())


def test_domain_that_floods_the_queue_takes_nothing_from_the_others() -> None:
    fair, fifo = fair_share.flood(days=30, fair=True), fair_share.flood(days=30, fair=False)
    assert fair["share"]["alpha cpu"] == pytest.approx(0.1, rel=0.05)
    assert fifo["share"]["alpha cpu"] > 0.5  # the reason for the rule
    usual = fair_share.busy(days=30)["longest_wait_hours"]
    for domain in ("beta", "gamma", "delta", "epsilon"):
        assert fair["longest_wait_hours"][domain] == pytest.approx(usual[domain], rel=0.2)


def test_domain_that_paused_has_its_share_again_and_no_credit() -> None:
    found = fair_share.idle(days=60)["share"]
    for name in ("alpha cpu", "delta cpu"):
        assert found[name] == pytest.approx(fair_share.entitled()[name.split()[0]], rel=0.05)
