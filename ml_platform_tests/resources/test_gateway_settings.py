"""Settings of the gateway: keys are needed beyond loopback, and settings that contradict each other are refused."""

import os
from pathlib import Path

import pytest

from resources.gateway_settings import GatewaySettingError, GatewaySettings, gateway_settings


def settings(monkeypatch: pytest.MonkeyPatch, **values: str) -> GatewaySettings:
    for name in ("HOST", "KEYS", "CERTIFICATE", "CERTIFICATE_KEY", "WORKERS", "GRPC"):
        monkeypatch.delenv(f"ML_PLATFORM_GATEWAY_{name}", raising=False)
    for name, value in values.items():
        monkeypatch.setenv(f"ML_PLATFORM_GATEWAY_{name}", value)
    return gateway_settings()


@pytest.mark.parametrize(
    ("values", "host", "keys"),
    [
        ({}, "127.0.0.1", False),
        ({"HOST": "localhost"}, "127.0.0.1", False),
        ({"HOST": "::1"}, "::1", False),
        ({"KEYS": "on"}, "127.0.0.1", True),
        ({"HOST": "0.0.0.0"}, "0.0.0.0", True),
        ({"HOST": "[::]"}, "::", True),
        ({"HOST": "192.0.2.7", "KEYS": "off"}, "192.0.2.7", False),
    ],
)
def test_keys_are_needed_on_every_address_but_loopback(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], host: str, keys: bool
) -> None:
    found = settings(monkeypatch, **values)
    assert (found.host, found.keys, found.tls) == (host, keys, False)


def test_gateway_has_a_worker_for_each_core_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = os.sched_getaffinity(0)
    assert settings(monkeypatch).workers == len(cores)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert settings(monkeypatch).workers == 1
        assert settings(monkeypatch, WORKERS="3").workers == 3
    finally:
        os.sched_setaffinity(0, cores)


def test_grpc_is_answered_unless_it_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    values: list[dict[str, str]] = [{}, {"GRPC": "on"}, {"GRPC": "off"}]
    assert [settings(monkeypatch, **each).grpc for each in values] == [True, True, False]


def test_certificate_is_a_pair_of_files_or_self_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    files = settings(monkeypatch, CERTIFICATE="/etc/a.pem", CERTIFICATE_KEY="/etc/b.pem")
    assert (files.tls, files.self_signed, files.certificate, files.private_key) == (
        True,
        False,
        Path("/etc/a.pem"),
        Path("/etc/b.pem"),
    )
    made = settings(monkeypatch, CERTIFICATE="self-signed")
    assert (made.tls, made.self_signed, made.certificate) == (True, True, None)


@pytest.mark.parametrize(
    ("values", "variable"),
    [
        ({"HOST": "gateway.example.org"}, "HOST"),
        ({"KEYS": "yes"}, "KEYS"),
        ({"CERTIFICATE": "a.pem"}, "CERTIFICATE"),
        ({"CERTIFICATE_KEY": "b.pem"}, "CERTIFICATE"),
        ({"CERTIFICATE": "self-signed", "CERTIFICATE_KEY": "b.pem"}, "CERTIFICATE"),
        ({"WORKERS": "0"}, "WORKERS"),
        ({"WORKERS": "two"}, "WORKERS"),
        ({"GRPC": "true"}, "GRPC"),
    ],
)
def test_wrong_setting_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], variable: str
) -> None:
    with pytest.raises(GatewaySettingError, match=f"^ML_PLATFORM_GATEWAY_{variable}: expected"):
        settings(monkeypatch, **values)
