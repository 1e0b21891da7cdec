"""The failures of the home page are read again after some seconds only."""

import dagster as dg

from ml_platform.console.site.recent_failures import SECONDS_KEPT, RecentFailures


@dg.asset
def broken() -> None:
    raise ValueError("no lake")


def test_failures_are_read_again_after_their_time() -> None:
    now = [0.0]
    with dg.instance_for_test() as instance:
        failures = RecentFailures(instance, clock=lambda: now[0])
        before = failures.current()
        dg.materialize([broken], instance=instance, raise_on_error=False)
        now[0] = SECONDS_KEPT - 1
        kept = failures.current()
        now[0] = SECONDS_KEPT
        (found,) = failures.current()
    assert before == kept == []
    assert found["reason"].startswith("broken: ")
    assert found["run_id"]
