"""Alerting on a state store with a clock of its own, for tests."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ml_platform.alerts.alert import Alert, StoredAlert
from ml_platform.alerts.delivery import Delivery, deliver
from ml_platform.alerts.evaluation import AlertSource, Evaluation, evaluate
from ml_platform.alerts.messages import Addresses
from ml_platform.alerts.records import open_alerts
from ml_platform.alerts.settings import AlertSettings
from ml_platform.state.store import StateStore

START = datetime(2026, 3, 1, 12, tzinfo=UTC)

ADDRESSES = Addresses(lambda link: f"http://ui{link}", lambda page: f"http://docs/{page}")


def drift(subject: str = "late", **changes: Any) -> Alert:
    """Return an alert about drift of ``subject``."""
    values = {"kind": "drift", "subject": subject, "what": "Scores drifted.", "link": f"/models/{subject}"}
    return Alert(**{**values, "domain": "aviation", **changes})


def stored(number: int = 1, **changes: Any) -> StoredAlert:
    """Return a stored alert about drift that opened at :data:`START`."""
    values = {
        "id": number,
        "kind": "drift",
        "subject": f"model{number}",
        "what": "Scores drifted.",
        "severity": "warning",
        "domain": "aviation",
        "link": "/x",
        "since": START,
        "opened_at": START,
    }
    return StoredAlert(**{**values, **changes})


@dataclass
class Alerting:
    """Evaluations and deliveries of ``settings``; ``firing`` are the alerts that its only source finds."""

    state: StateStore
    log: Path
    settings: AlertSettings = field(default_factory=AlertSettings)
    firing: list[Alert] = field(default_factory=list)
    now: datetime = START
    environment: dict[str, str] = field(default_factory=dict)

    def declare(self, **settings: Any) -> None:
        """Replace the settings."""
        self.settings = AlertSettings.model_validate(settings)

    def evaluate(self, sources: Sequence[AlertSource] | None = None) -> Evaluation:
        found = [AlertSource("test", frozenset({"drift"}), lambda: self.firing)] if sources is None else sources
        return evaluate(self.state, self.settings, found, ADDRESSES, self.environment, self.now, home_page="/#alerts")

    def deliver(self) -> Delivery:
        return deliver(self.state, self.settings, ADDRESSES, self.environment, self.log, now=lambda: self.now)

    def run(self, **later: float) -> Delivery:
        """Let the time of ``later`` (as of timedelta) pass, then evaluate and deliver."""
        self.now += timedelta(**later)
        self.evaluate()
        return self.deliver()

    @property
    def open(self) -> list[StoredAlert]:
        return open_alerts(self.state)
