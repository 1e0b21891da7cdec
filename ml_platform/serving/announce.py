"""What `ml-platform up` tells while it runs: each thing once it answers, each endpoint once it serves, and where.

An address printed before anything listens there is a page that does not open.
"""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ml_platform.serving.status import ServedModel, read_status

NAME_WIDTH = 16


@dataclass(frozen=True)
class Awaited:
    """A process that was started: where people find it (empty: nowhere), its port (None: none), its log."""

    name: str
    address: str
    port: int | None
    log: Path


@dataclass
class Announcer:
    """Tells what is new at every :meth:`look`, each thing once; ``patience_seconds`` on, what still does not answer."""

    awaited: Sequence[Awaited]
    status_file: Path
    tell: Callable[[str], None]
    patience_seconds: float
    _answered: set[str] = field(default_factory=set)
    _missed: set[str] = field(default_factory=set)
    _endpoints: dict[str, tuple[str, str | None]] = field(default_factory=dict)

    def look(self, seconds: float) -> None:
        """Look at processes and endpoints, ``seconds`` after the start."""
        for each in self.awaited:
            if each.name in self._answered:
                continue
            if each.port is None or _listens(each.port):
                self._answered.add(each.name)
                self.tell(f"{each.name:<{NAME_WIDTH}}{each.address or f'no page; its log: {each.log}'}")
            elif seconds > self.patience_seconds and each.name not in self._missed:
                self._missed.add(each.name)
                self.tell(f"{each.name:<{NAME_WIDTH}}does not answer yet; its log: {each.log}")
        status = read_status(self.status_file)
        for model, served in sorted(status.models.items()) if status else []:
            self._endpoint(model, served)

    def _endpoint(self, model: str, served: ServedModel) -> None:
        if self._endpoints.get(model) != (served.endpoint, served.stable):
            self._endpoints[model] = (served.endpoint, served.stable)
            self.tell(f"{model:<{NAME_WIDTH}}{served.endpoint} (version {served.stable})")
            self.tell(f"{'':<{NAME_WIDTH}}{served.endpoint.removesuffix('predict')}")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
