"""An evaluation stores what changed and queues each message once; a delivery sends it, to real receivers."""

import json
import os
import signal
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest

from ml_platform.alerts.alert import KINDS
from ml_platform.alerts.evaluation import AlertSource
from ml_platform.alerts.records import acknowledge, add_silence, end_silences, queued_messages
from ml_platform.alerts.settings import AlertSettings, Silence
from ml_platform_tests.alerts.alerting import START, Alerting, drift
from ml_platform_tests.alerts.sinks import HttpSink, SmtpSink


def hook(sink: HttpSink, **route: Any) -> dict[str, Any]:
    """Return settings with one route to ``sink`` that waits for nothing."""
    return {
        "receivers": {"hook": {"type": "webhook", "url": sink.url}},
        "routes": {"all": {"receivers": ["hook"], "group_wait_seconds": 0, **route}},
    }


def stages(sink: HttpSink) -> list[str]:
    return [each["stage"] for each in sink.documents]


def test_message_says_what_how_bad_since_when_with_link_and_runbook(alerting: Alerting, sink: HttpSink) -> None:
    alerting.declare(**hook(sink), name="prod")
    alerting.firing = [drift(since=START - timedelta(hours=2))]
    assert alerting.run().delivered == 1
    (document,) = sink.documents
    assert document["title"] == "[prod] [warning] Drift alert: late"
    assert document["alerts"] == [
        {
            "kind": "drift",
            "subject": "late",
            "domain": "aviation",
            "status": "firing",
            "severity": "warning",
            "what": "Scores drifted.",
            "since": "2026-03-01T10:00:00+00:00",
            "resolved_at": None,
            "link": "http://ui/models/late",
            "runbook": "http://docs/drift-alert.md",
        }
    ]
    assert document["text"].splitlines() == [
        "WARNING  Drift alert: late",
        "Scores drifted.",
        "Since 2026-03-01 10:00Z",
        "Link: http://ui/models/late",
        "Runbook: http://docs/drift-alert.md",
    ]
    assert sink.headers[0]["idempotency-key"] == document["key"]


def test_two_evaluations_send_once_and_the_recovery_once(alerting: Alerting, sink: HttpSink) -> None:
    alerting.declare(**hook(sink))
    alerting.firing = [drift()]
    alerting.run()
    alerting.run(minutes=1)
    assert stages(sink) == ["opened"]
    alerting.firing = []
    alerting.run(minutes=1)
    alerting.run(minutes=1)
    assert stages(sink) == ["opened", "recovered"]
    assert alerting.open == []
    alerting.firing = [drift()]
    alerting.run(minutes=1)
    assert stages(sink) == ["opened", "recovered", "opened"]


def test_alert_that_recovers_within_the_wait_is_not_sent(alerting: Alerting, sink: HttpSink) -> None:
    alerting.declare(**hook(sink, group_wait_seconds=60))
    alerting.firing = [drift()]
    alerting.run()
    alerting.firing = []
    alerting.run(minutes=5)
    assert sink.documents == []


def test_receiver_that_is_down_gets_every_message_in_order_when_it_is_back(alerting: Alerting) -> None:
    sink = HttpSink()
    with sink.running():
        alerting.declare(**hook(sink))
    alerting.firing = [drift()]
    failed = alerting.run()
    assert (failed.delivered, list(failed.problems)) == (0, ["hook"])
    alerting.run(seconds=31)
    alerting.run(seconds=1)
    assert [(each.kind, each.subject) for each in alerting.open] == [("drift", "late"), ("route_down", "hook")]
    assert "1 messages wait" in alerting.open[1].what
    line = json.loads(alerting.log.read_text().splitlines()[-1])
    assert (line["alerts"][0]["kind"], line["severity"]) == ("route_down", "critical")
    alerting.firing = []
    alerting.run(seconds=1)
    with sink.running():
        alerting.run(hours=1)
    assert stages(sink) == ["opened", "recovered"]
    with sink.running():
        alerting.run(seconds=1)
    assert alerting.open == []
    assert stages(sink) == ["opened", "recovered"]  # nothing about the receiver itself


def test_pauses_grow_while_a_receiver_is_down_and_stay_bounded(alerting: Alerting) -> None:
    with HttpSink().running() as sink:
        alerting.declare(**hook(sink, repeat_hours=None))
    alerting.firing = [drift()]
    alerting.run()
    pauses = []
    for _ in range(8):
        (message,) = [each for each in queued_messages(alerting.state) if each.receiver == "hook"]
        pauses.append((message.next_at - alerting.now).total_seconds())
        alerting.now = message.next_at
        alerting.deliver()
    assert pauses == [30, 60, 120, 240, 480, 900, 900, 900]
    alerting.now += timedelta(days=7)
    alerting.deliver()
    assert queued_messages(alerting.state) == []


