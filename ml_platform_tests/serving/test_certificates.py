"""The gateway's certificate: a usable pair is read, a wrong one refused, a renewed one taken without a restart."""

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from ml_platform.serving.access_watch import AccessPlan, AccessWatch, write_first_access
from ml_platform.serving.certificates import CertificateError, names_of_this_machine, read_pair, self_signed_pair
from ml_platform.serving.gateway import Gateway
from ml_platform.serving.processes import free_port
from ml_platform_tests.polling import until
from ml_platform_tests.serving.conftest import running_envoy

NOW = datetime.now(UTC)


def test_self_signed_certificate_is_made_once_and_private(tmp_path: Path) -> None:
    hosts = names_of_this_machine("0.0.0.0")
    certificate, key = self_signed_pair(tmp_path / "tls", hosts, NOW)
    made = read_pair(certificate, key)
    assert [stat.S_IMODE(each.stat().st_mode) for each in (key, tmp_path / "tls")] == [0o600, 0o700]
    assert read_pair(*self_signed_pair(tmp_path / "tls", hosts, NOW + timedelta(days=300))) == made
    assert read_pair(*self_signed_pair(tmp_path / "tls", [*hosts, "192.0.2.7"], NOW)) != made
    renewed = read_pair(certificate, key)
    assert read_pair(*self_signed_pair(tmp_path / "tls", hosts, NOW + timedelta(days=340))) != renewed


def test_wrong_pair_is_refused_with_the_reason(tmp_path: Path) -> None:
    first = self_signed_pair(tmp_path / "one", ["localhost"], NOW)
    second = self_signed_pair(tmp_path / "two", ["localhost"], NOW)
    with pytest.raises(CertificateError, match="found one of another key"):
        read_pair(first[0], second[1])
    with pytest.raises(CertificateError, match=r"expected a PEM private key, found No such file or directory"):
        read_pair(first[0], tmp_path / "none.pem")
    with pytest.raises(CertificateError, match="a PEM certificate and its PEM private key"):
        read_pair(first[1], first[0])


@pytest.mark.slow
def test_gateway_speaks_tls_and_takes_a_renewed_certificate_without_a_restart(tmp_path: Path) -> None:
    certificate, key = self_signed_pair(tmp_path / "tls", ["127.0.0.1"], NOW)
    gateway = Gateway(tmp_path / "gateway", free_port(), tls=True)
    plan = AccessPlan(gateway=gateway.folder, state="", certificate=certificate, private_key=key)
    gateway.write_bootstrap()
    write_first_access(plan, NOW)
    with running_envoy(gateway):
        until(lambda: _presented(gateway) == certificate.read_text(), seconds=60)
        assert gateway.url.startswith("https://127.0.0.1:")
        trusting = ssl.create_default_context(cafile=str(certificate))
        with httpx.Client(base_url=gateway.url, verify=trusting) as client:
            assert client.get("/ready").status_code == 200
            renewed = self_signed_pair(tmp_path / "renewed", ["127.0.0.1"], NOW)
            watch = AccessWatch(plan.model_copy(update={"state": str(tmp_path / "none.db")}))
            renewed[0].replace(certificate)  # the key follows later
            watch.step(NOW)
            renewed[1].replace(key)
            watch.step(NOW)
            until(lambda: _presented(gateway) == certificate.read_text(), seconds=30)
            # The open connection goes on.
            assert client.get("/ready").status_code == 200
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{gateway.port}/ready")


def _presented(gateway: Gateway) -> str:
    try:
        return ssl.get_server_certificate((gateway.host, gateway.port))
    except OSError:
        return ""
