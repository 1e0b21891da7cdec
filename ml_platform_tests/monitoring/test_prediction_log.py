"""Ingestion of real files into a real Delta table: each prediction is stored once, also after failures."""

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.data.lake import Lake
from ml_platform.monitoring.logged_fields import unpack_json_column
from ml_platform.monitoring.prediction_log import IngestionResult, ingest_log_files, pair_by_role

TABLE = "departure_risk/predictions"


def line(request_id: str = "r1", row: int = 0, **changes: Any) -> str:
    logged = {
        "request_id": request_id,
        "row": row,
        "model": "departure_risk",
        "version": "7",
        "predict_at": "2013-07-01T10:00:00+00:00",
        "as_of": "2013-07-01T09:59:58.250000+00:00",
        "logged_at": "2013-07-01T10:00:00.125000+00:00",
        "request": {"carrier": "UA", "flight": 1545},
        "features": {"wind_speed": 0.1, "carrier": "UA", "delay": None},
        "score": 0.25,
        "label": 0,
        "role": "stable",
    }
    return json.dumps({**logged, **changes}) + "\n"


class LogAndLake:
    """A folder of log files, a lake, and a cursor of the ingestion."""

    def __init__(self, root: Path) -> None:
        self.log = root / "logs" / "predictions.jsonl"
        self.log.parent.mkdir()
        self.lake = Lake(str(root / "lake"))
        self.cursor = root / "state" / "cursor.json"

    def append(self, text: str) -> None:
        with self.log.open("a") as opened:
            opened.write(text)

    def ingest(self) -> IngestionResult:
        return ingest_log_files(self.lake, TABLE, sorted(self.log.parent.glob("*.jsonl")), self.cursor)

    def rows(self) -> pl.DataFrame:
        return self.lake.scan(TABLE).sort("predict_at", "request_id", "row", "role").collect()

    def quarantined(self) -> pl.DataFrame:
        return self.lake.scan(f"{TABLE}_quarantine").sort("offset").collect()


@pytest.fixture
def home(tmp_path: Path) -> LogAndLake:
    return LogAndLake(tmp_path)


def test_line_is_stored_with_its_times_score_and_partition(home: LogAndLake) -> None:
    home.append(line())
    home.ingest()
    stored = home.rows().row(0, named=True)
    assert {name: str(stored[name]) for name in ("request_id", "version", "role", "score", "partition", "as_of")} == {
        "request_id": "r1", "version": "7", "role": "stable", "score": "0.25", "partition": "2013-07",
        "as_of": "2013-07-01 09:59:58.250000+00:00",
    }  # fmt: skip


def test_logged_features_are_read_bit_by_bit(home: LogAndLake) -> None:
    values = {"a": 0.1 + 0.2, "b": 5e-324, "c": -0.0, "d": None, "e": "UA", "f": True, "g": 12_345_678_901}
    home.append(line(features=values))
    home.ingest()
    assert repr(unpack_json_column(home.rows(), "features").row(0, named=True)) == repr(values)


def test_second_ingestion_changes_nothing(home: LogAndLake) -> None:
    home.append(line("r1") + line("r2"))
    home.ingest()
    version = home.lake.version(TABLE)
    again = home.ingest()
    assert (again.lines, again.added, home.lake.version(TABLE)) == (0, 0, version)


def test_lost_cursor_adds_no_row_twice(home: LogAndLake) -> None:
    home.append(line("r1") + line("r2"))
    home.ingest()
    home.cursor.unlink()
    again = home.ingest()
    assert (again.lines, again.added, again.duplicates, home.rows().height) == (2, 0, 2, 2)


def test_only_new_lines_are_read(home: LogAndLake) -> None:
    home.append(line("r1"))
    home.ingest()
    home.append(line("r2"))
    later = home.ingest()
    assert (later.lines, later.added, home.rows()["request_id"].to_list()) == (1, 1, ["r1", "r2"])


def test_incomplete_last_line_is_read_once_it_is_complete(home: LogAndLake) -> None:
    whole = line("r2")
    home.append(line("r1") + whole[:40])
    first = home.ingest()
    assert (first.added, first.corrupt, first.pending_bytes) == (1, 0, 40)
    home.append(whole[40:])
    second = home.ingest()
    assert (second.added, second.pending_bytes, home.rows().height) == (1, 0, 2)


def test_line_cut_by_a_crash_loses_only_that_line(home: LogAndLake) -> None:
    home.append(line("r1") + line("r2")[:40] + "\n" + line("r3"))
    done = home.ingest()
    assert (done.added, done.corrupt, home.rows()["request_id"].to_list()) == (2, 1, ["r1", "r3"])


@pytest.mark.parametrize(
    ("corrupt", "reason"),
    [
        ("not json\n", "line: Invalid JSON"),
        ("\n", "line: Invalid JSON"),
        (line(score=None), "score: Input should be a valid number"),
        (line(row=-1), "row: Input should be greater than or equal to 0"),
        (line(score=float("nan")), "score: Input should be a finite number"),
        (line(predict_at="2013-07-01T10:00:00"), "predict_at: Input should have timezone info"),
        (line(request_id=""), "request_id: String should have at least 1 character"),
    ],
)
def test_corrupt_line_is_quarantined_with_its_reason(home: LogAndLake, corrupt: str, reason: str) -> None:
    home.append(line("r1") + corrupt + line("r2"))
    done = home.ingest()
    kept = home.quarantined().row(0, named=True)
    assert (done.added, done.corrupt, kept["offset"]) == (2, 1, len(line("r1")))
    assert kept["reason"].startswith(reason)
    assert kept["line"] == corrupt.strip()


