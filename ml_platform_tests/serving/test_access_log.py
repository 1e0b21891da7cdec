"""Rotation of the gateway's access log: Envoy continues in a new file, and no line is lost."""

import json
import stat
import subprocess
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ml_platform.serving.access_log import access_logs, rotate
from ml_platform.serving.gateway import Gateway
from ml_platform.serving.processes import free_port
from ml_platform_tests.polling import until

NOW = datetime.now(UTC)


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    made = Gateway(tmp_path / "gateway", free_port())
    made.write_bootstrap()
    return made


@pytest.fixture
def envoy(gateway: Gateway) -> Iterator[Gateway]:
    process = subprocess.Popen(
        gateway.command, cwd=gateway.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: answers(gateway, "/ready"))
        yield gateway
    finally:
        process.terminate()
        process.wait()


def answers(gateway: Gateway, path: str) -> bool:
    try:
        with urllib.request.urlopen(gateway.url + path, timeout=1) as response:
            return response.status == 200
    except OSError:
        return False


def paths(file: Path) -> list[str]:
    return [json.loads(line)["path"] for line in file.read_text().splitlines()]


@pytest.mark.slow
def test_envoy_continues_in_a_new_private_file_without_losing_a_line(envoy: Gateway) -> None:
    requested = [f"/ready?number={number}" for number in range(20)]
    log = envoy.folder / "access.jsonl"
    for path in requested[:10]:
        assert answers(envoy, path)
    rotated = rotate(envoy.folder, NOW)
    for path in requested[10:]:
        assert answers(envoy, path)

    # Envoy flushes its log every ten seconds.
    until(lambda: paths(log)[-1:] == requested[-1:], seconds=30)
    found = [path for path in [*paths(rotated), *paths(log)] if "number" in path]
    assert sorted(found) == sorted(requested)
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_log_is_rotated_from_its_size_on_and_the_old_one_goes_by_age(gateway: Gateway) -> None:
    log = gateway.folder / "access.jsonl"
    log.write_text("{}\n")
    assert list(access_logs(gateway.folder, NOW, NOW, max_bytes=4)) == []
    (found,) = access_logs(gateway.folder, NOW, NOW, max_bytes=3)
    found.remove()
    (rotated,) = gateway.folder.glob("access-*.jsonl")
    assert (rotated.read_text(), log.read_text()) == ("{}\n", "")

    assert list(access_logs(gateway.folder, NOW - timedelta(days=30), NOW, max_bytes=3)) == []
    (old,) = access_logs(gateway.folder, NOW + timedelta(days=1), NOW, max_bytes=3)
    assert (old.names, old.size_bytes) == ([rotated.name], 3)
    old.remove()
    assert not rotated.exists()


def test_folder_without_a_gateway_has_nothing_to_rotate(tmp_path: Path) -> None:
    assert list(access_logs(tmp_path / "absent", NOW, NOW)) == []
