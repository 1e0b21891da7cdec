"""A verdict follows from its gates, and a change of a stored verdict is detected."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ml_platform.data.canonical import canonical_json, value_digest
from ml_platform.evaluation.gates import GateResult
from ml_platform.evaluation.verdict import Verdict, VerdictError, build_verdict, decide, read_verdict, store_verdict

PASSED = GateResult(name="metric_limit_auc", passed=True, numbers={"value": 0.77}, reason="kept")
FAILED = GateResult(name="calibration", passed=False, numbers={"ece": 0.2}, reason="missed")
WAITING = GateResult(name="paired", passed=False, numbers={}, reason="near", undecided=True, labels_needed=12_000)


def verdict(*gates: GateResult) -> Verdict:
    """Return the verdict of ``gates`` on a first version."""
    at = datetime(2013, 7, 1, tzinfo=UTC)
    return build_verdict(
        model="risk", partition="2013-06", candidate="c" * 64, champion=None, gates=gates, evidence="e" * 64, at=at
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


def test_stored_verdict_is_read_back(tmp_path: Path) -> None:
    given = verdict(PASSED, WAITING)
    assert read_verdict(store_verdict(given, tmp_path)) == given


def test_changed_number_is_detected(tmp_path: Path) -> None:
    path = store_verdict(verdict(PASSED), tmp_path)
    path.write_text(path.read_text().replace("0.77", "0.78"))
    with pytest.raises(VerdictError, match=f"content with the digest {path.stem[:12]}, found digest"):
        read_verdict(path)


def test_forged_decision_with_a_valid_digest_is_detected(tmp_path: Path) -> None:
    forged = json.loads(store_verdict(verdict(FAILED), tmp_path).read_text())
    del forged["digest"]
    forged["decision"] = "PROMOTE"
    path = tmp_path / f"{value_digest(forged)}.json"
    path.write_bytes(canonical_json({**forged, "digest": value_digest(forged)}))
    with pytest.raises(VerdictError, match="the decision REJECT that follows from its gates, found PROMOTE"):
        read_verdict(path)


def test_verdict_without_the_newer_table_field_is_still_valid(tmp_path: Path) -> None:
    content = verdict(PASSED).model_dump()
    older = {name: value for name, value in content.items() if name not in ("table", "digest")}
    path = tmp_path / f"{value_digest(older)}.json"
    path.write_bytes(canonical_json({**older, "digest": value_digest(older)}))
    assert read_verdict(path).table == ""


def test_absent_verdict_is_reported(tmp_path: Path) -> None:
    with pytest.raises(VerdictError, match="a readable verdict, found FileNotFoundError"):
        read_verdict(tmp_path / "none.json")


def test_nan_in_a_gate_result_is_rejected() -> None:
    with pytest.raises(ValueError, match="finite"):
        GateResult(name="x", passed=True, numbers={"auc": float("nan")}, reason="")
