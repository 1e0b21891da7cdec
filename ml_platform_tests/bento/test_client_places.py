"""The places of a client are one number over all processes that share the file, whatever ends a process."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bento.client_places import ClientPlaces

OTHER = """
import sys
from pathlib import Path
from bento.client_places import ClientPlaces
places = ClientPlaces(Path(sys.argv[1]))
print(sum(places.take(sys.argv[2].encode(), b"4") for _ in range(int(sys.argv[3]))), flush=True)
sys.stdin.readline()
places.release(sys.argv[2].encode())
print("released", flush=True)
sys.stdin.readline()
"""


@contextmanager
def other_process(file: Path, client: str, requests: int) -> Iterator["subprocess.Popen[str]"]:
    """Run a process that takes places for ``requests`` and prints how many it got; at a line it releases one."""
    command = [sys.executable, "-c", OTHER, str(file), client, str(requests)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def continue_process(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_limit_of_a_client_holds_over_processes_and_a_killed_one_gives_its_places_back(tmp_path: Path) -> None:
    file = tmp_path / "places"
    own = ClientPlaces(file)
    assert own.take(b"app", b"4")
    with other_process(file, "app", requests=9) as other:
        assert line_of(other) == "3"
        assert not own.take(b"app", b"4")
        assert own.take(b"another", b"1")
        continue_process(other)
        assert line_of(other) == "released"
        assert own.take(b"app", b"4")
        assert not own.take(b"app", b"4")
        other.kill()
        other.wait()
    assert [own.take(b"app", b"4") for _ in range(3)] == [True, True, False]
    assert (file.stat().st_size, file.stat().st_mode & 0o777) == (0, 0o600)


def test_limit_counts_within_the_process_where_no_file_can_be_locked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    places = ClientPlaces(tmp_path / "absent" / "places")
    assert [places.take(b"app", b"2") for _ in range(3)] == [True, True, False]
    places.release(b"app")
    assert places.take(b"app", b"2")
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "the limits of clients count within this process"
    ]


@pytest.mark.parametrize("shared", [True, False])
def test_released_place_is_free_and_a_request_without_client_or_limit_needs_none(tmp_path: Path, shared: bool) -> None:
    places = ClientPlaces(tmp_path / "places" if shared else None)
    for client, limit in ((b"", b"1"), (b"app", b""), (b"app", b"many")):
        assert places.take(client, limit)
        assert places.take(client, limit)
        places.release(client)
    assert [places.take(b"app", b"2") for _ in range(3)] == [True, True, False]
    places.release(b"app")
    assert [places.take(b"app", b"2") for _ in range(2)] == [True, False]
    # A limit that was lowered counts the requests that came before.
    assert not places.take(b"app", b"1")
