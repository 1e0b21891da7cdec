"""Prints the address of each process and endpoint of `ml-platform up` once it answers.

An address is printed only when a process listens there, so a printed link always opens.
"""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ml_platform.serving.serving_status import ServedModel, read_serving_status

NAME_WIDTH = 16


@dataclass(frozen=True)
class ManagedProcess:
    """A started process: its address (empty: no page), its port (None: it listens on none), and its log."""

    name: str
    address: str
    port: int | None
    log: Path


@dataclass
class StartupReporter:
    """Reports each process and endpoint once, when it answers.

    A process that does not answer after ``warn_after_seconds`` is reported once with its log.
    """

    processes: Sequence[ManagedProcess]
    status_file: Path
    echo: Callable[[str], None]
    warn_after_seconds: float
    _announced: set[str] = field(default_factory=set)
    _warned: set[str] = field(default_factory=set)
    _announced_endpoints: dict[str, tuple[str, str | None]] = field(default_factory=dict)

    def poll(self, elapsed_seconds: float) -> None:
        """Check the processes and endpoints, ``elapsed_seconds`` after the start."""
        for process in self.processes:
            if process.name in self._announced:
                continue
            if process.port is None or _is_listening(process.port):
                self._announced.add(process.name)
                self.echo(f"{process.name:<{NAME_WIDTH}}{process.address or f'no page; its log: {process.log}'}")
            elif elapsed_seconds > self.warn_after_seconds and process.name not in self._warned:
                self._warned.add(process.name)
                self.echo(f"{process.name:<{NAME_WIDTH}}does not answer yet; its log: {process.log}")
        status = read_serving_status(self.status_file)
        for model, served in sorted(status.models.items()) if status else []:
            self._announce_endpoint(model, served)

    def _announce_endpoint(self, model: str, served: ServedModel) -> None:
        if self._announced_endpoints.get(model) != (served.endpoint, served.stable):
            self._announced_endpoints[model] = (served.endpoint, served.stable)
            self.echo(f"{model:<{NAME_WIDTH}}{served.endpoint} (version {served.stable})")
            self.echo(f"{'':<{NAME_WIDTH}}{served.endpoint.removesuffix('predict')}")


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
