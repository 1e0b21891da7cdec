"""The incremental join records each outcome once, and equals the join of all predictions with all labels."""

from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.monitoring import outcome_join
from ml_platform.monitoring.logged_fields import PredictionLogError
from ml_platform.monitoring.outcome_join import LabelSource, record_outcomes
from ml_platform.monitoring.outcomes import OutcomeError, latest_facts, outcomes_table
from ml_platform.monitoring.prediction_days import labelled_count
from ml_platform.monitoring.prediction_log import predictions_table
from ml_platform_tests.monitoring.prediction_history import JULY, LABELS, MODEL, NOW, PredictionHistory


@pytest.fixture
def history(tmp_path: Path) -> PredictionHistory:
    return PredictionHistory(tmp_path)


def facts(history: PredictionHistory) -> list[tuple[str, float | None]]:
    rows = history.lake.scan(outcomes_table(MODEL)).sort("outcome_recorded_at", "prediction_id").collect()
    return rows.select("prediction_id", "outcome").rows()


def test_one_fact_is_recorded_for_each_known_outcome_and_none_for_unknown_ones(history: PredictionHistory) -> None:
    history.land("2013-07", {1: 1, 2: 0, 3: None})
    history.known_by = JULY + timedelta(days=1)
    history.predict(1, 2, 3, 4)
    history.ingest()
    assert history.join() == 2
    assert facts(history) == [("p000001", 1.0), ("p000002", 0.0)]
    assert labelled_count(history.lake.state, MODEL) == 2


