"""Recorded verdicts in `ml-platform status` and `history`: decision, version, reasons, labels and time."""

from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from ml_platform.console import history
from ml_platform.console import status as status_page
from ml_platform.console.demo import _show_no_champion
from ml_platform.console.verdicts import VerdictEntry, last_verdict, verdict_entries
from ml_platform.evaluation.gate_result import GateResult
from ml_platform.evaluation.verdict import build_verdict
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.verdict_record import record_verdict
from ml_platform.state.store import StateStore

PASSED = GateResult(name="leak", passed=True, numbers={}, reason="none found")
WAITING = GateResult(name="paired", passed=False, numbers={}, reason="near", undecided=True, labels_needed=12_000)
NEEDED = "About 12,000 more labels would decide: about 27 months of data at today's rate."
JUNE, JULY = datetime(2013, 7, 1, tzinfo=UTC), datetime(2013, 8, 1, tzinfo=UTC)


@pytest.fixture
def audit(tmp_path: Path) -> AuditLog:
    """A log with a PROMOTE on June, without its version as in earlier releases, and a HOLD on version 2 of July."""
    log = AuditLog(StateStore.in_folder(tmp_path))
    add_verdict(log, "2013-06", JUNE, None, [PASSED])
    add_verdict(log, "2013-07", JULY, 2, [PASSED, WAITING])
    return log


def add_verdict(audit: AuditLog, partition: str, at: datetime, version: int | None, gates: list[GateResult]) -> None:
    made = build_verdict(
        model="late",
        partition=partition,
        candidate="c" * 64,
        champion=None,
        gates=gates,
        evidence=partition,
        at=at,
        labels_per_day=15.0,
    )
    record_verdict(audit, made.model_dump(), {}, version=version, actor="gates", at=at)


def test_verdicts_are_read_with_their_versions_reasons_and_time(audit: AuditLog) -> None:
    june, july = verdict_entries(audit, "late")
    assert july == last_verdict(audit, "late")
    assert june == VerdictEntry(JUNE, "PROMOTE", None, "2013-06", "gates", ["All 1 gates passed."], None, None)
    assert july == VerdictEntry(
        JULY, "HOLD", 2, "2013-07", "gates", ["paired: near", NEEDED], 12_000, "about 27 months"
    )
    assert (june.title, july.title) == (
        "PROMOTE for the candidate of 2013-06",
        "HOLD for version 2, the candidate of 2013-07",
    )
    assert last_verdict(audit, "other") is None


def test_status_and_history_show_the_verdict(audit: AuditLog) -> None:
    entry = last_verdict(audit, "late")
    assert entry is not None
    serving = {"stable": None, "candidate": None, "weights": {}, "generation": 0}  # type: ignore[var-annotated]
    verdict = status_page._verdict_values(entry)
    model = {"champion": None, "serving": serving, "endpoint": None, "verdict": verdict}
    shown, listed, demo = StringIO(), StringIO(), StringIO()
    status_page.show({"data_clock": None, "models": {"late": model}}, [], Console(file=shown, width=120))
    history.show([entry], "late", Console(file=listed, width=120))
    _show_no_champion("late", model, Console(file=demo, width=120))

    lines = [line.strip() for line in shown.getvalue().splitlines()]
    start = lines.index("last verdict  HOLD for version 2, the candidate of 2013-07, 2013-08-01 00:00:00Z")
    assert lines[start + 1 : start + 3] == ["paired: near", NEEDED]
    assert [line.strip() for line in listed.getvalue().splitlines()] == [
        "2013-08-01 00:00:00Z  HOLD for version 2, the candidate of 2013-07",
        "paired: near",
        NEEDED,
    ]
    assert demo.getvalue().splitlines()[:2] == [
        "No version of 'late' is champion, so nothing serves yet.",
        "  HOLD for version 2, the candidate of 2013-07",
    ]
    assert history.json_values(entry)["data_needed"] == "about 27 months"


def test_failures_are_shown_with_their_reason() -> None:
    output = StringIO()
    failure = {"what": "schedule late_monitor", "at": "2026-05-01T06:00:00+00:00", "reason": "no lake"}
    status_page.show({"data_clock": None, "models": {}, "failures": [failure]}, [], Console(file=output, width=80))
    assert output.getvalue().splitlines()[-3:] == [
        "Failed, and not repeated with success since",
        "  2026-05-01 06:00:00Z  schedule late_monitor",
        "      no lake",
    ]
