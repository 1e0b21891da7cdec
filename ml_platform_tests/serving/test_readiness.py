"""Readiness of several services at the same time: one that hangs delays no answer of the others."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ml_platform.serving.readiness import ReadinessProbes
from ml_platform_tests.polling import until


class Service(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(type(self).status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@contextmanager
def running(handler: type[Service]) -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def test_only_services_that_answer_ready_are_ready(tmp_path: Path) -> None:
    class Starting(Service):
        status = 503

    probes = ReadinessProbes()
    with running(Service) as good, running(Starting) as starting, ExitStack() as stack:
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        ports = {"good": good, "starting": starting, "gone": 1}
        ports |= {f"silent-{number}": each.getsockname()[1] for number, each in enumerate(silent)}
        files = {name: tmp_path / name for name in [*ports, "absent"]}
        for name, port in ports.items():
            files[name].write_text(str(port))
        until(lambda: probes.ready(files) == {"good": good})
        # A service that is left out is forgotten, and one that answers later is ready then.
        assert probes.ready({"starting": files["starting"]}) == {}
        Starting.status = 200
        until(lambda: probes.ready({"starting": files["starting"]}) == {"starting": starting})


def test_service_that_begins_to_hang_is_not_ready_once_its_time_is_over(tmp_path: Path) -> None:
    probes, file = ReadinessProbes(), tmp_path / "port"
    with running(Service) as port:
        file.write_text(str(port))
        until(lambda: probes.ready({"one": file}) == {"one": port})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        file.write_text(str(silent.getsockname()[1]))
        # As it was before, until the question has had its time.
        assert probes.ready({"one": file}) == {"one": port}
        until(lambda: probes.ready({"one": file}) == {})