def test_corrupt_line_read_twice_is_quarantined_once(home: LogAndLake) -> None:
    home.append("not json\n")
    home.ingest()
    home.cursor.unlink()
    home.ingest()
    assert home.quarantined().height == 1


def test_line_of_a_newer_service_with_more_keys_is_accepted(home: LogAndLake) -> None:
    home.append(line(trace_id="abc"))
    assert home.ingest().added == 1


def test_shadow_of_the_same_request_is_another_prediction(home: LogAndLake) -> None:
    home.append(line("r1", score=0.2) + line("r1", score=0.9, role="shadow", version="8"))
    home.ingest()
    pair = pair_by_role(home.rows(), "stable", "shadow")
    assert pair.select("request_id", "row", "score_stable", "score_shadow").rows() == [("r1", 0, 0.2, 0.9)]


def test_only_the_changed_month_is_written(home: LogAndLake) -> None:
    home.append(line("r1") + line("r2", predict_at="2013-08-01T00:00:00+02:00"))
    assert home.ingest().partitions == ["2013-07"]  # 2013-07-31 22:00 in UTC
    home.append(line("r3", predict_at="2013-08-01T00:00:00+00:00"))
    assert home.ingest().partitions == ["2013-08"]
    assert home.lake.partitions(TABLE) == ["2013-07", "2013-08"]


def test_rotated_file_is_read_from_its_start(home: LogAndLake) -> None:
    home.append(line("r1"))
    home.ingest()
    home.log.rename(home.log.with_name("predictions-1.jsonl"))
    home.append(line("r2") + line("r3"))  # longer than the file that was rotated
    done = home.ingest()
    assert (done.added, done.duplicates) == (2, 1)


def test_files_of_several_services_are_stored_in_one_table(home: LogAndLake) -> None:
    home.append(line("r1"))
    home.log.with_name("other.jsonl").write_text(line("r2"))
    assert home.ingest().added == 2


def test_no_file_adds_no_prediction(home: LogAndLake) -> None:
    assert home.ingest().model_dump() == {
        "lines": 0, "added": 0, "duplicates": 0, "corrupt": 0, "pending_bytes": 0, "rows": 0, "partitions": [],
    }  # fmt: skip


def test_file_larger_than_a_chunk_is_read_completely(home: LogAndLake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_platform.monitoring.prediction_log._CHUNK_BYTES", 1_000)
    home.append("".join(line(f"r{at}") for at in range(10)) + line("long", request={"x": "y" * 3_000}) + "{")
    done = home.ingest()
    assert (done.lines, done.added, done.pending_bytes) == (11, 11, 1)


def test_added_rows_and_total_rows_are_reported(home: LogAndLake) -> None:
    home.append(line("r1") + line("r2"))
    home.ingest()
    home.append(line("r3"))
    done = home.ingest()
    assert (done.added, done.rows) == (1, 3)


def test_watermarks_and_ages_are_kept_so_that_features_can_be_recomputed(home: LogAndLake) -> None:
    marks = {"delays": "2013-07-01T04:00:00Z", "weather": "2013-07-01T03:00:00Z"}
    home.append(line(watermarks=marks, ages={"delays": 12.5, "weather": None}))
    home.ingest()
    row = home.rows().row(0, named=True)
    assert json.loads(row["watermarks"]) == marks
    assert json.loads(row["ages"]) == {"delays": 12.5, "weather": None}


def test_line_without_watermarks_is_accepted(home: LogAndLake) -> None:
    home.append(line())
    home.ingest()
    assert home.rows().select("watermarks", "ages").row(0) == ("{}", "{}")


@settings(deadline=None, max_examples=8)
@given(cuts=st.lists(st.integers(0, 1_500), max_size=3))
def test_table_does_not_depend_on_how_the_file_grows(cuts: list[int]) -> None:
    whole = "".join(line(f"r{at}") for at in range(3)) + "corrupt\n" + line("r0") + line("r3")
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    with TemporaryDirectory() as folder:
        home = LogAndLake(Path(folder))
        done = []
        for start, stop in pairwise(edges):
            home.append(whole[start:stop])
            done.append(home.ingest())
        assert home.rows()["request_id"].to_list() == ["r0", "r1", "r2", "r3"]
    totals = {name: sum(getattr(step, name) for step in done) for name in ("lines", "added", "duplicates", "corrupt")}
    assert totals == {"lines": 6, "added": 4, "duplicates": 1, "corrupt": 1}


def test_two_ingestions_at_once_add_each_line_once(home: LogAndLake) -> None:
    home.append("".join(line(f"r{at}") for at in range(200)))
    with ThreadPoolExecutor(2) as pool:
        done = [future.result() for future in [pool.submit(home.ingest) for _ in range(2)]]
    assert sorted(step.added for step in done) == [0, 200]
    assert sum(step.duplicates for step in done) == 0