def test_refused_message_does_not_stop_the_next_one(alerting: Alerting, sink: HttpSink) -> None:
    alerting.declare(**hook(sink))
    alerting.firing = [drift("first")]
    sink.status = 422
    alerting.run()
    sink.status = 200
    alerting.firing += [drift("second", domain="bikes")]
    alerting.run(seconds=1)
    assert [each["alerts"][0]["subject"] for each in sink.documents] == ["second"]
    alerting.run(seconds=60)
    assert [each["alerts"][0]["subject"] for each in sink.documents] == ["second", "first"]


def test_receiver_that_rejects_the_secret_keeps_its_messages(alerting: Alerting, sink: HttpSink) -> None:
    alerting.declare(**hook(sink))
    alerting.firing = [drift()]
    sink.status = 401
    problem = alerting.run().problems["hook"]
    assert "expected status 2xx, found status 401" in problem
    sink.status = 200
    assert alerting.run(seconds=31).delivered == 1


def test_kill_between_sending_and_recording_sends_again_with_the_same_key(alerting: Alerting, sink: HttpSink) -> None:
    alerting.declare(**hook(sink))
    alerting.firing = [drift()]
    alerting.evaluate()
    # The process ends at the first transaction after the answer of the receiver.
    code = f"""
import os, signal, sys
from pathlib import Path
from ml_platform.alerts import delivery
from ml_platform.alerts.settings import AlertSettings
from ml_platform.state.store import StateStore
from ml_platform_tests.alerts.alerting import ADDRESSES, START
delivery.delete_message = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
settings = AlertSettings.model_validate_json(sys.argv[1])
state = StateStore(path=Path({str(alerting.state.path)!r}))
delivery.deliver(state, settings, ADDRESSES, {{}}, Path("unused"), now=lambda: START)
"""
    settings = alerting.settings.model_dump_json()
    killed = subprocess.run([sys.executable, "-c", code, settings], env=dict(os.environ), check=False)
    assert killed.returncode == -signal.SIGKILL
    assert alerting.run(seconds=1).delivered == 1
    first, second = sink.documents
    assert first == second
    assert alerting.run(seconds=1).delivered == 0


def test_evaluation_without_a_change_writes_nothing(alerting: Alerting, monkeypatch: pytest.MonkeyPatch) -> None:
    alerting.declare(routes={"all": {"receivers": ["log"], "group_wait_seconds": 0}})
    alerting.firing = [drift()]
    alerting.run()
    monkeypatch.setattr(alerting.state, "write", lambda: pytest.fail("a transaction writes"))
    alerting.run(minutes=1)


def test_source_that_cannot_be_read_keeps_its_alerts_and_is_an_alert(alerting: Alerting) -> None:
    alerting.firing = [drift()]
    alerting.run()

    def broken() -> list[Any]:
        raise OSError("no disk")

    alerting.evaluate([AlertSource("models", frozenset({"drift"}), broken)])
    kinds = {each.kind: each.what for each in alerting.open}
    assert kinds == {"drift": "Scores drifted.", "alert_source_failed": "OSError: no disk"}
    alerting.firing = []
    alerting.run(minutes=1)
    assert alerting.open == []


def test_acknowledged_alert_is_quiet_until_it_becomes_worse(alerting: Alerting, sink: HttpSink) -> None:
    alerting.declare(**hook(sink, repeat_hours=1))
    alerting.firing = [drift()]
    alerting.run()
    acknowledge(alerting.state, [alerting.open[0].id], "ann", "on it", alerting.now)
    alerting.run(hours=5)
    assert stages(sink) == ["opened"]
    assert (alerting.open[0].acknowledged_by, alerting.open[0].note) == ("ann", "on it")
    alerting.firing = [drift(severity="critical")]
    alerting.run(minutes=1)
    assert stages(sink) == ["opened", "worsened"]
    assert alerting.open[0].acknowledged_by == ""


def test_stored_silence_is_quiet_until_its_end(alerting: Alerting, sink: HttpSink) -> None:
    alerting.declare(**hook(sink))
    end = START + timedelta(hours=1)
    silence = Silence(kinds=["drift"], subjects=["la*"], until=end, reason="planned", by="ann")
    add_silence(alerting.state, silence, START)
    alerting.firing = [drift()]
    alerting.run(minutes=30)
    assert stages(sink) == []
    alerting.run(minutes=31)
    assert stages(sink) == ["opened"]
    add_silence(alerting.state, silence.model_copy(update={"until": START + timedelta(days=9)}), START)
    assert end_silences(alerting.state, "drift", "la*", alerting.now) == 1


def test_severity_of_the_file_replaces_the_usual_one(alerting: Alerting) -> None:
    alerting.settings = AlertSettings(severities={"drift": "info"})
    alerting.firing = [drift(severity="critical")]
    alerting.run()
    assert alerting.open[0].severity == "info"


def test_ended_alerts_are_forgotten_after_their_time(alerting: Alerting) -> None:
    from ml_platform.alerts.records import last_resolved

    alerting.firing = [drift()]
    alerting.run()
    alerting.firing = []
    alerting.run(minutes=1)
    assert len(last_resolved(alerting.state, START)) == 1
    alerting.firing = [drift("other")]
    alerting.run(days=181)
    assert last_resolved(alerting.state, START) == []


