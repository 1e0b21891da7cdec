"""Output of `up`: each address once a process listens there, each endpoint once it serves."""

import socket
from pathlib import Path

from ml_platform.serving.processes import free_port
from ml_platform.serving.serving_status import ServedModel, ServingStatus, write_serving_status
from ml_platform.serving.startup_status import ManagedProcess, StartupReporter

LOG = Path("logs") / "it*.log"


def reporter_of(folder: Path, *processes: ManagedProcess) -> tuple[StartupReporter, list[str]]:
    lines: list[str] = []
    return StartupReporter(processes, folder / "status.json", lines.append, warn_after_seconds=60), lines


def serving(version: str) -> ServingStatus:
    served = ServedModel(
        endpoint="http://127.0.0.1:1/v1/toy/predict",
        stable=version,
        candidate=None,
        weights={"stable": 100},
        shadow=None,
        generation=1,
    )
    return ServingStatus(gateway="http://127.0.0.1:1", models={"toy": served}, waiting=[])


def test_address_is_reported_once_and_only_when_a_process_listens_there(tmp_path: Path) -> None:
    port = free_port()
    reporter, lines = reporter_of(tmp_path, ManagedProcess("pages", "http://pages", port, LOG))
    reporter.poll(1)
    assert lines == []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        reporter.poll(2)
    assert lines == ["pages           http://pages"]
    reporter.poll(100)
    assert len(lines) == 1


def test_process_without_a_page_is_reported_with_its_log(tmp_path: Path) -> None:
    reporter, lines = reporter_of(tmp_path, ManagedProcess("daemon", "", None, LOG))
    reporter.poll(0)
    assert lines == ["daemon          no page; its log: logs/it*.log"]


def test_process_that_does_not_answer_in_time_is_reported_once_with_its_log(tmp_path: Path) -> None:
    reporter, lines = reporter_of(tmp_path, ManagedProcess("pages", "http://pages", free_port(), LOG))
    reporter.poll(59)
    assert lines == []
    reporter.poll(61)
    reporter.poll(62)
    assert lines == ["pages           does not answer yet; its log: logs/it*.log"]


def test_endpoint_is_reported_with_its_page_once_per_stable_version(tmp_path: Path) -> None:
    reporter, lines = reporter_of(tmp_path)
    reporter.poll(1)
    assert lines == []
    for version in ("1", "1", "2"):
        write_serving_status(tmp_path / "status.json", serving(version))
        reporter.poll(2)
    assert lines == [
        "toy             http://127.0.0.1:1/v1/toy/predict (version 1)",
        "                http://127.0.0.1:1/v1/toy/",
        "toy             http://127.0.0.1:1/v1/toy/predict (version 2)",
        "                http://127.0.0.1:1/v1/toy/",
    ]
