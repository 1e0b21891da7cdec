"""The printed lines of a step in a process of its own: files that the Dagster UI shows, without mirror processes."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dagster._core.execution.compute_logs import redirect_to_file
from dagster._core.storage.compute_log_manager import CapturedLogContext, ComputeIOType
from dagster._core.storage.local_compute_log_manager import IO_TYPE_EXTENSION, LocalComputeLogManager
from dagster._utils import ensure_file, touch_file


class StepOutput(LocalComputeLogManager):
    """The files of printed lines below the folder ``base_dir``.

    Dagster's own class starts four processes for each capture, which copy the lines to the terminal of the run.
    """

    @contextmanager
    def capture_logs(self, log_key: Sequence[str]) -> Iterator[CapturedLogContext]:
        """Redirect the standard output and the standard error of this process to their files."""
        output, errors = (
            self.get_captured_local_path(log_key, IO_TYPE_EXTENSION[each])
            for each in (ComputeIOType.STDOUT, ComputeIOType.STDERR)
        )
        ensure_file(output)
        ensure_file(errors)
        with redirect_to_file(sys.stdout, output), redirect_to_file(sys.stderr, errors):
            yield CapturedLogContext(log_key)
        touch_file(self.complete_artifact_path(log_key))  # type: ignore[no-untyped-call]
