"""Asks services whether they are ready, all at the same time, so that one that hangs does not delay the others."""

import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

HTTP_TIMEOUT_SECONDS = 2.0
WAIT_SECONDS = 1.0
"""Longest wait for the answers of one look; a service that has not answered by then is as it was before."""

_QUESTIONS_AT_ONCE = 16


class ReadinessProbes:
    """Looks at services; an answer that comes later counts in the next look."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_QUESTIONS_AT_ONCE, thread_name_prefix="readiness")
        self._asked: dict[str, Future[int | None]] = {}
        self._known: dict[str, int | None] = {}

    def ready(self, port_files: Mapping[str, Path]) -> dict[str, int]:
        """Return the ports of the services that are ready, of those with ``port_files``, by name."""
        for name, file in port_files.items():
            if name not in self._asked:
                self._asked[name] = self._pool.submit(_ready_port, file)
        wait(self._asked.values(), timeout=WAIT_SECONDS)
        for name, answer in list(self._asked.items()):
            if answer.done():
                self._known[name] = answer.result()
                del self._asked[name]
        self._known = {name: port for name, port in self._known.items() if name in port_files}
        return {name: port for name, port in self._known.items() if port is not None}


def _ready_port(file: Path) -> int | None:
    """Return the port in ``file`` if its service is ready, else None."""
    try:
        port = int(file.read_text())
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=HTTP_TIMEOUT_SECONDS) as answer:
            return port if answer.status == 200 else None
    except (OSError, ValueError, urllib.error.URLError):
        return None
