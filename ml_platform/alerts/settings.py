"""The settings of alerts, one file `alerts.yaml`: receivers, routes, escalation, silences, Alertmanager.

Secrets are never in the file: it has the names of environment variables, written as `$NAME`.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import AwareDatetime, Field, ValidationError, field_validator, model_validator

from ml_platform.alerts.alert import KINDS, Severity
from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError, did_you_mean, listed

LOG = "log"
"""Receiver that always exists; alerts without a route go to it."""

PAGERDUTY_ADDRESS = "https://events.pagerduty.com/v2/enqueue"

_VARIABLE = re.compile(r"\$[A-Za-z_][A-Za-z0-9_]*")

ALL_KINDS = "Kinds of alerts; empty: all."
ALL_SUBJECTS = "Subjects, with * for any characters; empty: all."


class AlertSettingsError(PlatformError):
    """Raised when `alerts.yaml` is invalid, or names an environment variable that is not set."""


def _variable(value: str) -> str:
    if not _VARIABLE.fullmatch(value):
        raise ValueError("expected an environment variable like $SLACK_URL, found other text (it is not shown)")
    return value


def _address(value: str) -> str:
    if not (_VARIABLE.fullmatch(value) or re.match(r"https?://", value)):
        raise ValueError(f"expected an address like https://host/path or an environment variable, found '{value}'")
    return value


class WebhookReceiver(Settings):
    """Sends each message as one JSON object by POST."""

    type: Literal["webhook"] = Field(description="Kind of the receiver.")
    url: str = Field(description="Address, or $NAME of the environment variable with it.")
    token: str | None = Field(default=None, description="$NAME of the variable with a bearer token; none: no header.")

    _check_url = field_validator("url")(_address)
    _check_token = field_validator("token")(lambda value: value if value is None else _variable(value))


class SlackReceiver(Settings):
    """Sends each message to an incoming webhook of Slack, or of a service that is compatible, such as Mattermost."""

    type: Literal["slack"] = Field(description="Kind of the receiver.")
    url: str = Field(description="$NAME of the environment variable with the address, which is a secret.")

    _check_url = field_validator("url")(_variable)


class EmailReceiver(Settings):
    """Sends each message as one e-mail by SMTP."""

    type: Literal["email"] = Field(description="Kind of the receiver.")
    to: list[str] = Field(min_length=1, description="Addresses of the recipients.")
    sender: str = Field(description="Address of the sender.")
    host: str = Field(description="Name of the mail server.")
    port: int = Field(default=587, ge=1, le=65535, description="Port of the mail server.")
    encryption: Literal["starttls", "tls", "none"] = Field(
        default="starttls", description="starttls, tls from the first byte, or none."
    )
    user: str | None = Field(default=None, description="User of the mail server; none: no login.")
    password: str | None = Field(default=None, description="$NAME of the variable with the password of the user.")

    _check_password = field_validator("password")(lambda value: value if value is None else _variable(value))

    @field_validator("to")
    @classmethod
    def _are_addresses(cls, to: list[str]) -> list[str]:
        if wrong := [each for each in to if not re.fullmatch(r"[^@\s]+@[^@\s]+", each)]:
            raise ValueError(f"expected e-mail addresses, found {listed(wrong)}")
        return to

    @model_validator(mode="after")
    def _login_is_complete(self) -> Self:
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password: expected both or none, found one of them")
        if self.password is not None and self.encryption == "none":
            raise ValueError("password: expected encryption starttls or tls, found none, which shows it to the network")
        return self


class PagerDutyReceiver(Settings):
    """Sends events of PagerDuty's Events API v2, or of a service that is compatible; each alert is one incident."""

    type: Literal["pagerduty"] = Field(description="Kind of the receiver.")
    routing_key: str = Field(description="$NAME of the environment variable with the integration key.")
    url: str = Field(default=PAGERDUTY_ADDRESS, description="Address, or $NAME of the environment variable with it.")

    _check_key = field_validator("routing_key")(_variable)
    _check_url = field_validator("url")(_address)


class LogReceiver(Settings):
    """Writes each message as one line of JSON to `logs/alerts.jsonl` of the home."""

    type: Literal["log"] = Field(default="log", description="Kind of the receiver.")


Receiver = Annotated[
    WebhookReceiver | SlackReceiver | EmailReceiver | PagerDutyReceiver | LogReceiver, Field(discriminator="type")
]


class Escalation(Settings):
    """A second notice of an alert that nobody acknowledged."""

    after_minutes: int = Field(ge=1, description="Minutes after the first notice.")
    receivers: list[str] = Field(min_length=1, description="Names of receivers.")


class Route(Settings):
    """Alerts that match go to its receivers. An alert goes along every route that it matches."""

    receivers: list[str] = Field(min_length=1, description="Names of receivers.")
    severities: list[Severity] = Field(default_factory=list, description="Severities that match; empty: all.")
    kinds: list[str] = Field(default_factory=list, description=ALL_KINDS)
    domains: list[str] = Field(default_factory=list, description="Domains that match; empty: all.")
    subjects: list[str] = Field(default_factory=list, description=ALL_SUBJECTS)
    group_by: list[Literal["kind", "domain", "severity", "subject"]] = Field(
        default=["kind", "domain"], description="Alerts that are equal in these share a message; empty: all do."
    )
    group_wait_seconds: int = Field(
        default=30,
        ge=0,
        description="Time that a group waits for further alerts; one that recovers meanwhile is not sent.",
    )
    repeat_hours: float | None = Field(
        default=4, gt=0, description="Time after which an open alert is sent again; null: never."
    )
    recovery: bool = Field(default=True, description="Whether the end of an alert is sent too.")
    escalate: Escalation | None = Field(default=None, description="A second notice without acknowledgement.")

    def matches(self, severity: Severity, kind: str, domain: str, subject: str) -> bool:
        """Return whether an alert with these values goes along the route."""
        return (
            (not self.severities or severity in self.severities)
            and (not self.domains or domain in self.domains)
            and matches(self.kinds, self.subjects, kind, subject)
        )


