"""The report of a pull request is valid Markdown that says what got better and worse, and fits a comment."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ml_platform.console.ci.report import CiReport, DatasetLine
from ml_platform.console.ci.report_files import COMMENT_CHARACTERS, report_text, write_files
from ml_platform.evaluation.bootstrap import Difference
from ml_platform.evaluation.gate_result import GateResult
from ml_platform.evaluation.slices import SliceComparison, SliceScore
from ml_platform.evaluation.verdict import build_verdict
from ml_platform.evaluation.version_comparison import Change
from ml_platform.monitoring.drift_history import DriftSummary
from ml_platform.registry.manifest import CodeInfo, HardwareInfo, Manifest
from ml_platform.steps.version_comparison import ManifestChanges, metric_comparisons
from ml_platform_tests.evaluation.test_model_card import EVIDENCE

GATES = [
    GateResult(name="leak", passed=True, numbers={}, reason="None."),
    GateResult(name="slices", passed=False, numbers={}, reason="origin=J|K is <worse>.", undecided=True),
]


@pytest.fixture
def report() -> CiReport:
    """A candidate that is better than its champion, with one undecided gate."""
    difference = Difference(-0.02, -0.03, -0.01, standard_error=0.005, degrees_of_freedom=9, rows=300)
    return CiReport(
        model="late",
        verdict=build_verdict(
            model="late",
            partition="2013-04",
            candidate="c" * 64,
            champion="d" * 64,
            gates=GATES,
            evidence="e" * 64,
            at=datetime(2026, 1, 1, tzinfo=UTC),
        ),
        version=3,
        champion=2,
        manifest=Manifest(
            model="late",
            partition="2013-04",
            trainer="lightgbm",
            tables={},
            training_set="a" * 64,
            training_rows=10,
            code=CodeInfo(commit="c0ffee" * 5, dirty=True, sha256="b" * 64),
            lock=None,
            parameters={},
            seeds={},
            hardware=HardwareInfo(machine="x86", cpu_count=2, device="cpu"),
            data_clock="2013-05-01",
            dagster_run_id="run",
            created_at="2026-01-01T00:00:00+00:00",
        ),
        rows=800,
        metrics=metric_comparisons(EVIDENCE),
        slice_metric="log_loss",
        slices=[SliceComparison("origin", "J|K", 300, difference, proven_worse=True, proven_not_worse=False)],
        weakest=[SliceScore("origin", "EWR", 500, 0.4)],
        drift=DriftSummary(
            partition="2013-04",
            decision="notice",
            reason="Notice: temperature.",
            columns={"t": 1.2, "u": 0.4},
            drifted=[],
        ),
        changes=ManifestChanges([Change("trainer.leaves", 31, 63)], [Change("training_rows", 9, 10)], []),
        datasets=[DatasetLine("orders", 4, 1, "2013-04", "warning", ["30 % of the rows are absent."])],
        costs={"CPU time": ("12.0 s", "11.0 s")},
        card="# late, version 3",
        images={"Improvement over the champion": b"\x89PNG"},
    )


def test_report_says_what_is_better_and_worse_than_the_champion(report: CiReport) -> None:
    text = report_text(report, {})
    auc = next(each for each in report.metrics if each.metric == "auc")
    assert auc.second is not None
    assert f"| AUC | {auc.second.value:.4f} ({auc.second.low:.4f} to {auc.second.high:.4f}) |" in text
    assert "| better |" in text
    assert "| origin = J\\|K | 300 | -0.0200 (-0.0300 to -0.0100) | **worse** |" in text
    assert "- **Undecided: slices.** origin=J\\|K is &lt;worse>." in text
    assert "1 of 2 gates passed" in text
    assert "with uncommitted changes" in text
    assert "| `t` | 1.20 |\n| `u` | 0.40 |" in text
    assert "| orders | 4 | **1** | 2013-04: warning | 30 % of the rows are absent. |" in text
    assert "| `trainer.leaves` | 31 | 63 |" in text
    assert "| CPU time | 12.0 s | 11.0 s |" in text
    assert "<details><summary>Model card</summary>\n\n# late, version 3" in text


def test_tables_are_read_as_tables(report: CiReport) -> None:
    from markdown_it import MarkdownIt

    for shown in (report, replace(report, champion=None, changes=None, slices=[])):
        page = MarkdownIt("commonmark").enable("table").render(report_text(shown, {"Plot": "images/plot.png"}))
        assert page.count("<table>") >= 5
        assert "| ---" not in page
        assert "<img" in page
    assert "There is no champion whose data could be compared." in page
    assert "origin = EWR" in page


def test_section_without_a_measurement_says_so(report: CiReport) -> None:
    text = report_text(replace(report, drift=None, slices=[], weakest=[], card=""), {})
    assert "Not measured for this window." in text
    assert "No slice has enough rows." in text
    assert "The model card is not written: materialize `late/model_card`." in text


def test_comment_has_images_only_where_they_are_published_and_no_card_that_is_too_long(
    report: CiReport, tmp_path: Path
) -> None:
    files = write_files(replace(report, card="x" * COMMENT_CHARACTERS), tmp_path)
    assert "(images/improvement_over_the_champion.png)" in files.report.read_text()
    assert (tmp_path / "images" / "improvement_over_the_champion.png").read_bytes() == b"\x89PNG"
    comment = files.comment.read_text()
    assert len(comment) < COMMENT_CHARACTERS
    assert "![" not in comment
    assert "The model card is in the artifacts of this run" in comment
