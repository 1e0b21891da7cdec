"""`ml-platform alerts`: shows open alerts, records acknowledgements and silences, and tests routes."""

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from ml_platform.alerts.alert import KINDS, StoredAlert, worst_first
from ml_platform.alerts.evaluation import silenced
from ml_platform.alerts.messages import RenderedMessage, minute
from ml_platform.alerts.receivers import DeliveryError, send
from ml_platform.alerts.records import acknowledge, add_silence, end_silences, open_alerts, queued_messages
from ml_platform.alerts.settings import AlertSettings, AlertSettingsError, Silence, read_settings, resolved
from ml_platform.console.arguments import ArgumentError, parse_instant
from ml_platform.errors import did_you_mean, listed
from resources.alert_settings import alert_log, home_page, message_addresses, settings_file
from resources.home import Home
from resources.state import open_state

STYLES = {"info": "blue", "warning": "yellow", "critical": "bold red"}

ALL = "*"


def open_alert_entries(home: Home) -> list[dict[str, Any]]:
    """Return the open alerts as JSON objects, the worst first, then the oldest.

    ``silent`` says whether a silence covers it, and ``waiting`` names the receivers that have not taken its messages.
    """
    state, settings, now = open_state(home), read_settings(settings_file()), datetime.now(UTC)
    addresses, is_silent = message_addresses(settings), silenced(state, settings, now)
    queued = queued_messages(state)
    return [
        {
            "kind": each.kind,
            "subject": each.subject,
            "domain": each.domain,
            "severity": each.severity,
            "title": each.title,
            "what": each.what,
            "since": each.since.isoformat(),
            "link": addresses.of_link(each.link),
            "runbook": addresses.runbook(each),
            "acknowledged_by": each.acknowledged_by or None,
            "silent": is_silent(each),
            "waiting": sorted(
                {one.receiver for one in queued if each.id in (other["id"] for other in one.body["alerts"])}
            ),
        }
        for each in worst_first(open_alerts(state))
    ]


def show(entries: list[dict[str, Any]], console: Console) -> None:
    """Print the alerts of :func:`open_alert_entries`."""
    for each in entries:
        marks = [
            *([f"acknowledged by {each['acknowledged_by']}"] if each["acknowledged_by"] else []),
            *(["silent"] if each["silent"] else []),
            *([f"not taken yet by {', '.join(each['waiting'])}"] if each["waiting"] else []),
        ]
        line = Text(f"{each['severity']:<8}  ", style=STYLES[each["severity"]])
        line.append(f"{each['title']}  ({each['kind']})", style="default")
        console.print(line, soft_wrap=True)
        since = minute(datetime.fromisoformat(each["since"]))
        texts = [each["what"], f"since {since}{''.join(f', {mark}' for mark in marks)}", each["link"], each["runbook"]]
        for text in texts:
            console.print(Padding(Text(text, overflow="fold"), (0, 0, 0, 10), expand=False))
    console.print(f"{len(entries)} open alerts.", highlight=False)


def acknowledge_alert(home: Home, kind: str, subject: str, by: str, note: str) -> StoredAlert:
    """Record that ``by`` takes care of the open alert of ``kind`` on ``subject``, and return it."""
    state = open_state(home)
    known = open_alerts(state)
    found = next((each for each in known if each.key == (kind, subject)), None)
    if found is None:
        subjects = [each.subject for each in known if each.kind == kind]
        raise ArgumentError(
            f"Alert {kind} on '{subject}'",
            expected="an open alert",
            found=f"open alerts of this kind on {listed(subjects)}",
            fix=f"List them with `ml-platform alerts list`.{did_you_mean(subject, subjects)}",
        )
    acknowledge(state, [found.id], by, note, datetime.now(UTC))
    return found


