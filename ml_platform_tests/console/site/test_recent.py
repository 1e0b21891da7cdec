"""The failures of the home page are read again after some seconds only."""

from typing import Any

import dagster as dg

from ml_platform.console.site.recent import SECONDS_KEPT, Recent
from resources.run_failures import unresolved_failures


@dg.asset
def broken() -> None:
    raise ValueError("no lake")


def test_failures_are_read_again_after_their_time() -> None:
    now = [0.0]
    with dg.instance_for_test() as instance:
        failures = Recent[int, list[dict[str, Any]]](
            lambda limit: unresolved_failures(instance, limit), clock=lambda: now[0]
        )
        before = failures.current(8)
        dg.materialize([broken], instance=instance, raise_on_error=False)
        now[0] = SECONDS_KEPT - 1
        kept = failures.current(8)
        now[0] = SECONDS_KEPT
        (found,) = failures.current(8)
    assert before == kept == []
    assert found["reason"].startswith("broken: ")
    assert found["run_id"]
