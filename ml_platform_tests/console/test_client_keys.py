"""`ml-platform keys` and the start of a gateway with keys: limits as text, output without secrets, refusals."""

import json
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from ml_platform.console import client_keys as work
from ml_platform.console.arguments import ArgumentError
from ml_platform.console.gateway_reach import reach, require_reachable_safely
from ml_platform.serving.certificates import CertificateError
from ml_platform.serving.client_keys import read_clients
from ml_platform.serving.processes import ProcessPlan
from resources.gateway_settings import GatewaySettingError, GatewaySettings
from resources.home import Home
from resources.home_version import prepare_home
from resources.state import open_state

BY = ("Ada", "a new app")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    prepare_home(made)
    return made


def plan(home: Home, settings: GatewaySettings) -> ProcessPlan:
    folders = {"run": home.run, "logs": home.logs, "state": str(home.state), "bentos": home.bentos}
    return ProcessPlan.model_validate(
        {**folders, "online": "online", "predictions": home.root, "gateway_port": 8080, **reach(home, settings)}
    )


def shown(home: Home) -> str:
    console = Console(file=StringIO(), width=200)
    work.show(work.client_entries(home), console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_key_is_shown_once_and_never_listed(home: Home) -> None:
    lines: list[str] = []
    assert "keys add" in shown(home)
    key = work.add(home, "app", work.limits("20/s", 50, "1000/d", 4, "sales/orders,flights"), *BY)
    work.show_key(key, lines.append)
    assert lines[0] == key.text
    second = work.rotate(home, "app", "30m", *BY)
    work.revoke(home, "app", second.id, *BY)

    (entry,) = work.client_entries(home)
    assert (entry["requests_per_second"], entry["burst"], entry["requests_per_day"]) == (20, 50, 1000)
    assert (entry["concurrency"], entry["models"], entry["requests_today"]) == (4, ["sales.orders", "flights"], 0)
    assert [(each["id"], each["valid"]) for each in entry["keys"]] == [(key.id, True), (second.id, False)]
    text = shown(home)
    assert "20/s (burst 50), 1,000 a day, 4 at once in one service, sales.orders, flights" in text
    assert "valid until" in text
    assert "revoked" in text
    (stored, _) = read_clients(open_state(home))[1]
    assert not {key.text, key.secret_sha1, stored.secret_sha1} & set(text.split())
    assert stored.secret_sha1 not in json.dumps(entry)


def test_limit_that_is_not_given_stays(home: Home) -> None:
    work.add(home, "app", work.limits("20/s", None, "1000/d", 4, "flights"), *BY)
    changed = work.limit(home, "app", work.limits("", None, "none", None, "all"), *BY)
    assert (changed.requests_per_second, changed.burst, changed.concurrency) == (20, 20, 4)
    assert (changed.requests_per_day, changed.models) == (None, None)


@pytest.mark.parametrize("rate", ["20/m", "-1/s", "1.5/s", "fast"])
def test_rate_in_another_form_is_refused(rate: str) -> None:
    with pytest.raises(ArgumentError, match="a whole number per s, like 100/s"):
        work.limits(rate, None, "", None, "")


def test_name_that_is_none_and_overlap_in_another_form_are_refused(home: Home) -> None:
    with pytest.raises(ArgumentError, match=r"Client 'My App', name: expected .*lower case"):
        work.add(home, "My App", {}, *BY)
    with pytest.raises(ArgumentError, match="like 24h"):
        work.rotate(home, "app", "tomorrow", *BY)


def test_gateway_beyond_loopback_needs_a_client_or_a_setting_against_keys(home: Home) -> None:
    open_to_all = GatewaySettings(host="192.0.2.7", keys=True)
    with pytest.raises(GatewaySettingError, match=r"ml-platform keys add .* ML_PLATFORM_GATEWAY_KEYS=off"):
        require_reachable_safely(plan(home, open_to_all), datetime.now(UTC))
    assert require_reachable_safely(plan(home, GatewaySettings()), datetime.now(UTC)) == []
    without = require_reachable_safely(plan(home, GatewaySettings(host="192.0.2.7")), datetime.now(UTC))
    assert [("no key" in note, "TLS" in note) for note in without] == [(True, False), (False, True)]
    work.add(home, "app", {}, *BY)
    (note,) = require_reachable_safely(plan(home, open_to_all), datetime.now(UTC))
    assert "without TLS" in note
    work.revoke(home, "app", "", *BY)
    with pytest.raises(GatewaySettingError):
        require_reachable_safely(plan(home, open_to_all), datetime.now(UTC))


def test_certificate_that_cannot_be_read_stops_the_start(home: Home, tmp_path: Path) -> None:
    files = GatewaySettings(certificate=tmp_path / "a.pem", private_key=tmp_path / "b.pem")
    with pytest.raises(CertificateError, match=r"a\.pem"):
        require_reachable_safely(plan(home, files), datetime.now(UTC))
    made = plan(home, GatewaySettings(host="0.0.0.0", self_signed=True))
    assert made.gateway.url == "https://127.0.0.1:8080"
    assert require_reachable_safely(made.model_copy(update={"keys": False}), datetime.now(UTC)) == [
        "Everybody who reaches 0.0.0.0:8080 can ask the models: it needs no key."
    ]
