"""The prediction log of a service: every row is a line that the lake reads, and no error of the disk ends it.

The errors are real: files that cannot grow, a full file system, no free file descriptor, folders and files that vanish.
"""

import dataclasses
import json
import os
import stat
import subprocess
import sys
import threading
import zlib
from base64 import b64decode, b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from bento import log_files
from bento.log_files import LogFiles
from bento.prediction_log import AnsweredRequest, PredictionLog, blocks_of
from ml_platform.data.log_block import Layout, pack_block, unpack_block
from ml_platform.monitoring.log_lines import LoggedPrediction, parse_lines, read_records
from ml_platform_tests.bento.conftest import NOW, answered_request
from ml_platform_tests.polling import until

ROOT = Path(__file__).parents[2]
SCRIPT = "ml_platform_tests.bento.disk_full_script"


def lines(folder: Path) -> list[dict[str, object]]:
    """Return the logged predictions in the order of the files."""
    return [record for file in sorted(folder.glob("*.jsonl")) for record in read_records(file)]


def log_files_of(folder: Path, **settings: Any) -> LogFiles:
    return LogFiles(folder, "3", **({"max_file_bytes": 2**20, "max_file_seconds": 3600.0} | settings))


def is_open(path: Path) -> bool:
    """Return whether this process has ``path`` open."""
    return any(link.exists() and link.samefile(path) for link in list(Path("/proc/self/fd").iterdir()))


def test_each_row_is_a_line_that_the_lake_accepts(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path, "toy", "3")
    log.put(answered_request("r", rows=2))
    log.close()
    first, second = (LoggedPrediction.model_validate(line) for line in lines(tmp_path))
    assert (first.request_id, first.row, first.version, first.role) == ("r", 0, "3", "stable")
    assert (second.row, second.score, second.label) == (1, 0.25, 0.0)
    assert first.features == {"view__mean": 1.5, "view__kind": "a"}
    assert first.predict_at == first.as_of == NOW
    assert (first.watermarks, first.ages) == ({"view": NOW}, {"view": 3.0})


def test_each_row_has_the_fields_of_the_contract_and_its_own_prediction_id(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path, "toy", "3")
    answers = [answered_request("same", rows=2), answered_request("same")]
    for answered in answers:
        log.put(answered)
    log.close()
    found = lines(tmp_path)
    assert list(found[0]) == [
        "prediction_id", "request_id", "model", "version", "role", "logged_at", "watermarks",
        "row", "predict_at", "as_of", "ages", "request", "features", "client", "latency_ms", "trace_id",
        "score", "label",
    ]  # fmt: skip
    assert [line["prediction_id"] for line in found] == [
        answers[0].prediction_id, answers[0].prediction_id[:-1] + "1", answers[1].prediction_id,
    ]  # fmt: skip
    assert {line["request_id"] for line in found} == {"same"}


def test_full_file_is_closed_and_the_next_opened(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path, "toy", "3", max_file_bytes=1, batch_seconds=0)
    for number, name in enumerate("abc", start=1):
        log.put(answered_request(name))
        until(lambda number=number: log.written_rows == number)  # type: ignore[misc]
    log.close()
    assert len(list(tmp_path.glob("*.jsonl"))) == 3
    assert [str(line["request_id"]) for line in lines(tmp_path)] == ["a", "b", "c"]


def test_only_a_longer_line_makes_a_file_larger_than_its_limit(tmp_path: Path) -> None:
    files = log_files_of(tmp_path, max_file_bytes=6)
    assert files.append([b"ab\n", b"cd\n", b"ef\n", b"too long\n", b"gh\n"]) == (5, None)
    files.close()
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == [b"ab\ncd\n", b"ef\n", b"too long\n", b"gh\n"]


def test_old_file_is_closed_without_another_request(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path, "toy", "3", batch_seconds=0, max_file_seconds=0.3)
    log.put(answered_request("a"))
    (file,) = until(lambda: list(tmp_path.glob("*.jsonl")))
    until(lambda: log.written_rows == 1)
    until(lambda: not is_open(file))
    log.put(answered_request("b"))
    log.close()
    assert [path == file for path in sorted(tmp_path.glob("*.jsonl"))] == [True, False]
    assert [line["request_id"] for line in lines(tmp_path)] == ["a", "b"]


def test_file_names_never_repeat_although_the_clock_stands_still(tmp_path: Path, monkeypatch: Any) -> None:
    class StoppedClock:
        now = staticmethod(lambda _: NOW)

    monkeypatch.setattr(log_files, "datetime", StoppedClock)
    for writer in (log_files_of(tmp_path), log_files_of(tmp_path)):
        for _ in range(2):
            assert writer.append([b"x\n"]) == (1, None)
            writer.close()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"x\n"] * 4