def test_second_join_reads_nothing_and_writes_nothing(
    history: PredictionHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    history.land("2013-07", {1: 1})
    history.known_by = JULY + timedelta(days=1)
    history.predict(1)
    history.ingest()
    history.join()
    version = history.lake.version(outcomes_table(MODEL))
    scanned: list[str] = []
    monkeypatch.setattr(history.lake, "scan_segments", lambda table, segments: scanned.append(table))
    assert (history.join(), history.lake.version(outcomes_table(MODEL)), scanned) == (0, version, [])


def test_label_that_becomes_known_later_is_joined_though_its_partition_did_not_change(
    history: PredictionHistory,
) -> None:
    history.land("2013-07", {1: 1, 11: 0})
    history.predict(1, 11)
    history.ingest()
    added = []
    for hours in (6, 7, 29, 31):
        history.known_by = JULY + timedelta(hours=hours)
        added.append(history.join())
    assert added == [0, 1, 0, 1]


def test_corrected_and_withdrawn_labels_are_further_facts_and_the_last_one_counts(history: PredictionHistory) -> None:
    history.known_by = JULY + timedelta(days=1)
    history.predict(1, 2)
    history.ingest()
    corrections: list[dict[int, int | None]] = [{1: 0, 2: 1}, {1: 1, 2: 1}, {1: 1, 2: None}]
    for labels in corrections:
        history.land("2013-07", labels)
        history.join()
    assert facts(history) == [("p000001", 0.0), ("p000002", 1.0), ("p000001", 1.0), ("p000002", None)]
    assert history.outcomes() == {"p000001": 1.0}
    assert labelled_count(history.lake.state, MODEL) == 1


def test_latest_fact_counts_also_when_the_clock_went_back(history: PredictionHistory) -> None:
    history.known_by = JULY + timedelta(days=1)
    history.predict(1)
    history.ingest()
    history.land("2013-07", {1: 0})
    history.join(now=NOW)
    history.land("2013-07", {1: 1})
    history.join(now=NOW - timedelta(days=400))
    assert history.outcomes() == {"p000001": 1.0}


def test_data_clock_that_goes_back_withdraws_no_outcome(history: PredictionHistory) -> None:
    history.land("2013-07", {1: 0})
    history.known_by = JULY + timedelta(days=1)
    history.predict(1)
    history.ingest()
    history.join()
    history.known_by = JULY
    history.land("2013-07", {1: 0, 2: 1})
    assert (history.join(), history.outcomes()) == (0, {"p000001": 0.0})


def test_removed_partition_withdraws_its_labels(history: PredictionHistory) -> None:
    history.land("2013-07", {1: 0})
    history.land("2013-08", {310: 1})
    history.known_by = JULY + timedelta(days=60)
    history.predict(1, 310)
    history.ingest()
    history.join()
    history.lake.drop_partitions(LABELS, ["2013-07"])
    assert (history.join(), history.outcomes()) == (1, {"p000002": 1.0})


def test_only_predictions_near_a_changed_partition_are_read_again(
    history: PredictionHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    history.land("2013-07", {1: 0})
    history.land("2013-10", {1000: 1})
    history.known_by = JULY + timedelta(days=200)
    for day, flight in enumerate((1, 1000)):
        history.predict(flight, logged_at=NOW + timedelta(days=day))
    history.ingest()
    history.join()
    read: list[str] = []
    scan = history.lake.scan_segments

    def recorded(table: str, segments: Any) -> pl.LazyFrame:
        read.extend(segment.partition for segment in segments)
        return scan(table, segments)

    monkeypatch.setattr(history.lake, "scan_segments", recorded)
    history.land("2013-07", {1: 1})
    history.join()
    assert read == ["2026-01-01"]


def test_compaction_of_joined_predictions_causes_no_second_join(
    history: PredictionHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    history.land("2013-07", {1: 0, 2: 1, 3: 1})
    history.known_by = JULY + timedelta(days=1)
    for flight in (1, 2):
        history.predict(flight)
        history.ingest()
    history.join()
    assert history.lake.compact(predictions_table(MODEL), "2026-01-01") is not None
    scan = history.lake.scan_segments
    monkeypatch.setattr(history.lake, "scan_segments", lambda *_: pytest.fail("joined predictions were read again"))
    assert history.join() == 0
    monkeypatch.setattr(history.lake, "scan_segments", scan)
    history.predict(3)
    history.ingest()
    history.lake.compact(predictions_table(MODEL), "2026-01-01")
    assert (history.join(), history.outcomes()) == (1, {"p000001": 0.0, "p000002": 1.0, "p000003": 1.0})


def test_killed_join_leaves_neither_facts_nor_progress(
    history: PredictionHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    history.land("2013-07", {1: 0})
    history.known_by = JULY + timedelta(days=1)
    history.predict(1)
    history.ingest()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(outcome_join, "write_cursor", killed)
        with pytest.raises(KeyboardInterrupt):
            history.join()
    assert not history.lake.exists(outcomes_table(MODEL))
    assert (history.join(), history.outcomes()) == (1, {"p000001": 0.0})


def test_predictions_whose_request_retention_removed_keep_their_outcomes(history: PredictionHistory) -> None:
    history.land("2013-07", {1: 0})
    history.known_by = JULY + timedelta(days=1)
    history.predict(1)
    history.ingest()
    history.join()
    table = predictions_table(MODEL)
    stripped = history.predictions().with_columns(request=pl.lit(None, pl.String))
    history.lake.write(table, stripped, "2026-01-01")
    history.land("2013-07", {1: 1})
    assert (history.join(), history.outcomes()) == (0, {"p000001": 0.0})


def test_one_identity_in_two_partitions_is_rejected(history: PredictionHistory) -> None:
    history.land("2013-07-a", {1: 0})
    history.land("2013-07-b", {1: 1})
    history.known_by = JULY + timedelta(days=1)
    history.predict(1)
    history.ingest()
    with pytest.raises(OutcomeError, match="1 predictions with labels in two partitions"):
        history.join()


def test_identity_of_another_type_is_rejected_with_its_value(history: PredictionHistory) -> None:
    history.land("2013-07", {1: 0})
    history.predict(1, request={"flight": "UA1"})
    history.ingest()
    with pytest.raises(PredictionLogError, match="expected flight: Int64"):
        history.join()


def test_facts_of_a_prediction_name_its_version_role_and_times(history: PredictionHistory) -> None:
    history.land("2013-07", {1: 1})
    history.known_by = JULY + timedelta(days=1)
    history.predict(1, version="7", role="shadow", score=0.25)
    history.ingest()
    history.join()
    (fact,) = latest_facts(history.lake, MODEL, ["2026-01-01"]).to_dicts()
    assert {name: fact[name] for name in ("version", "role", "score", "outcome", "outcome_known_at")} == {
        "version": "7", "role": "shadow", "score": 0.25, "outcome": 1.0,
        "outcome_known_at": JULY + timedelta(hours=6, minutes=1),
    }  # fmt: skip


FLIGHTS = st.integers(0, 79)
STEPS = st.one_of(
    st.tuples(st.just("predict"), st.lists(FLIGHTS, min_size=1, max_size=5), st.integers(0, 2)),
    st.tuples(st.just("land"), st.integers(0, 3), st.dictionaries(st.integers(0, 19), st.sampled_from([0, 1, None]))),
    st.tuples(st.just("clock"), st.integers(0, 30), st.none()),
    st.tuples(st.just("join"), st.none(), st.none()),
    st.tuples(st.just("compact"), st.integers(0, 2), st.none()),
)


def run_step(history: PredictionHistory, kind: str, first: Any, second: Any) -> None:
    if kind == "predict":
        history.predict(*first, logged_at=NOW + timedelta(days=second))
        history.ingest()
    elif kind == "land":
        # A partition has the flights of two days; the predictions of neighbours lie within the margin.
        history.land(f"part-{first}", {first * 20 + flight: label for flight, label in second.items()})
    elif kind == "clock":
        history.known_by += timedelta(hours=first)
    elif kind == "compact":
        table, day = predictions_table(MODEL), f"2026-01-{first + 1:02d}"
        if history.lake.exists(table) and day in history.lake.partitions(table):
            history.lake.compact(table, day)
    elif history.lake.exists(predictions_table(MODEL)) and history.lake.exists(LABELS):
        history.join()


@settings(deadline=None, max_examples=12)
@given(steps=st.lists(STEPS, min_size=4, max_size=14))
def test_incremental_join_equals_the_join_of_everything(steps: list[tuple[str, Any, Any]]) -> None:
    with TemporaryDirectory() as folder:
        history = PredictionHistory(Path(folder))
        history.land("part-0", {0: 1})
        history.predict(0)
        history.ingest()
        for step in steps:
            run_step(history, *step)
        history.join()
        assert history.outcomes() == history.expected_outcomes()
        assert labelled_count(history.lake.state, MODEL) == len(history.outcomes())
        assert history.join() == 0


def test_labels_of_a_table_without_time_belong_to_predictions_of_any_time(history: PredictionHistory) -> None:
    def replace(labels: dict[int, int | None], written_at: datetime) -> int:
        table = pl.DataFrame(
            {"flight": list(labels), "label": list(labels.values())}, {"flight": pl.Int64, "label": pl.Int8}
        )
        history.lake.write(LABELS, table, None)
        source = LabelSource(LABELS, ["flight"], written_at=written_at)
        return record_outcomes(history.lake, MODEL, source, known_by=written_at, now=written_at)

    history.predict(1, 2, 900, 2)  # flight 900 was predicted three months later
    history.ingest()
    assert replace({1: 1, 2: 0, 900: 1}, JULY) == 4
    assert replace({1: 1, 2: 0, 900: 1}, JULY) == 0
    assert history.outcomes() == {"p000001": 1.0, "p000002": 0.0, "p000003": 1.0, "p000004": 0.0}
    # The replaced table corrects one label and no longer has flight 900.
    replace({1: 1, 2: 1}, JULY + timedelta(days=1))
    assert history.outcomes() == {"p000001": 1.0, "p000002": 1.0, "p000004": 1.0}
    history.predict(1, file="b")
    history.ingest()
    assert replace({1: 1, 2: 1}, JULY + timedelta(days=1)) == 1