def test_slack_gets_title_color_and_links(alerting: Alerting, sink: HttpSink) -> None:
    alerting.environment = {"SLACK": f"{sink.url}/services/T0/secret"}
    alerting.declare(
        receivers={"slack": {"type": "slack", "url": "$SLACK"}},
        routes={"all": {"receivers": ["slack"], "group_wait_seconds": 0}},
    )
    alerting.firing = [drift(what="a <b> & c")]
    alerting.run()
    (document,) = sink.documents
    assert sink.paths == ["/services/T0/secret"]
    assert document["text"] == "[ml_platform] [warning] Drift alert: late"
    (attachment,) = document["attachments"]
    assert attachment["text"] == "a &lt;b&gt; &amp; c\n<http://docs/drift-alert.md|Runbook>"
    assert (attachment["title_link"], attachment["color"]) == ("http://ui/models/late", "#97690a")


def test_missing_environment_variable_is_a_problem_of_the_receiver_and_no_secret_is_shown(alerting: Alerting) -> None:
    alerting.declare(
        receivers={"slack": {"type": "slack", "url": "$SLACK"}},
        routes={"all": {"receivers": ["slack"], "group_wait_seconds": 0}},
    )
    alerting.firing = [drift()]
    assert "Environment variable SLACK" in alerting.run().problems["slack"]
    alerting.environment = {"SLACK": "http://127.0.0.1:1/services/secret"}
    problem = alerting.run(seconds=31).problems["slack"]
    assert "host 127.0.0.1" in problem
    assert "secret" not in problem


def test_pagerduty_gets_one_incident_per_alert_and_its_end(alerting: Alerting, sink: HttpSink) -> None:
    alerting.environment = {"KEY": "R0"}
    alerting.declare(
        receivers={"pager": {"type": "pagerduty", "routing_key": "$KEY", "url": sink.url}},
        routes={"all": {"receivers": ["pager"], "group_wait_seconds": 0}},
    )
    alerting.firing = [drift("a", severity="critical"), drift("b")]
    alerting.run()
    alerting.firing = []
    alerting.run(minutes=1)
    assert [(each["event_action"], each["dedup_key"], each["routing_key"]) for each in sink.documents] == [
        ("trigger", "ml_platform/drift/a", "R0"),
        ("trigger", "ml_platform/drift/b", "R0"),
        ("resolve", "ml_platform/drift/a", "R0"),
        ("resolve", "ml_platform/drift/b", "R0"),
    ]
    payload = sink.documents[0]["payload"]
    assert (payload["summary"], payload["severity"]) == ("Drift alert: a: Scores drifted.", "critical")
    assert [each["href"] for each in sink.documents[0]["links"]] == ["http://ui/models/a", "http://docs/drift-alert.md"]


def mail_to(mail_sink: SmtpSink, address: str) -> dict[str, Any]:
    mail = {"type": "email", "to": [address], "sender": "ml@example.com", "host": "127.0.0.1"}
    return {
        "receivers": {"mail": {**mail, "port": mail_sink.port, "encryption": "none"}},
        "routes": {"all": {"receivers": ["mail"], "group_wait_seconds": 0}},
    }


def test_email_has_subject_text_and_an_id_that_stays_the_same(alerting: Alerting, mail_sink: SmtpSink) -> None:
    alerting.declare(**mail_to(mail_sink, "team@example.com"))
    alerting.firing = [drift("late\nBcc: other@example.com")]
    alerting.evaluate()
    (message,) = queued_messages(alerting.state)
    assert alerting.deliver().delivered == 1
    (mail,) = mail_sink.mails
    assert mail["Subject"] == "[ml_platform] [warning] Drift alert: late Bcc: other@example.com"
    assert (mail["To"], mail["Bcc"]) == ("team@example.com", None)
    assert mail["Message-ID"] == f"<{message.key}@example.com>"
    assert "Runbook: http://docs/drift-alert.md" in str(mail.get_payload())


def test_mail_server_that_knows_no_recipient_is_a_problem(alerting: Alerting, mail_sink: SmtpSink) -> None:
    alerting.declare(**mail_to(mail_sink, mail_sink.unknown))
    alerting.firing = [drift()]
    assert "no such user" in alerting.run().problems["mail"]
    assert len(queued_messages(alerting.state)) == 1


def test_log_has_one_line_per_message_and_begins_a_new_file(
    alerting: Alerting, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerting.firing = [drift("a")]
    alerting.run()
    monkeypatch.setattr("ml_platform.alerts.receivers.LOG_BYTES", 10)
    alerting.firing = [drift("a"), drift("b")]
    alerting.run(seconds=1)
    earlier = alerting.log.with_name("alerts.1.jsonl")
    subjects = [json.loads(file.read_text())["alerts"][0]["subject"] for file in (earlier, alerting.log)]
    assert subjects == ["a", "b"]


def test_every_kind_has_a_severity_title_and_runbook() -> None:
    assert len(KINDS) > 10
    assert all(each.title and each.runbook.endswith(".md") for each in KINDS.values())