def test_files_and_new_folders_are_private_to_the_owner(tmp_path: Path) -> None:
    (tmp_path / "existing").mkdir()
    (tmp_path / "existing").chmod(0o755)
    files = log_files_of(tmp_path / "existing" / "new" / "toy")
    files.append([b"x\n"])
    (file,) = files.folder.iterdir()
    files.close()
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent, file.parents[1], file.parents[2])]
    assert modes == [0o600, 0o700, 0o700, 0o755]


def test_rows_beyond_the_limit_are_dropped_and_counted(tmp_path: Path) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def block(_: Sequence[AnsweredRequest]) -> None:
        reached.set()
        go_on.wait(10)

    log = PredictionLog(tmp_path, "toy", "3", max_pending_rows=3, on_handled=block)
    log.put(answered_request("first"))
    assert reached.wait(10)
    log.put(answered_request("waits", rows=2))
    log.put(answered_request("dropped", rows=2))
    assert (log.dropped_rows, log.status().pending_rows) == (2, 2)
    go_on.set()
    log.close()
    assert {line["request_id"] for line in lines(tmp_path)} == {"first", "waits"}
    assert (log.written_rows, log.dropped_rows, log.status().pending_rows) == (3, 2, 0)


def test_rows_of_many_threads_are_written_or_counted(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path, "toy", "3", max_pending_rows=50, batch_seconds=0)

    def put_many(name: int) -> None:
        for number in range(250):
            log.put(answered_request(f"{name}-{number}"))

    threads = [threading.Thread(target=put_many, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert log.written_rows == len(lines(tmp_path))
    assert log.written_rows + log.dropped_rows == 1_000


def test_rows_that_wait_when_closing_takes_too_long_are_dropped_once(tmp_path: Path) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def block(_: Sequence[AnsweredRequest]) -> None:
        reached.set()
        go_on.wait(30)

    log = PredictionLog(tmp_path, "toy", "3", batch_seconds=0, on_handled=block)
    log.put(answered_request("first"))
    assert reached.wait(10)
    log.put(answered_request("waits", rows=2))
    log.close(timeout_seconds=0.05)
    assert (log.written_rows, log.dropped_rows) == (1, 2)
    go_on.set()
    log._thread.join(30)
    assert (log.written_rows, log.dropped_rows) == (1, 2)
    assert [line["request_id"] for line in lines(tmp_path)] == ["first"]


def test_rows_that_come_after_close_are_counted_as_dropped(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path, "toy", "3")
    log.close()
    log.put(answered_request("late", rows=3))
    assert (log.status().state, log.dropped_rows, log.written_rows) == ("closed", 3, 0)


def test_unwritable_folder_loses_lines_but_not_the_service(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    handled: list[Sequence[AnsweredRequest]] = []
    (tmp_path / "file").touch()
    log = PredictionLog(
        tmp_path / "file" / "folder",
        "toy",
        "3",
        batch_seconds=0,
        on_handled=handled.append,
    )
    log.put(answered_request("lost", rows=2))
    until(lambda: len(handled) == 1)
    status = log.status()
    assert (status.state, status.error, status.dropped_rows) == ("failing", "Not a directory", 2)
    assert status.failing_since is not None
    (tmp_path / "file").unlink()
    log.put(answered_request("written"))
    until(lambda: len(handled) == 2)
    status = log.status()
    assert (status.state, status.error, status.failing_since) == ("writing", None, None)
    log.close()
    assert (log.dropped_rows, log.written_rows) == (2, 1)
    assert [line["request_id"] for line in lines(tmp_path / "file" / "folder")] == ["written"]
    assert "drops rows from request lost on" in caplog.text
    assert "writes again; 2 rows were dropped" in caplog.text


def test_long_failure_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    handled = threading.Semaphore(0)
    log = PredictionLog(tmp_path / "file", "toy", "3", batch_seconds=0, on_handled=lambda _: handled.release())
    for number in range(20):
        log.put(answered_request(f"r{number}"))
        assert handled.acquire(timeout=10)
    log.close()
    assert log.dropped_rows == 20
    assert [record.levelname for record in caplog.records] == ["ERROR"]


@pytest.mark.parametrize("kind", ["limit", "disk"])
def test_full_disk_loses_only_counted_rows_and_the_log_recovers(tmp_path: Path, kind: str) -> None:
    command = f"{sys.executable} -m {SCRIPT} {kind} {tmp_path}"
    if kind == "disk":
        mounted = f"mount -t tmpfs -o size=256k tmpfs {tmp_path}"
        if subprocess.run(["unshare", "-rm", "sh", "-c", mounted], capture_output=True, check=False).returncode:
            pytest.skip("a file system of limited size needs user namespaces, which this machine does not allow")
        command = f"{mounted} && {command}"
    run = ["unshare", "-rm"] if kind == "disk" else []
    done = subprocess.run([*run, "sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    before, single, many, after = found["statuses"]
    names = found["names"]
    error = {"limit": "File too large", "disk": "No space left on device"}[kind]
    assert before == ["writing", 25, 0, None]
    # 25 requests of one row, then one of 25 rows: each row is in a file or counted.
    assert (single[0], single[3], single[1] + single[2]) == ("failing", error, 50)
    assert (many[0], many[3], many[1] + many[2]) == ("failing", error, 75)
    assert single[2] > 0
    assert many[2] > single[2]
    assert after == ["writing", many[1] + 25, many[2], None]
    assert found["final"] == ["closed", many[1] + 25, many[2]]
    # Every line could be read as JSON, so none was cut or merged with the next.
    assert found["ends_with_newline"]
    assert len(names) == many[1] + 25
    for name in ("before", "after"):
        assert [each for each in names if each.startswith(f"{name}-")] == [f"{name}-{number}" for number in range(25)]


FILES_OF_TEN_BYTES = """
import resource, sys
from pathlib import Path
from bento.log_files import LogFiles

files = LogFiles(Path(sys.argv[1]), "3", max_file_bytes=2**20, max_file_seconds=3600.0)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
for lines in ([b"one\\n", b"two\\n", b"three\\n"], [b"four\\n", b"longer than ten\\n", b"lost\\n"], [b"five\\n"]):
    appended, error = files.append(lines)
    print(appended, error)
files.close()
"""


def test_next_file_takes_the_lines_that_do_not_fit_into_one_that_cannot_grow(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FILES_OF_TEN_BYTES, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["3 None", "1 [Errno 27] File too large", "1 None"]
    files = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    assert files == [b"one\ntwo\n", b"three\n", b"four\n", b"five\n"]


def test_line_that_cannot_be_cut_off_stays_alone_at_the_end_of_its_file(tmp_path: Path, monkeypatch: Any) -> None:
    def failing(*_: object) -> None:
        raise OSError(5, "Input/output error")

    files = log_files_of(tmp_path)
    files.append([b"a\n"])
    file = files._file
    assert file is not None
    os.write(file.descriptor, b"half of a li")  # as a write leaves it that a full disk stopped
    monkeypatch.setattr(os, "ftruncate", failing)
    files._cut(file, 2)
    assert files.append([b"b\n"]) == (1, None)
    files.close()
    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == [b"a\nhalf of a li", b"b\n"]


def test_deleted_file_and_folder_are_made_again(tmp_path: Path) -> None:
    files = log_files_of(tmp_path / "log")
    files.append([b"a\n"])
    for path in files.folder.iterdir():
        path.unlink()
    files.folder.rmdir()
    assert files.append([b"b\n"]) == (1, None)
    files.close()
    assert [path.read_bytes() for path in files.folder.iterdir()] == [b"b\n"]


def test_file_without_lines_is_not_left_behind(tmp_path: Path) -> None:
    files = log_files_of(tmp_path)
    files._writable_file()
    assert len(list(tmp_path.iterdir())) == 1
    files.close()
    assert list(tmp_path.iterdir()) == []


def test_rows_that_the_disk_did_not_confirm_are_counted(tmp_path: Path) -> None:
    files = log_files_of(tmp_path)
    files.append([b"a\n", b"b\n"], rows=[3, 4])
    file = files._file
    assert file is not None
    os.close(file.descriptor)  # so that the file cannot be synced
    files.close()
    assert files.unconfirmed_rows == 7
    assert files.append([b"c\n"]) == (1, None)


def test_request_without_lines_costs_no_other_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = PredictionLog(tmp_path, "toy", "3", batch_seconds=600)
    broken = answered_request("broken", rows=2)._replace(rows=[{"carrier": object()}, {"carrier": "UA"}])
    for answered in (answered_request("a"), broken, answered_request("b")):
        log.put(answered)
    log.close()
    assert [line["request_id"] for line in lines(tmp_path)] == ["a", "b"]
    assert (log.written_rows, log.dropped_rows) == (2, 2)
    assert "request broken was answered but not logged" in caplog.text


def test_failing_metrics_do_not_count_a_written_row_as_dropped(tmp_path: Path) -> None:
    def fail(_: Sequence[AnsweredRequest]) -> None:
        raise ZeroDivisionError

    log = PredictionLog(tmp_path, "toy", "3", on_handled=fail)
    log.put(answered_request("a"))
    log.close()
    assert (log.written_rows, log.dropped_rows, len(lines(tmp_path))) == (1, 0, 1)


def test_answers_are_written_in_batches_and_at_the_latest_on_close(tmp_path: Path) -> None:
    patient = PredictionLog(tmp_path / "patient", "toy", "3", batch_seconds=600)
    patient.put(answered_request("a"))
    patient.put(answered_request("b"))
    written = threading.Event()
    prompt = PredictionLog(tmp_path / "prompt", "toy", "3", batch_seconds=0, on_handled=lambda _: written.set())
    prompt.put(answered_request("c"))
    assert written.wait(10)
    assert not list((tmp_path / "patient").glob("*.jsonl"))
    patient.close()
    prompt.close()
    assert [line["request_id"] for line in lines(tmp_path / "patient")] == ["a", "b"]


def test_many_waiting_rows_are_written_before_the_limit_is_reached(tmp_path: Path) -> None:
    written = threading.Event()
    log = PredictionLog(
        tmp_path, "toy", "3", max_pending_rows=10, batch_seconds=600, on_handled=lambda _: written.set()
    )
    log.put(answered_request("few", rows=2))
    assert not written.wait(0.05)
    log.put(answered_request("many", rows=4))
    assert written.wait(10)
    log.close()
    assert log.dropped_rows == 0


def test_predictions_can_be_read_while_the_file_grows(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path, "toy", "3", batch_seconds=0)
    log.put(answered_request("a", rows=3))
    until(lambda: log.written_rows == 3)
    assert [line["row"] for line in lines(tmp_path)] == [0, 1, 2]
    log.close()


def test_damaged_block_costs_only_its_own_rows(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path, "toy", "3", batch_seconds=0)
    for number, name in enumerate("abc", start=1):
        log.put(answered_request(name))
        until(lambda number=number: log.written_rows == number)  # type: ignore[misc]
    log.close()
    (file,) = tmp_path.glob("*.jsonl")
    layout, first, second, third = file.read_bytes().splitlines(keepends=True)
    cut = second.replace(second[40:60], b"A" * 20)
    parsed = parse_lines(first + cut + third, len(layout), layout)
    assert parsed.predictions["request_id"].to_list() == ["a", "c"]
    assert parsed.corrupt["offset"].to_list() == [len(layout) + len(first)]
    assert "found a damaged one" in parsed.corrupt["reason"][0]
    strange = parse_lines(first, len(layout), b"{}\n")
    assert (strange.predictions.height, "expected the layout" in strange.corrupt["reason"][0]) == (0, True)


def test_block_of_an_earlier_release_has_neither_client_nor_latency() -> None:
    (block,) = blocks_of([answered_request("r", 2)])
    layout = Layout("w", "toy", "3", ["view"], [("view__mean", "float"), ("view__kind", "text")])
    head, _, numbers = zlib.decompress(b64decode(orjson.loads(pack_block(block))["block"]["data"])).partition(b"\n")
    old = {name: value for name, value in orjson.loads(head).items() if name not in ("clients", "latencies_ms")}
    data = b64encode(zlib.compress(orjson.dumps(old) + b"\n" + numbers)).decode()
    records = unpack_block(orjson.dumps({"block": {"rows": 2, "data": data}}), layout)
    assert [(each["score"], each["client"], each["latency_ms"]) for each in records] == [(0.25, None, None)] * 2


def test_a_row_of_a_hundred_features_takes_a_tenth_of_its_json(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows, features = 500, 100
    names = [f"view__some_feature_{number:03d}" for number in range(features)]
    numbers = rng.normal(size=(rows, features)).astype(np.float32).astype(np.float64)
    numbers[:, ::3] = numbers[0, ::3]  # facts that many requests share
    answered = answered_request("r", rows)
    (block,) = blocks_of([answered])
    wide = dataclasses.replace(block, numbers=numbers, texts={})
    layout = Layout("w", "toy", "3", ["view"], [(name, "float") for name in names])
    line = pack_block(wide)
    records = unpack_block(line, layout)
    assert [list(each["features"].values()) for each in records] == numbers.tolist()
    assert len(line) < sum(len(orjson.dumps(each)) for each in records) / 10
