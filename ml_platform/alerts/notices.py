"""Decides which messages about alerts are due, by the routes: grouped, repeated, escalated, and at recovery.

Everything here is a function of values, so an evaluation that was killed is repeated without a second message.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from ml_platform.alerts.alert import ROUTE_DOWN, Severity, StoredAlert, is_worse
from ml_platform.alerts.settings import LOG, Route

Stage = Literal["opened", "worsened", "repeated", "escalated", "recovered"]

UNROUTED = "unrouted"
"""Route of the alerts that match no route of the settings."""

_UNROUTED_ROUTE = Route(receivers=[LOG], group_wait_seconds=0, repeat_hours=None)


@dataclass(frozen=True)
class Notice:
    """The messages about one alert along one route: the first and last one, and who gets its recovery."""

    alert_id: int
    route: str
    severity: Severity
    first_at: datetime
    last_at: datetime
    receivers: tuple[str, ...]
    escalated_at: datetime | None = None

    @property
    def key(self) -> tuple[int, str]:
        return self.alert_id, self.route


@dataclass(frozen=True)
class Message:
    """One message to one receiver about the alerts of a group. The ``key`` is equal for one that is sent twice."""

    key: str
    receiver: str
    route: str
    stage: Stage
    alerts: tuple[StoredAlert, ...]
    created_at: datetime


@dataclass(frozen=True)
class Plan:
    """The messages that are due, the notices to store, and the keys of notices that are over."""

    messages: Sequence[Message]
    notices: Sequence[Notice]
    ended: Sequence[tuple[int, str]]

    def __bool__(self) -> bool:
        return bool(self.messages or self.notices or self.ended)


def plan(
    alerts: Sequence[StoredAlert],
    notices: Sequence[Notice],
    routes: Mapping[str, Route],
    is_silent: Callable[[StoredAlert], bool],
    now: datetime,
) -> Plan:
    """Return the messages that are due at ``now``.

    ``alerts`` are the open ones, and the resolved ones with a notice. A silent or acknowledged alert gets no message
    except its recovery. A route that the settings no longer have only ends its notices.
    """
    by_key = {each.key: each for each in notices}
    due: dict[tuple[str, Stage, tuple[str, ...]], list[StoredAlert]] = {}
    ended = []
    for alert in alerts:
        for name, route in _routes_of(alert, routes).items():
            stage = _stage(alert, by_key.get((alert.id, name)), route, is_silent, now)
            if stage is not None:
                group = tuple(str(getattr(alert, each)) for each in route.group_by)
                due.setdefault((name, stage, group), []).append(alert)
    planned: list[Message] = []
    stored: dict[tuple[int, str], Notice] = {}
    for (name, stage, _), group_alerts in due.items():
        route = routes.get(name, _UNROUTED_ROUTE)
        if stage == "opened" and not _has_waited(group_alerts, route, now):
            continue
        stored |= _noted(group_alerts, name, stage, route, by_key, now)
        planned += _messages(group_alerts, name, stage, route, now)
    resolved = {each.id: each for each in alerts if not each.is_open}
    by_receiver: dict[tuple[str, str, tuple[str, ...]], list[StoredAlert]] = {}
    for notice in notices:
        alert_or_none = resolved.get(notice.alert_id)
        if alert_or_none is None:
            continue
        ended.append(notice.key)
        route = routes.get(notice.route, _UNROUTED_ROUTE)
        if route.recovery:
            group = tuple(str(getattr(alert_or_none, each)) for each in route.group_by)
            for receiver in notice.receivers:
                by_receiver.setdefault((receiver, notice.route, group), []).append(alert_or_none)
    for (receiver, name, _), group_alerts in by_receiver.items():
        planned.append(_message(receiver, name, "recovered", group_alerts, now))
    return Plan(planned, list(stored.values()), ended)


def _routes_of(alert: StoredAlert, routes: Mapping[str, Route]) -> dict[str, Route]:
    found = {
        name: route
        for name, route in routes.items()
        if route.matches(alert.severity, alert.kind, alert.domain, alert.subject)
    }
    return found or {UNROUTED: _UNROUTED_ROUTE}


def _stage(
    alert: StoredAlert,
    notice: Notice | None,
    route: Route,
    is_silent: Callable[[StoredAlert], bool],
    now: datetime,
) -> Stage | None:
    """Return the message that an open alert is due, or None."""
    if not alert.is_open or is_silent(alert):
        return None
    if notice is None:
        return "opened" if alert.acknowledged_at is None else None
    if is_worse(alert.severity, notice.severity):
        return "worsened"
    if alert.acknowledged_at is not None:
        return None
    escalation = route.escalate if notice.escalated_at is None else None
    if escalation is not None and now >= notice.first_at + timedelta(minutes=escalation.after_minutes):
        return "escalated"
    if route.repeat_hours is not None and now >= notice.last_at + timedelta(hours=route.repeat_hours):
        return "repeated"
    return None


def _has_waited(alerts: Sequence[StoredAlert], route: Route, now: datetime) -> bool:
    # The first alert of a group starts the wait of all.
    return now >= min(each.opened_at for each in alerts) + timedelta(seconds=route.group_wait_seconds)


def _noted(
    alerts: Sequence[StoredAlert],
    name: str,
    stage: Stage,
    route: Route,
    before: Mapping[tuple[int, str], Notice],
    now: datetime,
) -> dict[tuple[int, str], Notice]:
    """Return the notices of ``alerts`` after the message of ``stage``."""
    found = {}
    for alert in alerts:
        known = before.get((alert.id, name))
        if known is None:
            noted = Notice(alert.id, name, alert.severity, now, now, tuple(_receivers(alert, route.receivers)))
        else:
            noted = replace(known, severity=alert.severity, last_at=now)
        if stage == "escalated":
            further = _receivers(alert, _escalation(route))
            noted = replace(noted, escalated_at=now, receivers=tuple(dict.fromkeys([*noted.receivers, *further])))
        found[noted.key] = noted
    return found


def _messages(alerts: Sequence[StoredAlert], name: str, stage: Stage, route: Route, now: datetime) -> list[Message]:
    by_receiver: dict[str, list[StoredAlert]] = {}
    for alert in alerts:
        for receiver in _receivers(alert, _escalation(route) if stage == "escalated" else route.receivers):
            by_receiver.setdefault(receiver, []).append(alert)
    return [_message(receiver, name, stage, found, now) for receiver, found in by_receiver.items()]


def _escalation(route: Route) -> list[str]:
    return [] if route.escalate is None else route.escalate.receivers


def _receivers(alert: StoredAlert, receivers: Sequence[str]) -> list[str]:
    """Return the receivers of ``alert``. One that is down gets no message about itself; the log always gets it."""
    if alert.kind != ROUTE_DOWN:
        return list(receivers)
    return list(dict.fromkeys([LOG, *(each for each in receivers if each != alert.subject)]))


def _message(receiver: str, route: str, stage: Stage, alerts: Sequence[StoredAlert], now: datetime) -> Message:
    identity = json.dumps([receiver, route, stage, sorted(each.id for each in alerts), now.isoformat()])
    key = hashlib.sha256(identity.encode()).hexdigest()[:32]
    return Message(key, receiver, route, stage, tuple(alerts), now)
