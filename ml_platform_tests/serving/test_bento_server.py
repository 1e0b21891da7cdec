"""A bento under BentoML's server: requests in flight at shutdown are answered and logged."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from ml_platform.monitoring.log_lines import read_records
from ml_platform.serving.bento_build import BuiltBento
from ml_platform.serving.bento_digest import ChangedBentoError, require_unchanged
from ml_platform.serving.bento_signature import TRUSTED_KEYS_VARIABLE
from ml_platform.serving.bento_signing import SigningKeys
from ml_platform_tests.serving.conftest import ToyModel, row, running_service

pytestmark = pytest.mark.slow


def test_request_in_flight_at_sigterm_is_answered_and_logged(
    tmp_path: Path, toy: ToyModel, built_bento: BuiltBento
) -> None:
    port_file, log = tmp_path / "port", tmp_path / "predictions"
    environment = {
        **os.environ,
        "ML_PLATFORM_ONLINE": str(toy.online),
        "ML_PLATFORM_PREDICTION_LOG": str(log),
    }
    command = ["-m", "ml_platform.serving.bento_server", str(built_bento.path), str(port_file), str(tmp_path / "log")]
    server = subprocess.Popen([sys.executable, *command], env=environment)
    try:
        while not port_file.exists():
            assert server.poll() is None
            threading.Event().wait(0.02)
        body = json.dumps({"rows": [row()]}).encode()
        client = http.client.HTTPConnection("127.0.0.1", int(port_file.read_text()), timeout=30)
        client.request("GET", "/readyz")
        assert client.getresponse().read() == b"ready\n"
        client.putrequest("POST", "/v1/toy/predict")
        client.putheader("content-length", str(len(body)))
        client.endheaders(body[:5])
        threading.Event().wait(0.2)  # the server has the headers and waits for the rest of the body
        server.send_signal(signal.SIGTERM)
        threading.Event().wait(0.2)
        client.send(body[5:])
        answer = client.getresponse()
        assert (answer.status, json.loads(answer.read())["predictions"][0]["score"]) == (200, toy.scores[0])
        assert server.wait(20) in (0, -signal.SIGTERM)
        (file,) = log.glob("*.jsonl")
        assert [record["score"] for record in read_records(file)] == [toy.scores[0]]
    finally:
        server.kill()
        server.wait()


def test_signed_bento_is_served_without_its_bytecode_and_only_as_signed(
    tmp_path: Path, toy: ToyModel, built_bento: BuiltBento, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, bento = SigningKeys(tmp_path / "signing"), tmp_path / built_bento.path.name
    shutil.copytree(built_bento.path, bento)
    keys.sign(bento)
    monkeypatch.setenv(TRUSTED_KEYS_VARIABLE, str(keys.trusted))
    bytecode = bento / "src" / "bento" / "__pycache__" / "none.cpython-311.pyc"
    bytecode.parent.mkdir(exist_ok=True)
    bytecode.write_bytes(b"no bytecode")
    with running_service(replace(built_bento, path=bento), tmp_path / "run", str(toy.online)) as url:
        assert httpx.get(f"{url}/readyz").status_code == 200
    assert not bytecode.exists()
    assert keys.verify(bento) != ""  # running it changed none of its files
    requirements = bento / "env" / "python" / "requirements.txt"
    requirements.write_text(requirements.read_text().replace("numpy==", "numpy>="))
    command = ["-m", "ml_platform.serving.bento_server", str(bento), str(tmp_path / "port"), str(tmp_path / "log")]
    server = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60)
    assert server.returncode == 1
    assert "found changed: 'env/python/requirements.txt'" in server.stderr
    assert not (tmp_path / "port").exists()


def test_changed_bento_is_not_served(tmp_path: Path, toy: ToyModel, built_bento: BuiltBento) -> None:
    bento = tmp_path / built_bento.path.name
    shutil.copytree(built_bento.path, bento)
    require_unchanged(bento)
    model = bento / "src" / "model" / "model.txt"
    text = model.read_text()
    place = text.index("leaf_value=") + len("leaf_value=") + 3
    model.chmod(0o600)
    model.write_text(text[:place] + ("1" if text[place] != "1" else "2") + text[place + 1 :])
    command = ["-m", "ml_platform.serving.bento_server", str(bento), str(tmp_path / "port"), str(tmp_path / "log")]
    server = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60)
    assert server.returncode == 1
    assert "expected the content that was verified" in server.stderr
    assert "expected the content that was verified" in (tmp_path / "log").read_text()
    assert not (tmp_path / "port").exists()
    # A folder of another name says nothing about its content.
    with pytest.raises(ChangedBentoError, match="a name that ends with 12 digits"):
        require_unchanged(bento.rename(tmp_path / "renamed"))
