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
from ml_platform.steps.request_lookup import UnknownRequestError, lookup_request

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)


def line(request_id: str, version: str, role: str = "stable", at: datetime = NOON, **more: Any) -> str:
    times = {"predict_at": at.isoformat(), "as_of": at.isoformat(), "logged_at": at.isoformat()}
    fields = {"request_id": request_id, "row": 0, "model": "late", "version": version, "role": role, "score": 0.3}
    return json.dumps(fields | times | {"request": {}, "features": {}} | more) + "\n"


@pytest.fixture
def audit(tmp_path: Path) -> AuditLog:
    """Version 1 becomes champion at ten, version 2 at one."""
    log = AuditLog(tmp_path / "audit.jsonl")
    for version, at, who in ((1, NOON - timedelta(hours=2), "ada"), (2, NOON + timedelta(hours=1), "bob")):
        facts = {"model": "late", "version": version, "reason": "better", "action": "promote", "content_digest": "c"}
        facts |= {"partition": "2013-06", "manifest": {"training_set": f"{version}" * 64}, "verdict": None}
        log.append(CHAMPION_KIND, actor=who, at=at, facts=facts | {"approved_by": [], "previous_version": None})
    return log


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "1.jsonl"
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
    lake = Lake(str(tmp_path / "lake"))
    if ingested:
        ingest_log_files(lake, "models/late/predictions", [log], tmp_path / "cursor.json")
    stable, shadow = lookup_request("late", "a", lake=lake, logs=[] if ingested else [log], audit=audit)
    assert (stable.version, stable.role, stable.rows) == ("1", "stable", 2)
    assert stable.champion_record is not None
    assert (stable.champion_record.decided_by, stable.champion_record.manifest["training_set"][0]) == ("ada", "1")
    # The shadow became champion one hour after its answer.
    assert (shadow.version, shadow.role, shadow.champion_record) == ("2", "shadow", None)


def test_unknown_request_and_incomplete_line_raise_an_error(tmp_path: Path, audit: AuditLog, log: Path) -> None:
    for request_id in ("nosuch", "torn"):
        with pytest.raises(UnknownRequestError, match=f"Request '{request_id}'.*expected a logged prediction"):
            lookup_request("late", request_id, lake=Lake(str(tmp_path / "lake")), logs=[log], audit=audit)
