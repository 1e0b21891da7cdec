"""Ingestion of real files into a real Delta table: each prediction is stored once, also after failures."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.data.lake import Lake
from ml_platform.monitoring import prediction_log
from ml_platform.monitoring.fact_tables import MAX_SMALL_SEGMENTS, compact_closed_days
from ml_platform.monitoring.known_ids import KnownIds
from ml_platform.monitoring.log_lines import LoggedPrediction
from ml_platform.monitoring.logged_fields import unpack_json_column
from ml_platform.monitoring.prediction_days import day_counts
from ml_platform.monitoring.prediction_log import IngestionResult, ingest_log_files, pair_by_role, predictions_table
from ml_platform.state.cursors import cursors_below, delete_cursors

MODEL = "departure_risk"
TABLE = predictions_table(MODEL)


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
    logged |= {} if "prediction_id" in changes else {"prediction_id": f"{request_id}-{row}-{changes.get('role')}"}
    return json.dumps({**logged, **changes}) + "\n"


class LogAndLake:
    """A folder of log files and a lake."""

    def __init__(self, root: Path) -> None:
        self.log = root / "logs" / "predictions.jsonl"
        self.log.parent.mkdir()
        self.lake = Lake.standalone(root / "lake")

    def append(self, text: str) -> None:
        with self.log.open("a") as opened:
            opened.write(text)

    def ingest(self) -> IngestionResult:
        return ingest_log_files(self.lake, MODEL, self.log.parent)

    def lose_cursors(self) -> None:
        prefix = f"predictions/{MODEL}/"
        delete_cursors(self.lake.state, [prefix + name for name in cursors_below(self.lake.state, prefix)])

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
        "request_id": "r1", "version": "7", "role": "stable", "score": "0.25", "partition": "2013-07-01",
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
    home.lose_cursors()
    again = home.ingest()
    assert (again.lines, again.added, again.duplicates, home.rows().height) == (2, 0, 2, 2)


def test_first_of_several_lines_of_one_prediction_counts(home: LogAndLake) -> None:
    home.append(line("r1", score=0.2) + line("r1", score=0.9) + line("r2", score=0.4))
    first = home.ingest()
    home.append(line("r2", score=0.8))
    second = home.ingest()
    assert home.rows().select("request_id", "score").rows() == [("r1", 0.2), ("r2", 0.4)]
    assert (first.added, first.duplicates, second.added, second.duplicates) == (2, 1, 0, 1)


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
    home.lose_cursors()
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


def test_only_the_day_of_the_log_line_is_written_whatever_time_the_client_sent(home: LogAndLake) -> None:
    late, night = "2013-08-01T00:00:00+02:00", "2013-08-01T00:00:00+00:00"  # the first is 2013-07-31 22:00 in UTC
    home.append(line("r1", logged_at=late) + line("r2", logged_at=late, predict_at="1901-01-01T00:00:00+00:00"))
    assert home.ingest().partitions == ["2013-07-31"]
    home.append(line("r3", logged_at=night))
    assert home.ingest().partitions == ["2013-08-01"]
    assert home.lake.partitions(TABLE) == ["2013-07-31", "2013-08-01"]


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
        "lines": 0, "added": 0, "duplicates": 0, "corrupt": 0, "pending_bytes": 0, "rows": 0, "represented": 0,
        "partitions": [],
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


# Each prediction is stored once.


def test_reused_request_id_keeps_all_predictions(home: LogAndLake) -> None:
    home.append("".join(line("r1", prediction_id=f"p{at}", score=at / 10) for at in range(3)))
    assert home.ingest().added == 3
    assert sorted(home.rows()["score"]) == [0.0, 0.1, 0.2]


def test_reused_request_id_pairs_each_request_once(home: LogAndLake) -> None:
    for at, carrier in enumerate(("UA", "AA", "UA")):
        same: dict[str, Any] = {"request": {"carrier": carrier}, "logged_at": f"2013-07-01T10:0{at}:00+00:00"}
        home.append(line("r1", prediction_id=f"s{at}", score=at / 10, **same))
        home.append(line("r1", prediction_id=f"c{at}", score=at / 10 + 0.5, role="shadow", **same))
    home.ingest()
    pairs = pair_by_role(home.rows(), "stable", "shadow").select("score_stable", "score_shadow").rows()
    assert sorted(pairs) == [(0.1, 0.6), (0.2, 0.7)]


def test_line_of_an_earlier_release_gets_the_same_id_wherever_it_is_read(home: LogAndLake) -> None:
    old = line("r1", prediction_id=None)
    home.append(old + line("r1", prediction_id=None, logged_at="2013-07-01T10:00:00.125001+00:00"))
    home.ingest()
    home.log.with_name("copy.jsonl").write_text(old)
    again = home.ingest()
    assert (again.added, again.duplicates, home.rows()["prediction_id"].n_unique()) == (0, 1, 2)


@pytest.mark.parametrize("lacking", [("client", "latency_ms", "weight"), ("weight",)])
def test_table_of_an_earlier_release_gets_its_later_columns_with_new_predictions(
    home: LogAndLake, lacking: tuple[str, ...]
) -> None:
    home.append(line("r1", client="shop", latency_ms=1.5))
    home.ingest()
    assert home.rows().select("client", "latency_ms").rows() == [("shop", 1.5)]
    day = home.lake.partitions(TABLE)[0]
    other = Lake.standalone(home.log.parents[1] / "earlier")
    earlier = home.rows().drop("partition", *lacking)
    other.write(TABLE, earlier, day)
    other.write(TABLE, earlier.with_columns(prediction_id=pl.lit("old")), "2013-06-30")
    home.append(line("r2", client="shop", latency_ms=2.5))
    added = ingest_log_files(other, MODEL, home.log.parent)
    assert (added.added, added.duplicates, added.rows, added.represented) == (1, 1, 3, 3)
    known = (None, None) if "client" in lacking else ("shop", 1.5)
    expected = [("r1", *known, 1.0)] * 2 + [("r2", "shop", 2.5, 1.0)]
    columns = ["request_id", "client", "latency_ms", "weight"]
    assert sorted(other.scan(TABLE).select(columns).collect().rows()) == expected
    assert sorted(pl.scan_delta(other.delta_address(TABLE)).select(columns).collect().rows()) == expected
    # Once: further predictions are added to what is there.
    version = other.version(TABLE)
    home.append(line("r3"))
    ingest_log_files(other, MODEL, home.log.parent)
    assert other.version(TABLE) == (version or 0) + 1


def test_copied_file_adds_nothing(home: LogAndLake) -> None:
    home.append(line("r1") + line("r2"))
    home.ingest()
    home.log.with_name("copy.jsonl").write_text(home.log.read_text() + line("r3"))
    done = home.ingest()
    assert (done.added, done.duplicates, home.rows().height) == (1, 2, 3)


def test_moved_home_reads_no_line_again(home: LogAndLake) -> None:
    home.append(line("r1"))
    home.ingest()
    moved = home.log.parent.with_name("moved")
    home.log.parent.rename(moved)
    assert ingest_log_files(home.lake, MODEL, moved).lines == 0


def test_cursor_of_a_deleted_file_is_removed(home: LogAndLake) -> None:
    home.append(line("r1"))
    home.ingest()
    assert list(cursors_below(home.lake.state, f"predictions/{MODEL}/")) == ["predictions.jsonl"]
    home.log.unlink()
    home.ingest()
    assert cursors_below(home.lake.state, f"predictions/{MODEL}/") == {}


@pytest.mark.parametrize("killed_at", ["stage", "record", "add_predictions", "write_cursor", "publish"])
def test_ingestion_killed_at_any_step_stores_each_line_once(
    home: LogAndLake, monkeypatch: pytest.MonkeyPatch, killed_at: str
) -> None:
    monkeypatch.setattr(prediction_log, "_CHUNK_BYTES", 1_500)
    home.append("".join(line(f"r{at}") for at in range(8)) + "corrupt\n")
    calls = 0

    def killed(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == (1 if killed_at == "publish" else 3):
            raise KeyboardInterrupt
        return original(*arguments, **named)

    owner = home.lake if hasattr(home.lake, killed_at) else prediction_log
    original = getattr(owner, killed_at)
    with monkeypatch.context() as patched:
        patched.setattr(owner, killed_at, killed)
        with pytest.raises(KeyboardInterrupt):
            home.ingest()
    home.ingest()
    assert home.rows()["request_id"].to_list() == [f"r{at}" for at in range(8)]
    assert home.quarantined().height == 1
    assert sum(each.predictions for each in day_counts(home.lake.state, MODEL)) == 8
    assert home.lake.catalog.table(TABLE).published_version == home.lake.version(TABLE)  # type: ignore[union-attr]


def test_lake_grows_with_the_log_and_not_with_its_square(home: LogAndLake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_log, "_CHUNK_BYTES", 20_000)
    sizes = []
    for round_ in range(3):
        home.append("".join(line(f"r{round_}-{at}", features={"x": at / 7}) for at in range(400)))
        home.ingest()
        files = (home.lake.files.local or Path()).rglob("*.parquet")
        sizes.append(sum(file.stat().st_size for file in files))
    assert sizes[2] < 3.3 * sizes[0]


def test_closed_day_is_compacted_and_the_current_day_is_not(home: LogAndLake) -> None:
    for at in range(MAX_SMALL_SEGMENTS + 1):
        home.append(line(f"r{at}") + line(f"s{at}", logged_at="2013-07-02T00:00:00+00:00"))
        home.ingest()
    before = home.rows()
    assert compact_closed_days(home.lake, TABLE, date(2013, 7, 2)) == ["2013-07-01"]
    segments = [each.partition for each in home.lake.catalog.segments(TABLE)]
    assert [segments.count(day) for day in ("2013-07-01", "2013-07-02")] == [1, MAX_SMALL_SEGMENTS + 1]
    assert home.rows().equals(before)
    home.lose_cursors()
    assert home.ingest().added == 0
    assert compact_closed_days(home.lake, TABLE, date(2013, 7, 2)) == []


def test_ids_of_a_day_beyond_the_limit_are_read_again() -> None:
    known = KnownIds(lambda day: pl.Series([], dtype=pl.UInt64), max_ids=10)
    rows = pl.DataFrame({"prediction_id": [f"p{at}" for at in range(20)]})
    known.add("2013-07-01", rows)
    assert not known.are_new("2013-07-01", rows).any()
    known.add("2013-07-02", rows)
    assert known.are_new("2013-07-01", rows).all()  # read again: nothing is stored for the day


# Forms of lines.


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 7},
        {"predict_at": "2013-07-01T10:00:00Z"},
        {"predict_at": 1372672800},
        {"request": {"carrier": "\u00e9\ud83d\ude00", "flight": 1545}},
        {"ages": {"delays": 1}},
        {"label": None},
        {"score": 1},
    ],
)
def test_other_forms_of_a_line_are_read_like_the_form_of_the_services(
    home: LogAndLake, changes: dict[str, Any]
) -> None:
    home.append(line(**changes))
    assert home.ingest().added == 1
    stored = home.rows().row(0, named=True)
    expected = LoggedPrediction.model_validate_json(line(**changes))
    assert (stored["version"], stored["predict_at"]) == (expected.version, expected.predict_at)
    assert (json.loads(stored["request"]), json.loads(stored["ages"])) == (expected.request, expected.ages)
    assert (stored["score"], stored["label"]) == (expected.score, expected.label)


@pytest.mark.parametrize(
    "corrupt",
    [
        b'{"request": {"a": "\xff"}}\n',
        line(request={"a": 1}).replace('{"a": 1}', '{"a": "\\ud800"}').encode(),
        line(request={"a": 1}).replace('{"a": 1}', "[1]").encode(),
        line(request={"a": 1}).replace('{"a": 1}', '{"a": ' + "9" * 5_000 + "}").encode(),
        line(request={"a": 1}).replace('{"a": 1}', '{"a": ' + "[" * 5_000 + "]" * 5_000 + "}").encode(),
        line(row=2**63).encode(),
        line(prediction_id="").encode(),
        line(ages={"delays": "old"}).encode(),
        line(watermarks={"delays": "2013-07-01T04:00:00"}).encode(),
    ],
    ids=["utf-8", "surrogate", "no object", "long number", "deep", "row", "id", "age", "watermark"],
)
def test_line_that_could_not_be_read_later_is_quarantined(home: LogAndLake, corrupt: bytes) -> None:
    home.log.write_bytes(line("r1").encode() + corrupt + line("r2").encode())
    done = home.ingest()
    assert (done.added, done.corrupt, home.quarantined().height) == (2, 1, 1)
