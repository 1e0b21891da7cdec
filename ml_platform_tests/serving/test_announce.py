"""What `up` tells: each address once something answers there, each endpoint once it serves."""

import socket
from pathlib import Path

from ml_platform.serving.announce import Announcer, Awaited
from ml_platform.serving.processes import free_port
from ml_platform.serving.status import ServedModel, Status, write_status

LOG = Path("logs") / "it*.log"


def announcer(folder: Path, *awaited: Awaited) -> tuple[Announcer, list[str]]:
    told: list[str] = []
    return Announcer(awaited, folder / "status.json", told.append, patience_seconds=60), told


def serving(version: str) -> Status:
    served = ServedModel(
        endpoint="http://127.0.0.1:1/v1/toy/predict",
        stable=version,
        candidate=None,
        weights={"stable": 100},
        shadow=None,
        generation=1,
    )
    return Status(gateway="http://127.0.0.1:1", models={"toy": served}, waiting=[])


def test_address_is_told_once_and_only_when_something_listens_there(tmp_path: Path) -> None:
    port = free_port()
    looking, told = announcer(tmp_path, Awaited("pages", "http://pages", port, LOG))
    looking.look(1)
    assert told == []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        looking.look(2)
    assert told == ["pages           http://pages"]
    looking.look(100)
    assert len(told) == 1


def test_what_has_no_page_is_told_with_its_log(tmp_path: Path) -> None:
    looking, told = announcer(tmp_path, Awaited("daemon", "", None, LOG))
    looking.look(0)
    assert told == ["daemon          no page; its log: logs/it*.log"]


def test_what_does_not_answer_in_time_is_told_once_with_its_log(tmp_path: Path) -> None:
    looking, told = announcer(tmp_path, Awaited("pages", "http://pages", free_port(), LOG))
    looking.look(59)
    assert told == []
    looking.look(61)
    looking.look(62)
    assert told == ["pages           does not answer yet; its log: logs/it*.log"]


def test_endpoint_is_told_with_its_page_when_it_serves_and_again_with_another_version(tmp_path: Path) -> None:
    looking, told = announcer(tmp_path)
    looking.look(1)
    assert told == []
    for version in ("1", "1", "2"):
        write_status(tmp_path / "status.json", serving(version))
        looking.look(2)
    assert told == [
        "toy             http://127.0.0.1:1/v1/toy/predict (version 1)",
        "                http://127.0.0.1:1/v1/toy/",
        "toy             http://127.0.0.1:1/v1/toy/predict (version 2)",
        "                http://127.0.0.1:1/v1/toy/",
    ]
