"""An alert, and the kinds of alerts with their severity and runbook."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

Severity = Literal["info", "warning", "critical"]

SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
"""The severities in ascending order."""

ROUTE_DOWN = "route_down"
"""Kind of the alert about a receiver that takes no messages."""

SOURCE_FAILED = "alert_source_failed"
"""Kind of the alert about a source that cannot be read; the alerts of its kinds stay as they are meanwhile."""


@dataclass(frozen=True)
class AlertKind:
    """One kind of alerts: its usual severity, its title for people, and its page in `docs/runbooks`."""

    severity: Severity
    title: str
    runbook: str


KINDS: Mapping[str, AlertKind] = {
    "run_failed": AlertKind("warning", "A run failed", "run-failed.md"),
    "automation_failed": AlertKind("critical", "A schedule or sensor failed", "automation-failed.md"),
    "check_failed": AlertKind("warning", "An asset check failed", "check-failed.md"),
    "contract_check_failed": AlertKind("critical", "A contract check failed", "contract-check-failed.md"),
    "landed_data_unusual": AlertKind("warning", "Landed data are not as usual", "landed-data-unusual.md"),
    "drift": AlertKind("warning", "Drift alert", "drift-alert.md"),
    "performance_regression": AlertKind("warning", "Performance regression", "performance-regression.md"),
    "concept_drift": AlertKind("warning", "Concept drift", "concept-drift.md"),
    "retraining_stopped": AlertKind("critical", "Retraining stopped", "retraining-stopped.md"),
    "rollout_rolled_back": AlertKind("warning", "A rollout was rolled back", "rollout-rolled-back.md"),
    "service_not_ready": AlertKind("critical", "A service is not ready", "endpoint.md"),
    "predictions_lost": AlertKind("warning", "Predictions are missing in the log", "predictions-lost.md"),
    "domain_not_loaded": AlertKind("critical", "A domain does not load", "domain-not-loaded.md"),
    "budget": AlertKind("warning", "The budget of a domain is almost spent", "budget.md"),
    "unusual_cost": AlertKind("warning", "A day costs far more than usual", "unusual-cost.md"),
    "disk_low": AlertKind("critical", "The disk is almost full", "disk-low.md"),
    ROUTE_DOWN: AlertKind("critical", "A receiver of alerts is down", "alert-route-down.md"),
    SOURCE_FAILED: AlertKind("warning", "A source of alerts cannot be read", "alert-source-failed.md"),
}
"""The kinds of alerts by name."""

NAME_CHARACTERS = 300
TEXT_CHARACTERS = 1500
"""Longest subject and text of an alert: a cause may contain a whole table."""


@dataclass(frozen=True)
class Alert:
    """One problem that fires now.

    ``subject`` names its asset, check, model, schedule or service, ``what`` says in a sentence what is wrong.
    ``domain`` is empty for the platform itself. ``link`` is an address or a path below `/go/`. ``since`` is None where
    the source does not know it; then the first evaluation that finds the alert counts. ``severity`` of None is that of
    the kind.
    """

    kind: str
    subject: str
    what: str
    link: str
    domain: str = ""
    severity: Severity | None = None
    since: datetime | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Kind and subject: there is one open alert for both."""
        return self.kind, self.subject


@dataclass(frozen=True)
class StoredAlert:
    """One alert as it is stored, open while ``resolved_at`` is None. All times are aware."""

    id: int
    kind: str
    subject: str
    what: str
    severity: Severity
    domain: str
    link: str
    since: datetime
    opened_at: datetime
    resolved_at: datetime | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str = ""
    note: str = field(default="")

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.subject

    @property
    def is_open(self) -> bool:
        return self.resolved_at is None

    @property
    def title(self) -> str:
        """Title of the kind with the subject."""
        return f"{kind_of(self.kind).title}: {self.subject}"


def contract_alert_key(dataset: str, partition: str) -> tuple[str, str]:
    """Return kind and subject of the alert on a failed contract check; ``partition`` is empty for a whole table."""
    return "contract_check_failed", f"datasets/{dataset} {partition}".rstrip()


def kind_of(name: str) -> AlertKind:
    """Return the kind ``name``; one of a later or earlier release gets its name as title and the list of runbooks."""
    return KINDS.get(name) or AlertKind("warning", name.replace("_", " "), "index.md")


def is_worse(severity: Severity, than: Severity) -> bool:
    """Return whether ``severity`` is above ``than``.

    >>> is_worse("critical", "warning"), is_worse("info", "info")
    (True, False)
    """
    return SEVERITIES.index(severity) > SEVERITIES.index(than)


def worst_first(alerts: Iterable[StoredAlert]) -> list[StoredAlert]:
    """Return ``alerts`` with the worst first, then the oldest."""
    return sorted(alerts, key=lambda each: (-SEVERITIES.index(each.severity), each.since))
