"""`alerts.yaml`: names are checked, matching is by severity, kind, domain and subject, and secrets stay outside."""

from pathlib import Path

import pytest

from ml_platform.alerts.alert import KINDS
from ml_platform.alerts.settings import AlertSettings, AlertSettingsError, Route, Silence, read_settings, resolved
from ml_platform_tests.alerts.alerting import START

PROJECT = Path(__file__).resolve().parents[2]


def written(folder: Path, text: str) -> Path:
    file = folder / "alerts.yaml"
    file.write_text(text)
    return file


def test_without_a_file_there_is_the_log_alone(tmp_path: Path) -> None:
    found = read_settings(tmp_path / "alerts.yaml")
    assert (list(found.receivers), found.routes, found.alertmanager) == (["log"], {}, None)


def test_file_of_the_project_is_valid() -> None:
    assert list(read_settings(PROJECT / "alerts.yaml").routes) == ["everything"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("routes: {a: {receivers: [lgo]}}", r"there is no receiver 'lgo'. Did you mean 'log'\?"),
        ("routes: {a: {receivers: [log], kinds: [drfit]}}", r"no kind of alerts 'drfit'. Did you mean 'drift'\?"),
        ("severities: {drift: fatal}", "severities.drift: Input should be 'info', 'warning' or 'critical'"),
        ("routes: {a: {receivers: [log], group_wiat_seconds: 1}}", "Did you mean 'group_wait_seconds'"),
        ("receivers: {a: {type: pager}}", "receivers.a: .*'webhook', 'slack', 'email', 'pagerduty', 'log'"),
        ("silences: [{until: 2026-01-01T00:00:00, reason: x, by: me}]", "timezone"),
        ("receivers: [", "in line"),
        (
            "receivers: {a: {type: email, to: [a@b], sender: x@y, host: h, encryption: none, user: u, password: $P}}",
            "encryption starttls or tls",
        ),
    ],
)
def test_wrong_file_gets_an_error_with_place_and_fix(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(AlertSettingsError, match=message):
        read_settings(written(tmp_path, text))


@pytest.mark.parametrize(
    "receiver",
    [
        "{type: slack, url: 'https://hooks.example/T0/s3cr3t'}",
        "{type: pagerduty, routing_key: s3cr3t}",
        "{type: webhook, url: 'https://a', token: s3cr3t}",
        "{type: email, to: [a@b], sender: x@y, host: h, user: u, password: s3cr3t}",
    ],
)
def test_secret_in_the_file_is_refused_and_not_shown(tmp_path: Path, receiver: str) -> None:
    with pytest.raises(AlertSettingsError, match="expected an environment variable") as raised:
        read_settings(written(tmp_path, f"receivers: {{a: {receiver}}}"))
    assert "s3cr3t" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_secret_comes_from_the_environment() -> None:
    assert resolved("$KEY", {"KEY": "abc"}) == "abc"
    assert resolved("https://host", {}) == "https://host"
    with pytest.raises(AlertSettingsError, match=r"Environment variable KEY: expected the secret .*, found no value"):
        resolved("$KEY", {})


@pytest.mark.parametrize(
    ("changes", "matches"),
    [
        ({}, True),
        ({"severities": ["critical"]}, False),
        ({"severities": ["critical", "warning"]}, True),
        ({"kinds": ["run_failed"]}, False),
        ({"domains": ["bikes"]}, False),
        ({"domains": ["aviation"], "subjects": ["departure_*"]}, True),
        ({"subjects": ["departure"]}, False),
    ],
)
def test_route_matches_by_each_of_its_conditions(changes: dict[str, list[str]], matches: bool) -> None:
    route = Route(receivers=["log"], **changes)  # type: ignore[arg-type]
    assert route.matches("warning", "drift", "aviation", "departure_risk") is matches


def test_silence_ends() -> None:
    silence = Silence(subjects=["late*"], until=START, reason="planned", by="ann")
    before = START.replace(hour=11)
    assert silence.covers("drift", "late", before)
    assert not silence.covers("drift", "early", before)
    assert not silence.covers("drift", "late", START)


def test_severities_name_every_kind() -> None:
    every = dict.fromkeys(KINDS, "info")
    assert AlertSettings(severities=every).severities == every  # type: ignore[arg-type]
