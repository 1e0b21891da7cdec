"""`ml-platform alerts`: list, acknowledgement, silence, test of a route, and check of the settings."""

from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from ml_platform.alerts.alert import Alert
from ml_platform.alerts.lifecycle import transitions
from ml_platform.alerts.records import open_alerts, store_transitions
from ml_platform.console import alerts as work
from ml_platform.console.arguments import ArgumentError
from ml_platform_tests.alerts.sinks import HttpSink
from resources.alert_settings import FILE_VARIABLE
from resources.home import Home
from resources.state import open_state

AT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with two open alerts and its own settings."""
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "alerts.yaml"))
    home = Home(tmp_path / "home")
    firing = [
        Alert("drift", "late", "Scores moved.", "/go/reports/models/late"),
        Alert("disk_low", "disk", "Full.", "/"),
    ]
    store_transitions(open_state(home), transitions([], firing, {}, (), AT))
    return home


def declare(text: str, tmp_path: Path) -> None:
    (tmp_path / "alerts.yaml").write_text(text)


def test_list_shows_the_worst_first_with_addresses_and_marks(home: Home) -> None:
    work.acknowledge_alert(home, "drift", "late", "ann", "on it")
    work.silence(home, "*", "dis*", "2099-01-01T00:00:00Z", "ann", "planned")
    found = work.open_alert_entries(home)
    assert [(each["kind"], each["severity"], each["silent"], each["acknowledged_by"]) for each in found] == [
        ("disk_low", "critical", True, None),
        ("drift", "warning", False, "ann"),
    ]
    assert (found[1]["link"], found[1]["runbook"]) == (
        "http://127.0.0.1:3001/models/late",
        "http://127.0.0.1:3001/docs/runbooks/drift-alert.md",
    )
    output = StringIO()
    work.show(found, Console(file=output, width=120))
    assert "warning   Drift alert: late  (drift)" in output.getvalue()
    assert "since 2026-01-02 03:04Z, acknowledged by ann" in output.getvalue()
    assert work.end_silence(home, "*", "dis*") == 1
    assert not any(each["silent"] for each in work.open_alert_entries(home))


def test_wrong_subject_kind_or_end_is_refused(home: Home) -> None:
    with pytest.raises(ArgumentError, match=r"Did you mean 'late'\?"):
        work.acknowledge_alert(home, "drift", "lat", "ann", "")
    with pytest.raises(ArgumentError, match=r"Did you mean 'drift'\?"):
        work.silence(home, "drfit", "*", "2099-01-01T00:00:00Z", "ann", "planned")
    with pytest.raises(ArgumentError, match="expected a time after now"):
        work.silence(home, "drift", "*", "2020-01-01T00:00:00Z", "ann", "planned")
    with pytest.raises(ArgumentError, match="expected a reason and a name"):
        work.silence(home, "drift", "*", "2099-01-01T00:00:00Z", "ann", "")
    assert [each.acknowledged_by for each in open_alerts(open_state(home))] == ["", ""]


def test_route_is_tried_with_each_receiver(home: Home, tmp_path: Path) -> None:
    with HttpSink().running() as sink:
        hook = f"{{type: webhook, url: '{sink.url}'}}"
        declare(
            f"receivers: {{hook: {hook}, away: {{type: slack, url: $NOT_SET}}}}\n"
            "routes: {all: {receivers: [hook], escalate: {after_minutes: 1, receivers: [away]}}}",
            tmp_path,
        )
        found = list(work.try_route(home, "all"))
    assert [(name, problem[:28]) for name, problem in found] == [
        ("hook (opened)", ""),
        ("away (opened)", "Environment variable NOT_SET"),
        ("hook (recovered)", ""),
        ("away (recovered)", "Environment variable NOT_SET"),
    ]
    assert [each["alerts"][0]["status"] for each in sink.documents] == ["firing", "resolved"]
    assert [each[:28] for each in work.check_settings()[1]] == ["Environment variable NOT_SET"]
    with pytest.raises(ArgumentError, match=r"Did you mean 'all'\?"):
        list(work.try_route(home, "al"))
