"""A real Alertmanager gets the open alerts with their ends; the routes take over while it does not answer."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from ml_platform.serving.processes import free_port
from ml_platform_tests.alerts.alerting import Alerting, drift
from ml_platform_tests.alerts.sinks import HttpSink
from ml_platform_tests.polling import until

PROGRAM = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")


def declared(url: str, sink: HttpSink, **alertmanager: Any) -> dict[str, Any]:
    return {
        "alertmanager": {"url": url, **alertmanager},
        "receivers": {"hook": {"type": "webhook", "url": sink.url}},
        "routes": {"all": {"receivers": ["hook"], "group_wait_seconds": 0}},
    }


@contextmanager
def alertmanager(folder: Path, port: int) -> Iterator[str]:
    """Run Alertmanager on ``port`` during the body."""
    assert PROGRAM is not None
    config = folder / "alertmanager.yml"
    config.write_text("route: {receiver: none}\nreceivers: [{name: none}]\n")
    command = [PROGRAM, f"--config.file={config}", f"--storage.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: _is_ready(url))
        yield url
    finally:
        process.terminate()
        process.wait()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready").is_success
    except httpx.TransportError:
        return False


def active(url: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{url}/api/v2/alerts", params={"active": True}).json()
    return found


@pytest.mark.skipif(PROGRAM is None, reason="needs Debian's package prometheus-alertmanager")
def test_real_alertmanager_gets_alerts_and_their_end(alerting: Alerting, tmp_path: Path) -> None:
    alerting.now = datetime.now(UTC)  # Alertmanager has the clock of the machine
    with HttpSink().running() as sink, alertmanager(tmp_path, free_port()) as url:
        alerting.declare(**declared(url, sink), name="prod")
        alerting.firing = [drift(), drift("other")]
        alerting.run()
        (first, second) = sorted(active(url), key=lambda each: each["labels"]["subject"])
        alerting.firing = [drift("other")]
        alerting.run()
        until(lambda: [each["labels"]["subject"] for each in active(url)] == ["other"])
        assert sink.documents == []
    assert first["labels"] == {
        "alertname": "drift",
        "severity": "warning",
        "subject": "late",
        "domain": "aviation",
        "source": "prod",
    }
    assert first["annotations"]["runbook_url"] == "http://docs/drift-alert.md"
    assert (first["generatorURL"], second["labels"]["subject"]) == ("http://ui/models/late", "other")


def test_routes_take_over_while_alertmanager_does_not_answer(alerting: Alerting) -> None:
    manager = HttpSink()
    with HttpSink().running() as sink:
        with manager.running():
            alerting.declare(**declared(manager.url, sink))
            alerting.firing = [drift()]
            alerting.run()
            assert ([len(each) for each in manager.documents], sink.documents) == ([1], [])
        alerting.run(minutes=1)
        assert [each["alerts"][0]["kind"] for each in sink.documents] == ["drift"]
        alerting.run(minutes=1)
        assert [each.kind for each in alerting.open] == ["drift", "route_down"]
        with manager.running():
            alerting.run(minutes=1)
            alerting.firing = []
            alerting.run(minutes=1)
    assert alerting.open == []
    sent = [(each["stage"], each["alerts"][0]["kind"]) for each in sink.documents]
    assert sent == [
        ("opened", "drift"),
        ("opened", "route_down"),
        ("recovered", "drift"),
        ("recovered", "route_down"),
    ]


def test_alertmanager_may_get_alerts_in_addition_to_the_routes(alerting: Alerting, sink: HttpSink) -> None:
    with HttpSink().running() as manager:
        alerting.declare(**declared(manager.url, sink, replaces_routes=False))
        alerting.firing = [drift()]
        alerting.run()
    assert (len(manager.documents), len(sink.documents)) == (1, 1)