def silence(home: Home, kind: str, subject: str, until: str, by: str, reason: str) -> Silence:
    """Silence the alerts of ``kind`` on ``subject`` until then; ``*`` stands for all."""
    now = datetime.now(UTC)
    if kind != ALL and kind not in KINDS:
        raise ArgumentError(
            f"Kind '{kind}'",
            expected=f"a kind of alerts ({listed(KINDS, len(KINDS))}) or {ALL}",
            found="another name",
            fix=f"Correct the kind.{did_you_mean(kind, KINDS)}",
        )
    end = parse_instant(until)
    if end <= now:
        raise ArgumentError(
            f"End {until}", expected="a time after now", found=f"one before {minute(now)}", fix="Give a later end."
        )
    try:
        made = Silence(kinds=[] if kind == ALL else [kind], subjects=[subject], until=end, reason=reason, by=by)
    except ValidationError as error:
        raise ArgumentError(
            "Silence", expected="a reason and a name", found=error.errors()[0]["msg"], fix="Give both."
        ) from error
    add_silence(open_state(home), made, now)
    return made


def end_silence(home: Home, kind: str, subject: str) -> int:
    """End the silences that were made for exactly ``kind`` and ``subject``, and return their number."""
    return end_silences(open_state(home), "" if kind == ALL else kind, subject, datetime.now(UTC))


def try_route(home: Home, name: str) -> Iterator[tuple[str, str]]:
    """Send a test message to each receiver of the route ``name``; yield the receiver and its problem, "" for none."""
    settings = read_settings(settings_file())
    route = settings.routes.get(name)
    if route is None:
        raise ArgumentError(
            f"Route '{name}'",
            expected=f"a route of {settings_file().name}",
            found=listed(settings.routes),
            fix=f"Correct the name.{did_you_mean(name, settings.routes)}",
        )
    escalation = [] if route.escalate is None else route.escalate.receivers
    now = datetime.now(UTC)
    for stage, moment in (("opened", None), ("recovered", now)):
        alert = StoredAlert(
            id=0,
            kind="check_failed",
            subject=f"test of route {name}",
            what="This is a test of the route. Nothing is wrong.",
            severity="info",
            domain="",
            link=home_page(),
            since=now,
            opened_at=now,
            resolved_at=moment,
        )
        for receiver in dict.fromkeys([*route.receivers, *escalation]):
            key = f"test-{name}-{stage}-{now.timestamp():.0f}"
            message = RenderedMessage(
                key, name, stage, [alert], settings.name, message_addresses(settings), created_at=now
            )
            try:
                send(message, settings.receivers[receiver], os.environ, alert_log(home))
            except (DeliveryError, AlertSettingsError) as error:
                yield f"{receiver} ({stage})", str(error)
            else:
                yield f"{receiver} ({stage})", ""


def check_settings() -> tuple[AlertSettings, list[str]]:
    """Return the settings, and one text for each environment variable that they name and that is not set."""
    settings = read_settings(settings_file())
    problems = []
    for value in _named_values(settings):
        try:
            resolved(value, os.environ)
        except AlertSettingsError as error:
            problems.append(str(error))
    return settings, problems


def evaluate(home: Home, echo: Callable[[str], None]) -> bool:
    """Evaluate all sources once and send what is due; return whether every receiver took its messages."""
    from ml_platform.components.alerts_sensor import evaluate_alerts
    from ml_platform.console.materialize import load_definitions
    from resources.orchestration import open_instance

    graph = load_definitions().resolve_asset_graph()
    with open_instance(home) as instance:
        found, sent = evaluate_alerts(home, instance, graph)
    echo(f"{found} {sent.delivered} delivered.")
    for name, problem in sent.problems.items():
        echo(f"{name}: {problem}")
    return not sent.problems


def _named_values(settings: AlertSettings) -> Iterator[str]:
    models = [*settings.receivers.values(), *([settings.alertmanager] if settings.alertmanager else [])]
    for model in models:
        for name in ("url", "token", "password", "routing_key"):
            if value := getattr(model, name, None):
                yield value
