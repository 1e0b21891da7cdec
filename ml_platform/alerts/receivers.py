"""Sends one message to one receiver: webhook, Slack, e-mail, PagerDuty, or the log."""

import json
import smtplib
import ssl
from collections.abc import Mapping, Sequence
from datetime import UTC
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path
from typing import Any

from ml_platform.alerts.messages import RenderedMessage
from ml_platform.alerts.settings import (
    EmailReceiver,
    LogReceiver,
    PagerDutyReceiver,
    Receiver,
    SlackReceiver,
    WebhookReceiver,
    resolved,
)
from ml_platform.errors import PlatformError

TIMEOUT_SECONDS = 8.0
"""Time that a receiver has to answer."""

LOG_BYTES = 5_000_000
"""Size from which the log of alerts begins a new file; one earlier file stays."""

REFUSED = frozenset({400, 413, 415, 422})
"""Statuses about the message itself: another message may be taken."""


class DeliveryError(PlatformError):
    """Raised when a receiver did not take a message.

    ``is_refused`` says that the receiver answered and rejects this message alone.
    """

    is_refused: bool = False


def send(message: RenderedMessage, receiver: Receiver, environment: Mapping[str, str], log_file: Path) -> None:
    """Send ``message`` to ``receiver`` and return when it was taken; secrets come from ``environment``.

    Raises :class:`DeliveryError` when the receiver cannot be reached or rejects it, and
    :class:`~ml_platform.alerts.settings.AlertSettingsError` when an environment variable is not set.
    """
    if isinstance(receiver, WebhookReceiver):
        headers = {"Idempotency-Key": message.key}
        if receiver.token is not None:
            headers["Authorization"] = f"Bearer {resolved(receiver.token, environment)}"
        post_json(resolved(receiver.url, environment), [message.webhook()], headers)
    elif isinstance(receiver, SlackReceiver):
        post_json(resolved(receiver.url, environment), [message.slack()], {})
    elif isinstance(receiver, PagerDutyReceiver):
        events = message.pagerduty(resolved(receiver.routing_key, environment))
        post_json(resolved(receiver.url, environment), events, {})
    elif isinstance(receiver, EmailReceiver):
        _send_email(message, receiver, environment)
    elif isinstance(receiver, LogReceiver):
        _write_line(message, log_file)


def post_json(address: str, documents: Sequence[Any], headers: Mapping[str, str]) -> None:
    """Post each of ``documents`` as JSON, one after the other; raises :class:`DeliveryError`.

    The message of the error has the host alone, because the path may be a secret.
    """
    import httpx

    host = _host(address)
    try:
        with httpx.Client(timeout=TIMEOUT_SECONDS, headers=dict(headers), follow_redirects=False) as client:
            for document in documents:
                answer = client.post(address, json=document)
                if not answer.is_success:
                    raise _rejected(host, answer.status_code, answer.text)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        # The text of httpx's errors may contain the address.
        raise _unreachable(host, type(error).__name__) from None


def _host(address: str) -> str:
    import httpx

    try:
        return httpx.URL(address).host or "of an address without a host"
    except httpx.InvalidURL:
        return "of an address that is not valid"


def _rejected(host: str, status: int, text: str) -> DeliveryError:
    error = DeliveryError(
        f"Receiver at host {host}",
        expected="status 2xx",
        found=f"status {status}: {' '.join(text.split())[:200]}".rstrip(": "),
        fix="Correct the receiver in alerts.yaml or its secret; the message is kept and sent again.",
    )
    error.is_refused = status in REFUSED
    return error


def _unreachable(host: str, found: str) -> DeliveryError:
    return DeliveryError(
        f"Receiver at host {host}",
        expected=f"an answer within {TIMEOUT_SECONDS:g} s",
        found=found,
        fix="Nothing is lost: the message is kept and sent again.",
    )


def _send_email(message: RenderedMessage, receiver: EmailReceiver, environment: Mapping[str, str]) -> None:
    mail = EmailMessage()
    # A line break in a header would begin another one.
    mail["Subject"] = " ".join(message.title.split())
    mail["From"] = receiver.sender
    mail["To"] = ", ".join(receiver.to)
    mail["Date"] = format_datetime(message.created_at.astimezone(UTC))
    mail["Message-ID"] = f"<{message.key}@{receiver.sender.rpartition('@')[2] or 'ml-platform'}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(message.text + "\n")
    password = None if receiver.password is None else resolved(receiver.password, environment)
    try:
        with _connected(receiver) as server:
            if receiver.encryption == "starttls":
                server.starttls(context=ssl.create_default_context())
            if receiver.user is not None and password is not None:
                server.login(receiver.user, password)
            server.send_message(mail)
    except smtplib.SMTPResponseException as error:
        # Codes of 5xx after the login are about this message.
        text = error.smtp_error.decode(errors="replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
        refused = _rejected(receiver.host, error.smtp_code, str(text))
        refused.is_refused = isinstance(error, smtplib.SMTPDataError) and error.smtp_code >= 500
        raise refused from None
    except (smtplib.SMTPException, OSError) as error:
        raise _unreachable(receiver.host, f"{type(error).__name__}: {error}") from None


def _connected(receiver: EmailReceiver) -> smtplib.SMTP:
    if receiver.encryption == "tls":
        context = ssl.create_default_context()
        return smtplib.SMTP_SSL(receiver.host, receiver.port, timeout=TIMEOUT_SECONDS, context=context)
    return smtplib.SMTP(receiver.host, receiver.port, timeout=TIMEOUT_SECONDS)


def _write_line(message: RenderedMessage, file: Path) -> None:
    line = json.dumps({"at": message.created_at.isoformat(), **message.webhook()}, sort_keys=True)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists() and file.stat().st_size > LOG_BYTES:
            file.replace(file.with_suffix(f".1{file.suffix}"))
        with file.open("a", encoding="utf-8") as out:
            out.write(line + "\n")
    except OSError as error:
        raise DeliveryError(
            f"Log of alerts {file}", expected="a file that can be written", found=str(error), fix="Free disk space."
        ) from error
