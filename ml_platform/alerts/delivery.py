"""Delivery of the queued messages: in order for each receiver, at least once, with growing pauses while it is down."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ml_platform.alerts.alert import ROUTE_DOWN, Alert
from ml_platform.alerts.messages import Addresses, RenderedMessage
from ml_platform.alerts.receivers import DeliveryError, send
from ml_platform.alerts.records import QueuedMessage, delete_message, postpone_message, queued_messages
from ml_platform.alerts.settings import AlertSettings, AlertSettingsError
from ml_platform.state.sqlite_file import StateLockedError
from ml_platform.state.store import StateStore

LOG = logging.getLogger("ml_platform.alerts")

DELIVERY_LOCK = "alert-delivery"

PASS_SECONDS = 20.0
"""Time after which a pass begins no further message: a sensor of Dagster has 60 seconds."""

FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=30), timedelta(minutes=15)
"""Time until a message is sent again; each further attempt waits twice as long."""

KEPT_DAYS = 7
"""Days for which a message is kept that its receiver does not take."""

ATTEMPTS_UNTIL_DOWN = 2
"""Failed attempts to send a message after which its receiver counts as down."""


@dataclass(frozen=True)
class Delivery:
    """The result of a pass: the number of messages that were taken, and the problem of each receiver that failed."""

    delivered: int
    problems: Mapping[str, str]


def deliver(
    state: StateStore,
    settings: AlertSettings,
    addresses: Addresses,
    environment: Mapping[str, str],
    log_file: Path,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Delivery:
    """Send the queued messages that are due, and return what happened.

    A message is removed after its receiver took it, so a kill in between sends it twice, with the same key. While a
    receiver is down, only its oldest message is tried. Another pass that runs at the same time returns at once.
    """
    try:
        with state.lock(DELIVERY_LOCK, seconds=0):
            return _deliver(state, settings, addresses, environment, log_file, now)
    except StateLockedError as error:
        if not error.subject.startswith(f"Lock '{DELIVERY_LOCK}'"):
            raise
        return Delivery(0, {})


def down_receivers(queued: Sequence[QueuedMessage], link: str) -> list[Alert]:
    """Return one alert per receiver that did not take a message, from the ``queued`` ones."""
    failed: dict[str, list[QueuedMessage]] = {}
    for message in queued:
        if message.attempts >= ATTEMPTS_UNTIL_DOWN:
            failed.setdefault(message.receiver, []).append(message)
    return [
        Alert(
            kind=ROUTE_DOWN,
            subject=name,
            what=f"{sum(each.receiver == name for each in queued)} messages wait. They are kept for {KEPT_DAYS} days "
            f"and sent when the receiver answers. Last problem: {messages[0].problem}",
            link=link,
            since=messages[0].created_at,
        )
        for name, messages in failed.items()
    ]


def _deliver(
    state: StateStore,
    settings: AlertSettings,
    addresses: Addresses,
    environment: Mapping[str, str],
    log_file: Path,
    now: Callable[[], datetime],
) -> Delivery:
    deadline = time.monotonic() + PASS_SECONDS
    delivered, problems = 0, dict[str, str]()
    for message in queued_messages(state):
        if message.receiver in problems or time.monotonic() > deadline:
            continue
        receiver = settings.receivers.get(message.receiver)
        if message.next_at > now():
            # Later messages would overtake it, unless only this one was refused.
            if not message.problem.startswith(_REFUSED):
                problems[message.receiver] = message.problem
            continue
        if receiver is None:
            # It may come back: a file with an error has no receivers either.
            problems[message.receiver] = "alerts.yaml has no receiver of this name."
            _postpone(state, message, problems[message.receiver], now())
            continue
        try:
            send(RenderedMessage.of(message, settings.name, addresses), receiver, environment, log_file)
        except (DeliveryError, AlertSettingsError) as error:
            refused = isinstance(error, DeliveryError) and error.is_refused
            text = f"{_REFUSED}{error}" if refused else str(error)
            _postpone(state, message, text, now())
            if not refused:
                problems[message.receiver] = text
        else:
            delete_message(state, message)
            delivered += 1
    return Delivery(delivered, problems)


_REFUSED = "The message was refused. "


def _postpone(state: StateStore, message: QueuedMessage, problem: str, now: datetime) -> None:
    if now > message.created_at + timedelta(days=KEPT_DAYS):
        LOG.error("A message to '%s' is dropped after %s days: %s", message.receiver, KEPT_DAYS, problem)
        delete_message(state, message)
        return
    pause = min(FIRST_PAUSE * 2 ** min(message.attempts, 10), LONGEST_PAUSE)
    postpone_message(state, message, problem, now + pause)
