"""One bento under BentoML's server: what is under way when it is told to end is answered and logged."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ml_platform.serving.package import Package
from ml_platform_tests.serving.conftest import Toy, row

pytestmark = pytest.mark.slow


def test_request_under_way_at_sigterm_is_answered_and_logged(tmp_path: Path, toy: Toy, package: Package) -> None:
    port_file, log = tmp_path / "port", tmp_path / "predictions"
    environment = {
        **os.environ,
        "ML_PLATFORM_ONLINE": str(toy.online),
        "ML_PLATFORM_PREDICTION_LOG": str(log),
    }
    command = ["-m", "ml_platform.serving.launch", str(package.path), str(port_file), str(tmp_path / "log")]
    server = subprocess.Popen([sys.executable, *command], env=environment)
    try:
        while not port_file.exists():
            assert server.poll() is None
            threading.Event().wait(0.02)
        body = json.dumps({"rows": [row()]}).encode()
        with socket.create_connection(("127.0.0.1", int(port_file.read_text())), timeout=30) as client:
            client.sendall(b"GET /readyz HTTP/1.1\r\nhost: toy\r\n\r\n")
            assert b"200 OK" in client.recv(4096)
            head = f"POST /v1/toy/predict HTTP/1.1\r\nhost: toy\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            client.sendall(head + body[:5])
            threading.Event().wait(0.2)  # the server has the head, and waits for the rest
            server.send_signal(signal.SIGTERM)
            threading.Event().wait(0.2)
            client.sendall(body[5:])
            answer = client.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200")
        assert server.wait(20) in (0, -signal.SIGTERM)
        (file,) = log.glob("*.jsonl")
        assert json.loads(file.read_text())["score"] == toy.scores[0]
    finally:
        server.kill()
        server.wait()
