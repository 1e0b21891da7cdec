"""Log records of the process manager: harmless conflicts are dropped and errors are kept."""

import logging

import pytest
from circus.exc import ConflictError
from tornado.ioloop import IOLoop

from ml_platform.serving.processes import is_relevant_log_record


@pytest.mark.parametrize(
    ("error", "records"), [(ConflictError("arbiter is already running watcher_start command"), 0), (OSError("gone"), 1)]
)
def test_conflict_of_a_check_with_a_command_is_not_logged_but_an_error_is(
    caplog: pytest.LogCaptureFixture, error: Exception, records: int
) -> None:
    def fails() -> None:
        raise error

    log = logging.getLogger("tornado.application")
    log.addFilter(is_relevant_log_record)
    loop = IOLoop(make_current=False)
    try:
        loop.add_callback(fails)
        loop.add_callback(loop.stop)
        loop.start()
    finally:
        loop.close()
        log.removeFilter(is_relevant_log_record)
    assert len(caplog.records) == records
