"""Transitions of alerts: what fires now, compared with what was open. Pure functions of values."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from ml_platform.alerts.alert import NAME_CHARACTERS, TEXT_CHARACTERS, Alert, Severity, StoredAlert, is_worse, kind_of

UNSTORED = 0
"""Id of an alert that is not stored yet."""


@dataclass(frozen=True)
class Transitions:
    """The changes of one evaluation: new alerts, open ones with other values, and those that no longer fire."""

    opened: Sequence[StoredAlert]
    changed: Sequence[StoredAlert]
    resolved: Sequence[StoredAlert]

    def __bool__(self) -> bool:
        return bool(self.opened or self.changed or self.resolved)


def transitions(
    open_alerts: Collection[StoredAlert],
    firing: Sequence[Alert],
    severities: Mapping[str, Severity],
    unknown: Collection[str],
    now: datetime,
) -> Transitions:
    """Return the changes from ``open_alerts`` to ``firing`` at ``now``.

    ``severities`` replaces severities by kind. Alerts of the kinds ``unknown``, whose source could not be read, stay
    open. Of several firing alerts with one key the first counts. An alert that becomes worse loses its
    acknowledgement.
    """
    found = {each.key: each for each in reversed([_cut(each) for each in firing])}
    before = {each.key: each for each in open_alerts}
    opened, changed = [], []
    for key, alert in found.items():
        severity = severities.get(alert.kind) or alert.severity or kind_of(alert.kind).severity
        known = before.get(key)
        if known is None:
            since = now if alert.since is None else min(alert.since, now)
            opened.append(
                StoredAlert(
                    id=UNSTORED,
                    kind=alert.kind,
                    subject=alert.subject,
                    what=alert.what,
                    severity=severity,
                    domain=alert.domain,
                    link=alert.link,
                    since=since.astimezone(UTC),
                    opened_at=now,
                )
            )
            continue
        now_is = replace(known, what=alert.what, severity=severity, domain=alert.domain, link=alert.link)
        if is_worse(severity, known.severity):
            # Somebody took care of a lesser alert.
            now_is = replace(now_is, acknowledged_at=None, acknowledged_by="", note="")
        if now_is != known:
            changed.append(now_is)
    ended = [each for key, each in before.items() if key not in found and each.kind not in unknown]
    return Transitions(opened[::-1], changed[::-1], [replace(each, resolved_at=now) for each in ended])


def _cut(alert: Alert) -> Alert:
    """Return ``alert`` with a subject of one line, and a text of bounded length."""
    subject = " ".join(alert.subject.split())[:NAME_CHARACTERS]
    what = alert.what.strip()
    if len(what) > TEXT_CHARACTERS:
        what = f"{what[:TEXT_CHARACTERS]} …"
    return replace(alert, subject=subject, what=what)
