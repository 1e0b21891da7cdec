"""Decisions on retraining as the command line, the status, and the pages of a model and of the home show them."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from io import StringIO
from pathlib import Path

from rich.console import Console

from ml_platform.console.retraining_decisions import (
    json_values,
    last_decision_values,
    retraining_decisions,
    show,
)
from ml_platform.console.site.home_overview import Declarations, home_overview
from ml_platform.console.site.model_overview import DeclaredModel, model_overview
from ml_platform.console.site.pages import home_page, model_page
from ml_platform.console.status import show as show_status
from ml_platform.monitoring.retraining_policy import DriftEvidence, EvaluatedWindow, Evidence, decide
from ml_platform.monitoring.retraining_records import record_decision, update_training
from ml_platform.monitoring.retraining_settings import RetrainingPolicy
from ml_platform.registry.audit import AuditLog
from resources.home import Home
from resources.state import open_state

NOW = datetime(2026, 11, 21, 3, tzinfo=UTC)
POLICY = RetrainingPolicy.model_validate({"new_data": {"every_windows": 2}, "drift": {}})


def home_with_decisions(root: Path) -> Home:
    """Return a home in which one window was declined, and the training on the next one has stopped."""
    home = Home(root)
    state = open_state(home)
    june = datetime(2013, 7, 1, tzinfo=UTC)
    evidence = Evidence(
        window="2013-06",
        data_time=june,
        evaluated=EvaluatedWindow("2013-05", june - timedelta(days=30)),
        champion=EvaluatedWindow("2013-05", june - timedelta(days=30)),
        drift=DriftEvidence("steady", "Steady: nothing changed."),
    )
    record_decision(state, "late", "2013-06", "a", POLICY, decide(POLICY, evidence), NOW)
    later = replace(evidence, window="2013-07", data_time=june + timedelta(days=31), windows_since=2)
    second, _ = record_decision(state, "late", "2013-07", "b", POLICY, decide(POLICY, later), NOW + timedelta(hours=1))
    update_training(state, second, "stopped", run_id="5f0c2a17", runs=3, failures=3, run_seconds=61.5)
    return home


def test_decisions_are_printed_with_the_finding_of_each_rule_and_the_run(tmp_path: Path) -> None:
    output = StringIO()
    found = retraining_decisions(home_with_decisions(tmp_path), "late", 5)
    show(found, "late", Console(file=output, width=120))
    assert [line.rstrip() for line in output.getvalue().splitlines()] == [
        "2013-07  retrain  (data clock 2013-08-01, decided 2026-11-21 04:00Z)",
        "    retrain: 2 windows have closed since 2013-05; 2 call for a retraining.",
        "    no cause: Drift of 2013-07: Steady: nothing changed.",
        "    Stopped after 3 runs that failed, the last one run 5f0c2a17. The champion stays.",
        "2013-06  don't retrain  (data clock 2013-07-01, decided 2026-11-21 03:00Z)",
        "    no cause: 1 window has closed since 2013-05; 2 call for a retraining.",
        "    no cause: Drift of 2013-06: Steady: nothing changed.",
    ]


def test_json_has_decision_reasons_and_run_and_respects_the_number(tmp_path: Path) -> None:
    home = home_with_decisions(tmp_path)
    (last,) = retraining_decisions(home, "late", 1)
    values = json_values(last)
    assert (values["window"], values["decision"], values["state"]) == ("2013-07", "retrain", "stopped")
    assert (values["run_id"], values["runs"], values["failures"], values["run_seconds"]) == ("5f0c2a17", 3, 3, 61.5)
    assert [each["rule"] for each in values["because"]] == ["new_data", "drift"]
    assert last_decision_values(open_state(home), "late") == values
    assert last_decision_values(open_state(home), "other") is None


def test_stopped_retraining_is_in_the_status_and_needs_attention_on_the_home_page(tmp_path: Path) -> None:
    state = open_state(home_with_decisions(tmp_path))
    serving = {"stable": None, "candidate": None, "weights": dict[str, int](), "generation": 0}
    model = {"champion": None, "serving": serving, "endpoint": None, "retraining": last_decision_values(state, "late")}
    output = StringIO()
    show_status({"data_clock": None, "models": {"late": model}}, [], Console(file=output, width=200))
    stopped = "Stopped after 3 runs that failed, the last one run 5f0c2a17. The champion stays."
    assert (
        f"2013-07: Retrain: 2 windows have closed since 2013-05; 2 call for a retraining. {stopped}"
        in output.getvalue()
    )

    late = DeclaredModel("late", "shops")
    home = home_overview(AuditLog(state), Declarations([late], [], {}), [], date(2026, 1, 1))
    assert f"retraining on 2013-07. {stopped}" in home_page(home)


def test_page_of_the_model_lists_the_decisions(tmp_path: Path) -> None:
    audit = AuditLog(open_state(home_with_decisions(tmp_path)))
    shown = model_overview(audit, DeclaredModel("late", "shops"), None, partitions=3, decisions=5)
    page = model_page(shown, [], tmp_path)
    assert "Decisions on retraining" in page
    assert page.index("2 windows have closed since 2013-05") < page.index("1 window has closed since 2013-05")
    assert "/runs/5f0c2a17" in page
