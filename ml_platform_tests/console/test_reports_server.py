"""The server of reports gives files below its folder only, to requests that name this machine."""

import asyncio
from pathlib import Path

import httpx
import pytest

from ml_platform.console.reports_server import reports_app


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    folder = tmp_path / "reports"
    (folder / "drift" / "inner").mkdir(parents=True)
    (folder / "drift" / "report.html").write_text("<p>drift</p>")
    (folder / "drift" / "inner" / "index.html").write_text("<p>docs</p>")
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "out").symlink_to(tmp_path)
    return folder


def answers(reports: Path, *requests: tuple[str, str], host: str = "127.0.0.1:4000") -> list[httpx.Response]:
    """Return the answers to ``requests`` (method, path) that name ``host``."""

    async def send() -> list[httpx.Response]:
        transport = httpx.ASGITransport(reports_app(reports))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:4000") as client:
            return [await client.request(method, path, headers={"host": host}) for method, path in requests]

    return asyncio.run(send())


def test_reports_are_served_and_nothing_else(reports: Path) -> None:
    report, docs, first = answers(reports, ("GET", "/drift/report.html"), ("GET", "/drift/inner/"), ("GET", "/"))
    assert report.text == "<p>drift</p>"
    assert docs.text == "<p>docs</p>"
    assert "each at the address that its asset links to" in first.text
    refused = ["/drift/", "/link.txt", "/out/secret.txt", "/../secret.txt", "/%2e%2e/secret.txt", "/missing.html"]
    assert [each.status_code for each in answers(reports, *(("GET", path) for path in refused))] == [404] * len(refused)
    assert answers(reports, ("POST", "/drift/report.html"))[0].status_code == 405


@pytest.mark.parametrize(("host", "status"), [("localhost:4000", 200), ("evil.example", 400), ("127.0.0.1.evil", 400)])
def test_request_that_names_another_host_is_refused(reports: Path, host: str, status: int) -> None:
    (answer,) = answers(reports, ("GET", "/drift/report.html"), host=host)
    assert answer.status_code == status
