"""A request lookup returns the version that answered and the decision that promoted it."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ml_platform.data.lake import Lake
from ml_platform.monitoring.prediction_log import ingest_log_files
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import CHAMPION_KIND
from ml_platform.state.store import StateStore
from ml_platform.steps.request_lookup import UnknownRequestError, lookup_request

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)


def line(request_id: str, version: str, role: str = "stable", at: datetime = NOON, **more: Any) -> str:
    times = {"predict_at": at.isoformat(), "as_of": at.isoformat(), "logged_at": at.isoformat()}
    fields = {"request_id": request_id, "row": 0, "model": "late", "version": version, "role": role, "score": 0.3}
    return json.dumps(fields | times | {"request": {}, "features": {}} | more) + "\n"


@pytest.fixture
def audit(tmp_path: Path) -> AuditLog:
    """Version 1 becomes champion at ten, version 2 at one."""
    log = AuditLog(StateStore.in_folder(tmp_path))
    for version, at, who in ((1, NOON - timedelta(hours=2), "ada"), (2, NOON + timedelta(hours=1), "bob")):
        facts = {"model": "late", "version": version, "reason": "better", "action": "promote", "content_digest": "c"}
        facts |= {"partition": "2013-06", "manifest": {"training_set": f"{version}" * 64}, "verdict": None}
        log.append(CHAMPION_KIND, actor=who, at=at, facts=facts | {"approved_by": [], "previous_version": None})
    return log


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "logs" / "1.jsonl"
    path.parent.mkdir()
    rows = [
        line("a", "1"),
        line("a", "1", row=1),
        line("a", "2", "shadow"),
        line("b", "2", at=NOON + timedelta(days=1)),
    ]
    path.write_text("".join(rows) + '{"request_id": "torn')
    return path


@pytest.mark.parametrize("ingested", [False, True], ids=["from the log of the services", "from the lake"])
def test_lookup_returns_version_data_and_author_of_the_promotion(
    tmp_path: Path, audit: AuditLog, log: Path, ingested: bool
) -> None:
    lake = Lake.standalone(tmp_path / "lake")
    if ingested:
        ingest_log_files(lake, "late", log.parent)
    stable, shadow = lookup_request("late", "a", lake=lake, logs=[] if ingested else [log], audit=audit)
    assert (stable.version, stable.role, stable.rows) == ("1", "stable", 2)
    assert stable.champion_record is not None
    assert (stable.champion_record.decided_by, stable.champion_record.manifest["training_set"][0]) == ("ada", "1")
    # The shadow became champion one hour after its answer.
    assert (shadow.version, shadow.role, shadow.champion_record) == ("2", "shadow", None)


def test_unknown_request_and_incomplete_line_raise_an_error(tmp_path: Path, audit: AuditLog, log: Path) -> None:
    for request_id in ("nosuch", "torn"):
        with pytest.raises(UnknownRequestError, match=f"Request '{request_id}'.*expected a logged prediction"):
            lookup_request("late", request_id, lake=Lake.standalone(tmp_path / "lake"), logs=[log], audit=audit)


def ingested(tmp_path: Path, *lines: str) -> Lake:
    lake = Lake.standalone(tmp_path / "lake")
    logs = tmp_path / "many"
    logs.mkdir()
    (logs / "1.jsonl").write_text("".join(lines))
    ingest_log_files(lake, "late", logs)
    return lake


def test_latest_day_of_a_reused_request_id_counts_unless_the_time_is_given(tmp_path: Path, audit: AuditLog) -> None:
    lake = ingested(tmp_path, line("a", "1"), line("a", "2", at=NOON + timedelta(days=9)))
    versions = [
        [each.version for each in lookup_request("late", "a", lake=lake, logs=[], audit=audit, near=near)]
        for near in (None, NOON)
    ]
    assert versions == [["2"], ["1"]]


def test_answers_on_both_sides_of_midnight_belong_to_one_request(tmp_path: Path, audit: AuditLog) -> None:
    midnight = NOON + timedelta(hours=12)
    lake = ingested(
        tmp_path,
        line("a", "1", at=midnight - timedelta(seconds=1)),
        line("a", "2", "shadow", at=midnight + timedelta(seconds=1)),
        line("b", "1", at=midnight - timedelta(hours=9)),
        line("b", "2", at=midnight + timedelta(hours=9)),
    )
    found = [
        [each.version for each in lookup_request("late", request_id, lake=lake, logs=[], audit=audit)]
        for request_id in ("a", "b")
    ]
    assert found == [["1", "2"], ["2"]]


def test_days_beyond_the_limit_are_searched_only_with_the_time(
    tmp_path: Path, audit: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_platform.steps.request_lookup.MAX_DAYS", 2)
    lake = ingested(tmp_path, *(line(f"r{day}", "1", at=NOON + timedelta(days=day)) for day in range(4)))
    with pytest.raises(UnknownRequestError, match=r"2 days from 2013-07-03 to 2013-07-04.*give its time"):
        lookup_request("late", "r0", lake=lake, logs=[], audit=audit)
    (answer,) = lookup_request("late", "r0", lake=lake, logs=[], audit=audit, near=NOON)
    assert answer.logged_at == NOON
