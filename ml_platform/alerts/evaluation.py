"""One evaluation of all alerts: the sources are read, the changes stored, the messages queued."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ml_platform.alerts.alert import ROUTE_DOWN, SOURCE_FAILED, Alert, StoredAlert
from ml_platform.alerts.delivery import down_receivers
from ml_platform.alerts.lifecycle import Transitions, transitions
from ml_platform.alerts.messages import Addresses, alertmanager_alert
from ml_platform.alerts.notices import Plan, plan
from ml_platform.alerts.receivers import DeliveryError, post_json
from ml_platform.alerts.records import (
    forget_old,
    last_resolved,
    noted_alerts,
    open_alerts,
    queued_messages,
    read_notices,
    store_plan,
    store_transitions,
    stored_silences,
)
from ml_platform.alerts.settings import AlertSettings, AlertSettingsError, resolved
from ml_platform.state.cursors import delete_cursors, read_cursor, write_cursor
from ml_platform.state.store import StateStore

LOG = logging.getLogger("ml_platform.alerts")

EVALUATION_LOCK = "alerts"
LOCK_SECONDS = 20.0
"""Time to wait for another evaluation: a sensor of Dagster has 60 seconds."""

ALERTMANAGER = "alertmanager"
"""Subject of the alert about Alertmanager."""

ALERTMANAGER_MINUTES = 10
"""Time for which Alertmanager keeps an alert that is not sent again."""

_ALERTMANAGER_CURSOR = "alerts/alertmanager"


@dataclass(frozen=True)
class AlertSource:
    """One source: it returns everything of its ``kinds`` that fires now, with a bounded number of reads."""

    name: str
    kinds: frozenset[str]
    find: Callable[[], Sequence[Alert]]


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation: the changes and the queued messages."""

    changes: Transitions
    planned: Plan

    def __str__(self) -> str:
        changes = self.changes
        return (
            f"{len(changes.opened)} alerts opened, {len(changes.resolved)} recovered; "
            f"{len(self.planned.messages)} messages queued."
        )


def evaluate(
    state: StateStore,
    settings: AlertSettings,
    sources: Sequence[AlertSource],
    addresses: Addresses,
    environment: Mapping[str, str],
    now: datetime,
    *,
    home_page: str,
) -> Evaluation:
    """Read all ``sources`` and return what changed; one evaluation runs at a time.

    ``home_page`` is the link of alerts about alerting itself. A source that raises keeps its alerts as they are and is
    an alert itself. Nothing is sent to receivers here, except to Alertmanager, which needs every alert again and again.
    """
    with state.lock(EVALUATION_LOCK, seconds=LOCK_SECONDS):
        firing, unknown = _read(sources, home_page)
        firing += [*down_receivers(queued_messages(state), home_page), *_alertmanager_down(state, home_page)]
        changes = transitions(open_alerts(state), firing, settings.severities, unknown, now)
        if changes:
            store_transitions(state, changes)
            forget_old(state, now)
        is_silent = silenced(state, settings, now)
        answers = _push(state, settings, addresses, environment, is_silent, now)
        replaced = settings.alertmanager is not None and settings.alertmanager.replaces_routes and answers
        # Without Alertmanager the routes here take over.
        alerts = [each for each in noted_alerts(state) if not replaced or not each.is_open or each.kind == ROUTE_DOWN]
        planned = _without_repeats(plan(alerts, read_notices(state), settings.routes, is_silent, now), state)
        if planned:
            store_plan(state, planned)
    return Evaluation(changes, planned)


def silenced(state: StateStore, settings: AlertSettings, now: datetime) -> Callable[[StoredAlert], bool]:
    """Return the function that says whether an alert is silent at ``now``, by the file or by a command."""
    silences = [*settings.silences, *stored_silences(state, now)]
    return lambda alert: any(each.covers(alert.kind, alert.subject, now) for each in silences)


def _read(sources: Sequence[AlertSource], home_page: str) -> tuple[list[Alert], Collection[str]]:
    """Return what fires, and the kinds of the sources that could not be read."""
    firing: list[Alert] = []
    unknown: set[str] = set()
    for source in sources:
        try:
            firing += source.find()
        except Exception as error:  # one source that cannot be read must not hide the alerts of the others
            LOG.exception("The source '%s' of alerts cannot be read.", source.name)
            unknown |= source.kinds
            firing.append(Alert(SOURCE_FAILED, source.name, f"{type(error).__name__}: {error}", home_page))
    return firing, unknown


def _without_repeats(planned: Plan, state: StateStore) -> Plan:
    """Return ``planned`` without repeated messages to receivers that still have others to take."""
    if not any(each.stage == "repeated" for each in planned.messages):
        return planned
    waiting = {each.receiver for each in queued_messages(state)}
    kept = [each for each in planned.messages if each.stage != "repeated" or each.receiver not in waiting]
    return replace(planned, messages=kept)


def _push(
    state: StateStore,
    settings: AlertSettings,
    addresses: Addresses,
    environment: Mapping[str, str],
    is_silent: Callable[[StoredAlert], bool],
    now: datetime,
) -> bool:
    """Give Alertmanager every open alert and those that ended lately; return whether it answered."""
    declared = settings.alertmanager
    if declared is None:
        return False
    lasting = timedelta(minutes=ALERTMANAGER_MINUTES)
    alerts = [each for each in open_alerts(state) if not is_silent(each)] + last_resolved(state, now - lasting)
    documents = [
        alertmanager_alert(each, settings.name, addresses, each.resolved_at or now + lasting) for each in alerts
    ]
    try:
        address = resolved(declared.url, environment).rstrip("/")
        token = None if declared.token is None else resolved(declared.token, environment)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        post_json(f"{address}/api/v2/alerts", [documents], headers)
    except (DeliveryError, AlertSettingsError) as error:
        known = read_cursor(state, _ALERTMANAGER_CURSOR)
        if known is None:
            write_cursor(state, _ALERTMANAGER_CURSOR, {"since": now.isoformat(), "problem": str(error)})
        return False
    if read_cursor(state, _ALERTMANAGER_CURSOR) is not None:
        delete_cursors(state, [_ALERTMANAGER_CURSOR])
    return True


def _alertmanager_down(state: StateStore, link: str) -> list[Alert]:
    down = read_cursor(state, _ALERTMANAGER_CURSOR)
    if down is None:
        return []
    what = f"Alertmanager takes no alerts, so the routes of alerts.yaml are used. {down['problem']}"
    return [Alert(ROUTE_DOWN, ALERTMANAGER, what, link, since=datetime.fromisoformat(down["since"]))]
