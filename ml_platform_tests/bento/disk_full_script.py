"""Logs predictions in its own process while its files cannot grow, and prints what became of them as JSON.

``python -m ml_platform_tests.bento.disk_full_script KIND FOLDER``; KIND is ``limit`` (a limit on the size of files) or
``disk`` (FOLDER is on a file system that other files fill).
"""

import errno
import json
import os
import resource
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bento.prediction_log import PredictionLog
from ml_platform.monitoring.log_lines import read_records
from ml_platform_tests.bento.conftest import answered_request

LIMIT_BYTES = 100
ROWS = 25


def main(kind: str, folder: Path) -> dict[str, Any]:
    """Log ``ROWS`` rows each before, while and after the files cannot grow; return the statuses and all lines."""
    fill, free = {"limit": (_limit_size, _lift_limit), "disk": (_fill_disk, _free_disk)}[kind]
    handled = threading.Semaphore(0)
    log = PredictionLog(folder / "log", "toy", "3", batch_seconds=0, on_handled=lambda _: handled.release())
    statuses = []

    def put(name: str, rows: int = 1) -> None:
        for number in range(ROWS // rows):
            log.put(answered_request(f"{name}-{number}", rows))
            assert handled.acquire(timeout=30)
        status = log.status()
        statuses.append([status.state, status.written_rows, status.dropped_rows, status.error])

    put("before")
    fill(folder)
    put("while")
    put("while-many", ROWS)
    free(folder)
    put("after")
    log.close()
    files = sorted((folder / "log").glob("*.jsonl"))
    content = b"".join(path.read_bytes() for path in files)
    return {
        "statuses": statuses,
        "names": [record["request_id"] for path in files for record in read_records(path)],
        "ends_with_newline": content.endswith(b"\n"),
        "final": [log.status().state, log.written_rows, log.dropped_rows],
    }


def _limit_size(_: Path) -> None:
    """Limit the size of files to less than a line, so that each write stops within it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _lift_limit(_: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def _fill_disk(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as filler:
        for size in (65536, 4096, 1):
            _write_until_full(lambda size=size: filler.write(b"x" * size))  # type: ignore[misc]


def _write_until_full(write: Callable[[], object]) -> None:
    try:
        while True:
            write()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def _free_disk(folder: Path) -> None:
    os.truncate(folder / "filler", 0)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
