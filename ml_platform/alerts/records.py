"""The rows of alerts in the state store: alerts, notices, queued messages and silences.

The number of open alerts bounds each query, and the number of queued messages that of a delivery.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from ml_platform.alerts.alert import StoredAlert
from ml_platform.alerts.lifecycle import Transitions
from ml_platform.alerts.notices import Message, Notice, Plan
from ml_platform.alerts.settings import Silence
from ml_platform.state.schema import alert_messages, alert_notices, alert_silences, alerts
from ml_platform.state.store import StateStore, time_text

KEPT_DAYS = 180
"""Days for which ended alerts and ended silences stay."""

_CHANGING = ("what", "severity", "domain", "link", "resolved_at", "acknowledged_at", "acknowledged_by", "note")
_TIMES = ("since", "opened_at", "resolved_at", "acknowledged_at")


@dataclass(frozen=True)
class QueuedMessage:
    """One message that its receiver has not taken yet. ``body`` is that of :func:`message_body`."""

    id: int
    key: str
    receiver: str
    body: dict[str, Any]
    created_at: datetime
    attempts: int
    next_at: datetime
    problem: str


def open_alerts(state: StateStore) -> list[StoredAlert]:
    """Return the open alerts, the oldest first."""
    return _alerts(state, sa.select(alerts).where(alerts.c.resolved_at.is_(None)).order_by(alerts.c.id))


def last_resolved(state: StateStore, after: datetime) -> list[StoredAlert]:
    """Return the alerts that ended after ``after``, the latest first."""
    query = sa.select(alerts).where(alerts.c.resolved_at > time_text(after)).order_by(alerts.c.resolved_at.desc())
    return _alerts(state, query)


def opened_after(state: StateStore, after: datetime) -> list[StoredAlert]:
    """Return the alerts that opened at ``after`` or later, the oldest first."""
    return _alerts(state, sa.select(alerts).where(alerts.c.opened_at >= time_text(after)).order_by(alerts.c.id))


def alerts_between(state: StateStore, start: datetime, end: datetime) -> list[StoredAlert]:
    """Return the alerts that were open at some time from ``start`` until before ``end``, the oldest first."""
    column = alerts.c
    lasted = column.resolved_at.is_(None) | (column.resolved_at >= time_text(start))
    return _alerts(state, sa.select(alerts).where(lasted, column.since < time_text(end)).order_by(column.id))


def noted_alerts(state: StateStore) -> list[StoredAlert]:
    """Return the open alerts, and the resolved ones whose recovery is not queued yet."""
    noted = alerts.c.id.in_(sa.select(alert_notices.c.alert_id))
    return _alerts(state, sa.select(alerts).where(alerts.c.resolved_at.is_(None) | noted).order_by(alerts.c.id))


def read_notices(state: StateStore) -> list[Notice]:
    """Return the notices of open alerts, and of resolved ones whose recovery is not queued yet."""
    with state.read() as connection:
        rows = connection.execute(sa.select(alert_notices)).all()
    return [
        Notice(
            alert_id=row.alert_id,
            route=row.route,
            severity=row.severity,
            first_at=datetime.fromisoformat(row.first_at),
            last_at=datetime.fromisoformat(row.last_at),
            receivers=tuple(json.loads(row.receivers)),
            escalated_at=None if row.escalated_at is None else datetime.fromisoformat(row.escalated_at),
        )
        for row in rows
    ]


def store_transitions(state: StateStore, found: Transitions) -> None:
    """Store the changes of an evaluation."""
    with state.write() as connection:
        for alert in found.opened:
            values = {name: value for name, value in _values(alert).items() if name != "id"}
            connection.execute(sa.insert(alerts).values(**values))
        for alert in [*found.changed, *found.resolved]:
            values = {name: value for name, value in _values(alert).items() if name in _CHANGING}
            connection.execute(sa.update(alerts).where(alerts.c.id == alert.id).values(**values))


def store_plan(state: StateStore, found: Plan) -> None:
    """Queue the messages of ``found`` and store its notices, in one transaction."""
    with state.write() as connection:
        for message in found.messages:
            connection.execute(
                sa.insert(alert_messages).values(
                    receiver=message.receiver,
                    key=message.key,
                    body=json.dumps(message_body(message)),
                    created_at=time_text(message.created_at),
                    attempts=0,
                    next_at=time_text(message.created_at),
                    problem="",
                )
            )
        for notice in found.notices:
            _delete_notice(connection, notice.key)
            connection.execute(
                sa.insert(alert_notices).values(
                    alert_id=notice.alert_id,
                    route=notice.route,
                    severity=notice.severity,
                    first_at=time_text(notice.first_at),
                    last_at=time_text(notice.last_at),
                    receivers=json.dumps(notice.receivers),
                    escalated_at=None if notice.escalated_at is None else time_text(notice.escalated_at),
                )
            )
        for key in found.ended:
            _delete_notice(connection, key)


def message_body(message: Message) -> dict[str, Any]:
    """Return ``message`` as JSON values. Links are as they are stored: they become addresses when it is sent."""
    return {
        "route": message.route,
        "stage": message.stage,
        "created_at": time_text(message.created_at),
        "alerts": [_values(each) for each in message.alerts],
    }


def alerts_of(body: dict[str, Any]) -> list[StoredAlert]:
    """Return the alerts of the body of a message."""
    return [_alert(each) for each in body["alerts"]]


def queued_messages(state: StateStore) -> list[QueuedMessage]:
    """Return the messages that were not delivered yet, the oldest first."""
    with state.read() as connection:
        rows = connection.execute(sa.select(alert_messages).order_by(alert_messages.c.id)).all()
    return [
        QueuedMessage(
            id=row.id,
            key=row.key,
            receiver=row.receiver,
            body=json.loads(row.body),
            created_at=datetime.fromisoformat(row.created_at),
            attempts=row.attempts,
            next_at=datetime.fromisoformat(row.next_at),
            problem=row.problem,
        )
        for row in rows
    ]


def delete_message(state: StateStore, message: QueuedMessage) -> None:
    """Remove a message that was delivered."""
    with state.write() as connection:
        connection.execute(sa.delete(alert_messages).where(alert_messages.c.id == message.id))


def postpone_message(state: StateStore, message: QueuedMessage, problem: str, next_at: datetime) -> None:
    """Record a failed attempt to send ``message``, and the time of the next one."""
    values = {"attempts": message.attempts + 1, "problem": problem, "next_at": time_text(next_at)}
    with state.write() as connection:
        connection.execute(sa.update(alert_messages).where(alert_messages.c.id == message.id).values(**values))


def acknowledge(state: StateStore, ids: Iterable[int], by: str, note: str, now: datetime) -> None:
    """Record that ``by`` takes care of the alerts ``ids``: they are neither repeated nor escalated."""
    values = {"acknowledged_at": time_text(now), "acknowledged_by": by, "note": note}
    with state.write() as connection:
        connection.execute(sa.update(alerts).where(alerts.c.id.in_(list(ids))).values(**values))


def add_silence(state: StateStore, silence: Silence, now: datetime) -> None:
    """Store a silence of one kind and subject; "" stands for all."""
    with state.write() as connection:
        connection.execute(
            sa.insert(alert_silences).values(
                kind=next(iter(silence.kinds), ""),
                subject=next(iter(silence.subjects), ""),
                until=time_text(silence.until),
                reason=silence.reason,
                actor=silence.by,
                created_at=time_text(now),
            )
        )


def end_silences(state: StateStore, kind: str, subject: str, now: datetime) -> int:
    """End the silences of ``kind`` and ``subject`` at ``now``, and return their number."""
    column = alert_silences.c
    chosen = (column.kind == kind) & (column.subject == subject) & (column.until > time_text(now))
    with state.write() as connection:
        return connection.execute(sa.update(alert_silences).where(chosen).values(until=time_text(now))).rowcount


def stored_silences(state: StateStore, now: datetime) -> list[Silence]:
    """Return the stored silences that are not over at ``now``."""
    query = sa.select(alert_silences).where(alert_silences.c.until > time_text(now)).order_by(alert_silences.c.id)
    with state.read() as connection:
        rows = connection.execute(query).all()
    return [
        Silence(
            kinds=[row.kind] if row.kind else [],
            subjects=[row.subject] if row.subject else [],
            until=datetime.fromisoformat(row.until),
            reason=row.reason,
            by=row.actor,
        )
        for row in rows
    ]


def forget_old(state: StateStore, now: datetime) -> None:
    """Delete alerts and silences that ended more than :data:`KEPT_DAYS` ago."""
    limit = time_text(now - timedelta(days=KEPT_DAYS))
    with state.write() as connection:
        connection.execute(sa.delete(alerts).where(alerts.c.resolved_at < limit))
        connection.execute(sa.delete(alert_silences).where(alert_silences.c.until < limit))


def _alerts(state: StateStore, query: sa.Select[Any]) -> list[StoredAlert]:
    with state.read() as connection:
        rows: Sequence[Row[Any]] = connection.execute(query).all()
    return [_alert(dict(row._mapping)) for row in rows]


def _alert(values: dict[str, Any]) -> StoredAlert:
    times = {name: None if values[name] is None else datetime.fromisoformat(values[name]) for name in _TIMES}
    return StoredAlert(**{**values, **times})


def _values(alert: StoredAlert) -> dict[str, Any]:
    values = asdict(alert)
    return {name: time_text(value) if isinstance(value, datetime) else value for name, value in values.items()}


def _delete_notice(connection: sa.Connection, key: tuple[int, str]) -> None:
    alert_id, route = key
    connection.execute(
        sa.delete(alert_notices).where(alert_notices.c.alert_id == alert_id, alert_notices.c.route == route)
    )
