"""A verdict follows from its gates, and a change of a stored verdict is detected."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from ml_platform.data.canonical import canonical_json, value_digest
from ml_platform.evaluation.gate_result import GateResult
from ml_platform.evaluation.verdict import Verdict, VerdictError, build_verdict, decide, parse_verdict

PASSED = GateResult(name="metric_limit_auc", passed=True, numbers={"value": 0.77}, reason="kept")
FAILED = GateResult(name="calibration", passed=False, numbers={"ece": 0.2}, reason="missed")
WAITING = GateResult(name="paired", passed=False, numbers={}, reason="near", undecided=True, labels_needed=12_000)


def verdict(*gates: GateResult, labels_per_day: float | None = None) -> Verdict:
    """Return the verdict of ``gates`` on a first version."""
    at = datetime(2013, 7, 1, tzinfo=UTC)
    return build_verdict(
        model="risk",
        partition="2013-06",
        candidate="c" * 64,
        champion=None,
        gates=gates,
        evidence="e" * 64,
        at=at,
        labels_per_day=labels_per_day,
    )


@pytest.mark.parametrize(
    ("gates", "decision", "reasons"),
    [
        ([PASSED], "PROMOTE", ["metric_limit_auc: kept"]),
        ([PASSED, WAITING], "HOLD", ["paired: near"]),
        ([WAITING, FAILED], "REJECT", ["paired: near", "calibration: missed"]),
        ([], "REJECT", ["No gate is declared, so no evidence supports a promotion."]),
    ],
)
def test_decision_follows_from_the_gates(gates: list[GateResult], decision: str, reasons: list[str]) -> None:
    assert decide(gates) == (decision, reasons)


def test_hold_has_the_number_of_labels_needed() -> None:
    assert verdict(PASSED, WAITING).labels_needed == 12_000
    assert verdict(FAILED, WAITING).labels_needed is None


def test_reasons_of_a_hold_say_how_long_the_labels_take_at_the_rate_so_far() -> None:
    hold = verdict(PASSED, WAITING, labels_per_day=15.0)
    assert hold.days_needed == 800
    assert hold.reasons == [
        "paired: near",
        "About 12,000 more labels would decide: about 27 months of data at today's rate.",
    ]
    assert hold.notes == hold.reasons[1:]
    assert parse_verdict(stored(hold)) == hold
    assert verdict(FAILED, WAITING, labels_per_day=15.0).days_needed is None
    assert verdict(PASSED, WAITING).notes == ["About 12,000 more labels would decide."]


def test_labels_that_a_gate_names_are_said_once() -> None:
    gate = WAITING.model_copy(update={"reason": "near. About 12,000 more labels would decide."})
    hold = verdict(gate, labels_per_day=15.0)
    assert hold.reasons == [
        "paired: near.",
        "About 12,000 more labels would decide: about 27 months of data at today's rate.",
    ]
    assert hold.notes == hold.reasons[1:]
    assert hold.gates[0].reason == gate.reason


def test_verdict_of_a_release_without_the_time_is_read() -> None:
    old = {name: value for name, value in stored(verdict(PASSED, WAITING)).items() if name != "days_needed"}
    old["digest"] = value_digest({name: value for name, value in old.items() if name != "digest"})
    assert parse_verdict(old).days_needed is None


def stored(verdict: Verdict) -> dict[str, Any]:
    """Return ``verdict`` as the values of its stored JSON."""
    values: dict[str, Any] = json.loads(canonical_json(verdict.model_dump()))
    return values


def test_stored_verdict_is_read_back() -> None:
    given = verdict(PASSED, WAITING)
    assert parse_verdict(stored(given)) == given


def test_changed_number_is_detected() -> None:
    given = verdict(PASSED)
    changed = {**stored(given), "gates": [{**PASSED.model_dump(), "numbers": {"value": 0.78}}]}
    with pytest.raises(VerdictError, match=f"content with the digest {given.digest[:12]}, found digest"):
        parse_verdict(changed)


def test_forged_decision_with_a_valid_digest_is_detected() -> None:
    forged = {**stored(verdict(FAILED)), "decision": "PROMOTE"}
    del forged["digest"]
    with pytest.raises(VerdictError, match="the decision REJECT that follows from its gates, found PROMOTE"):
        parse_verdict({**forged, "digest": value_digest(forged)})


def test_verdict_without_the_newer_table_field_is_still_valid() -> None:
    content = verdict(PASSED).model_dump()
    older = {name: value for name, value in content.items() if name not in ("table", "digest")}
    assert parse_verdict({**older, "digest": value_digest(older)}).table == ""


def test_incomplete_verdict_is_reported() -> None:
    with pytest.raises(VerdictError, match="a readable verdict, found ValidationError"):
        parse_verdict({"digest": "f" * 64})


def test_nan_in_a_gate_result_is_rejected() -> None:
    with pytest.raises(ValueError, match="finite"):
        GateResult(name="x", passed=True, numbers={"auc": float("nan")}, reason="")
