"""A real NATS server with JetStream on this machine, for tests of streams."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from ml_platform.serving.processes import free_port
from ml_platform_tests.polling import until

SERVER = Path(sys.executable).with_name("nats-server")


@contextmanager
def running_nats(folder: Path, port: int | None = None, *arguments: str) -> Iterator[str]:
    """Start the server with its files in ``folder`` and yield its address; stop it after the body."""
    if not SERVER.exists():
        pytest.skip("the NATS server `nats-server` is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    command = [str(SERVER), "-js", "-sd", str(folder / "store"), "-a", "127.0.0.1", "-p", str(port), *arguments]
    with (folder / "log").open("ab") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until(lambda: _answers(port))
        yield f"nats://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def _answers(port: int) -> bool:
    try:
        with closing(socket.create_connection(("127.0.0.1", port), timeout=1)) as connection:
            return connection.recv(4) == b"INFO"
    except OSError:
        return False