class Silence(Settings):
    """A time in which alerts that match are not sent; they stay on the home page."""

    kinds: list[str] = Field(default_factory=list, description=ALL_KINDS)
    subjects: list[str] = Field(default_factory=list, description=ALL_SUBJECTS)
    until: AwareDatetime = Field(description="End, ISO 8601 with offset.")
    reason: str = Field(min_length=1, description="Reason, for others.")
    by: str = Field(min_length=1, description="Name of the person.")

    def covers(self, kind: str, subject: str, now: datetime) -> bool:
        """Return whether an alert of ``kind`` on ``subject`` is silent at ``now``."""
        return now < self.until and matches(self.kinds, self.subjects, kind, subject)


class AlertmanagerSettings(Settings):
    """A Prometheus Alertmanager that gets every open alert."""

    url: str = Field(description="Address, or $NAME of the environment variable with it.")
    token: str | None = Field(default=None, description="$NAME of the variable with a bearer token; none: no header.")
    replaces_routes: bool = Field(
        default=True,
        description="Whether the routes of this file are silent while Alertmanager answers, which has routes of its "
        "own.",
    )

    _check_url = field_validator("url")(_address)
    _check_token = field_validator("token")(lambda value: value if value is None else _variable(value))


class AlertSettings(Settings):
    """The settings of alerts."""

    receivers: dict[str, Receiver] = Field(
        default_factory=dict, description="Receivers by name; the receiver `log` exists without a declaration."
    )
    routes: dict[str, Route] = Field(
        default_factory=dict, description="Routes by name. An alert that matches none goes to the receiver `log`."
    )
    severities: dict[str, Severity] = Field(
        default_factory=dict, description="Severity by kind, in place of the usual one."
    )
    silences: list[Silence] = Field(
        default_factory=list, description="Silences, besides those of `ml-platform alerts silence`."
    )
    alertmanager: AlertmanagerSettings | None = Field(
        default=None, description="Alertmanager that gets every open alert; null: none."
    )
    name: str = Field(
        default="ml_platform", min_length=1, max_length=60, description="Name of this installation in all messages."
    )
    runbooks: str | None = Field(
        default=None, description="Address of a folder with the runbooks; null: those of the home page."
    )

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        self.receivers.setdefault(LOG, LogReceiver())
        for place, names, known, what in self._references():
            for name in names:
                if name not in known:
                    raise ValueError(f"{place}: there is no {what} '{name}'.{did_you_mean(name, known)}")
        return self

    def _references(self) -> list[tuple[str, list[str], list[str], str]]:
        receivers, kinds = list(self.receivers), list(KINDS)
        found = [("severities", list(self.severities), kinds, "kind of alerts")]
        for name, route in self.routes.items():
            found.append((f"routes.{name}.receivers", route.receivers, receivers, "receiver"))
            found.append((f"routes.{name}.kinds", route.kinds, kinds, "kind of alerts"))
            if route.escalate is not None:
                found.append((f"routes.{name}.escalate", route.escalate.receivers, receivers, "receiver"))
        for number, silence in enumerate(self.silences):
            found.append((f"silences.{number}.kinds", silence.kinds, kinds, "kind of alerts"))
        return found


def matches(kinds: list[str], subjects: list[str], kind: str, subject: str) -> bool:
    """Return whether ``kind`` and ``subject`` are among ``kinds`` and ``subjects``; empty lists contain all.

    >>> matches([], ["*/drift"], "check_failed", "late/drift")
    True
    """
    return (not kinds or kind in kinds) and (not subjects or any(fnmatchcase(subject, each) for each in subjects))


def read_settings(file: Path) -> AlertSettings:
    """Return the settings in ``file``, or the defaults without it; raises :class:`AlertSettingsError` if invalid.

    The message does not contain the values of the file, which may be a secret by mistake.
    """
    if not file.is_file():
        return AlertSettings()
    try:
        return AlertSettings.model_validate(yaml.safe_load(file.read_text()) or {})
    except (yaml.YAMLError, ValidationError, OSError, UnicodeDecodeError) as error:
        found = str(error)
        if isinstance(error, yaml.MarkedYAMLError):
            found = f"{error.problem}" + (f" in line {error.problem_mark.line + 1}" if error.problem_mark else "")
        if isinstance(error, ValidationError):
            first = error.errors(include_input=False, include_url=False)[0]
            found = f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}".lstrip(": ")
        raise AlertSettingsError(
            f"Alert settings {file.name}",
            expected=f"the settings of alerts: {listed(AlertSettings.model_fields, 10)}",
            found=found,
            fix="Correct the file; `ml-platform alerts check` reads it.",
        ) from None


def resolved(value: str, environment: Mapping[str, str]) -> str:
    """Return ``value``, or the content of the environment variable that it names as `$NAME`.

    Raises :class:`AlertSettingsError` when the variable is not set.
    """
    if not value.startswith("$"):
        return value
    name = value.removeprefix("$")
    if not environment.get(name):
        raise AlertSettingsError(
            f"Environment variable {name}",
            expected="the secret that alerts.yaml names",
            found="no value",
            fix="Set it where `ml-platform up` is started.",
        )
    return environment[name]
