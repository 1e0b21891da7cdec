"""The forms of a message: text, and the JSON of webhooks, Slack and PagerDuty."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ml_platform.alerts.alert import SEVERITIES, StoredAlert, kind_of
from ml_platform.alerts.records import QueuedMessage, alerts_of

FORM_VERSION = 1
"""Version of the JSON of webhooks; a field that is removed or changes its meaning raises it."""

COLORS = {"info": "#2563a6", "warning": "#97690a", "critical": "#b3362b", "recovered": "#1d7a46"}

PAGERDUTY_KEY_CHARACTERS = 255
PAGERDUTY_SUMMARY_CHARACTERS = 1024

SHOWN_ALERTS = 20
"""Alerts of one message that the text and Slack show; the JSON of webhooks has all."""


@dataclass(frozen=True)
class Addresses:
    """Turns stored links into addresses: ``of_link`` a link, and ``of_runbook`` the name of a page of runbooks."""

    of_link: Callable[[str], str]
    of_runbook: Callable[[str], str]

    def runbook(self, alert: StoredAlert) -> str:
        """Return the address of the runbook of ``alert``."""
        return self.of_runbook(kind_of(alert.kind).runbook)


@dataclass(frozen=True)
class RenderedMessage:
    """A message with its alerts, and the addresses as they are now. ``source`` names the installation."""

    key: str
    route: str
    stage: str
    alerts: Sequence[StoredAlert]
    source: str
    addresses: Addresses
    created_at: datetime

    @classmethod
    def of(cls, message: QueuedMessage, source: str, addresses: Addresses) -> "RenderedMessage":
        """Return the queued ``message`` for the installation ``source``."""
        body = message.body
        return cls(message.key, body["route"], body["stage"], alerts_of(body), source, addresses, message.created_at)

    @property
    def is_recovery(self) -> bool:
        return self.stage == "recovered"

    @property
    def severity(self) -> str:
        """The highest severity of the alerts."""
        return max((each.severity for each in self.alerts), key=SEVERITIES.index)

    @property
    def title(self) -> str:
        """One line: stage or severity, then the alert, or the number of them with the first one."""
        mark = "recovered" if self.is_recovery else self.severity
        mark = f"{mark}, {self.stage}" if self.stage in ("repeated", "escalated", "worsened") else mark
        more = f" and {len(self.alerts) - 1} more" if len(self.alerts) > 1 else ""
        return f"[{self.source}] [{mark}] {self.alerts[0].title}{more}"

    @property
    def text(self) -> str:
        """One paragraph per alert: what, how bad, since when, the link and the runbook."""
        parts = [self._paragraph(each) for each in self.alerts[:SHOWN_ALERTS]]
        left = len(self.alerts) - SHOWN_ALERTS
        return "\n\n".join([*parts, *([f"… and {left} more alerts."] if left > 0 else [])])

    def webhook(self) -> dict[str, Any]:
        """Return the JSON of a webhook."""
        return {
            "version": FORM_VERSION,
            "key": self.key,
            "source": self.source,
            "route": self.route,
            "stage": self.stage,
            "severity": self.severity,
            "title": self.title,
            "text": self.text,
            "alerts": [
                {
                    "kind": each.kind,
                    "subject": each.subject,
                    "domain": each.domain,
                    "status": "firing" if each.is_open else "resolved",
                    "severity": each.severity,
                    "what": each.what,
                    "since": each.since.isoformat(),
                    "resolved_at": None if each.resolved_at is None else each.resolved_at.isoformat(),
                    "link": self.addresses.of_link(each.link),
                    "runbook": self.addresses.runbook(each),
                }
                for each in self.alerts
            ],
        }

    def slack(self) -> dict[str, Any]:
        """Return the JSON of an incoming webhook of Slack: the title, and one attachment per alert."""
        return {
            "text": _slack_text(self.title),
            "attachments": [
                {
                    "color": COLORS["recovered" if self.is_recovery else each.severity],
                    "title": _slack_text(each.title),
                    "title_link": self.addresses.of_link(each.link),
                    "text": f"{_slack_text(each.what)}\n<{self.addresses.runbook(each)}|Runbook>",
                    "fallback": _slack_text(f"{each.title}: {each.what}"),
                    "fields": [
                        {"title": "Severity", "value": each.severity, "short": True},
                        {"title": "Since", "value": minute(each.since), "short": True},
                    ],
                }
                for each in self.alerts[:SHOWN_ALERTS]
            ],
        }

    def pagerduty(self, routing_key: str) -> list[dict[str, Any]]:
        """Return one event of PagerDuty's Events API v2 per alert, with the key of its incident."""
        return [self._pagerduty_event(each, routing_key) for each in self.alerts]

    def _pagerduty_event(self, alert: StoredAlert, routing_key: str) -> dict[str, Any]:
        event = {"routing_key": routing_key, "dedup_key": incident_key(self.source, alert)}
        if not alert.is_open:
            return {**event, "event_action": "resolve"}
        address = self.addresses.of_link(alert.link)
        return {
            **event,
            "event_action": "trigger",
            "payload": {
                "summary": f"{alert.title}: {alert.what}"[:PAGERDUTY_SUMMARY_CHARACTERS],
                "source": self.source,
                "severity": alert.severity,
                "timestamp": alert.since.isoformat(),
                "component": alert.subject,
                "group": alert.domain or "platform",
                "class": alert.kind,
                "custom_details": {"what": alert.what, "runbook": self.addresses.runbook(alert), "stage": self.stage},
            },
            "links": [
                {"href": address, "text": "In the platform"},
                {"href": self.addresses.runbook(alert), "text": "Runbook"},
            ],
        }

    def _paragraph(self, alert: StoredAlert) -> str:
        mark = "RECOVERED" if not alert.is_open else alert.severity.upper()
        ended = "" if alert.resolved_at is None else f", until {minute(alert.resolved_at)}"
        return "\n".join(
            [
                f"{mark}  {alert.title}",
                alert.what,
                f"Since {minute(alert.since)}{ended}",
                f"Link: {self.addresses.of_link(alert.link)}",
                f"Runbook: {self.addresses.runbook(alert)}",
            ]
        )


def incident_key(source: str, alert: StoredAlert) -> str:
    """Return the key of an alert for systems that keep incidents; a long one ends with its digest."""
    key = f"{source}/{alert.kind}/{alert.subject}"
    if len(key) <= PAGERDUTY_KEY_CHARACTERS:
        return key
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return f"{key[: PAGERDUTY_KEY_CHARACTERS - 17]}-{digest}"


def alertmanager_alert(alert: StoredAlert, source: str, addresses: Addresses, ends_at: datetime) -> Mapping[str, Any]:
    """Return ``alert`` in the form of Alertmanager's API v2; it counts as resolved from ``ends_at`` on."""
    return {
        "labels": {
            "alertname": alert.kind,
            "severity": alert.severity,
            "subject": alert.subject,
            "domain": alert.domain,
            "source": source,
        },
        "annotations": {
            "summary": alert.title,
            "description": alert.what,
            "runbook_url": addresses.runbook(alert),
            **({"acknowledged_by": alert.acknowledged_by} if alert.acknowledged_by else {}),
        },
        "startsAt": alert.since.isoformat(),
        "endsAt": ends_at.isoformat(),
        "generatorURL": addresses.of_link(alert.link),
    }


def minute(at: datetime) -> str:
    """Return ``at`` for people: UTC to the minute."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}Z"


def _slack_text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
