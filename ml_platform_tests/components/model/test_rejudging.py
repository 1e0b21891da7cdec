"""A look at a waiting candidate whose run failed is tried again, after growing waits and a limited number of times."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from ml_platform.components.model.rejudging import RUN_KEY_TAG, next_attempt
from ml_platform.data.read_attempts import FIRST_WAIT_SECONDS, MAXIMUM_ATTEMPTS

KEY = "model|waiting|abc|def"


def add_run(instance: dg.DagsterInstance, key: str, status: dg.DagsterRunStatus) -> None:
    create_run_for_test(instance, job_name="look", tags={RUN_KEY_TAG: key}, status=status)


def later(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def test_first_look_is_due_at_once_and_a_failed_one_after_a_wait() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert next_attempt(instance, KEY, later(0)) == KEY
        add_run(instance, KEY, dg.DagsterRunStatus.FAILURE)
        waits = next_attempt(instance, KEY, later(FIRST_WAIT_SECONDS / 2))
        assert isinstance(waits, dg.SkipReason)
        assert "attempt 2 of 6 follows at" in str(waits.skip_message)
        assert next_attempt(instance, KEY, later(FIRST_WAIT_SECONDS + 5)) == f"{KEY}|2"
        add_run(instance, f"{KEY}|2", dg.DagsterRunStatus.FAILURE)
        assert isinstance(next_attempt(instance, KEY, later(FIRST_WAIT_SECONDS + 5)), dg.SkipReason)
        assert next_attempt(instance, KEY, later(4 * FIRST_WAIT_SECONDS + 5)) == f"{KEY}|3"


def test_look_is_given_up_after_the_last_attempt() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        for number in range(1, MAXIMUM_ATTEMPTS + 1):
            add_run(instance, KEY if number == 1 else f"{KEY}|{number}", dg.DagsterRunStatus.FAILURE)
        found = next_attempt(instance, KEY, later(1e9))
        assert isinstance(found, dg.SkipReason)
        assert "given up after attempt 6 of 6" in str(found.skip_message)


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.SUCCESS])
def test_look_that_was_cancelled_or_succeeded_is_not_tried_again(status: dg.DagsterRunStatus) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        add_run(instance, KEY, status)
        assert isinstance(next_attempt(instance, KEY, later(1e9)), dg.SkipReason)
