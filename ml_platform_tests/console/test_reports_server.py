"""The server of reports gives files below its folder only, to requests that name this machine."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient

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


def test_reports_are_served_and_nothing_else(reports: Path) -> None:
    client = TestClient(reports_app(reports), base_url="http://127.0.0.1:4000")
    assert client.get("/drift/report.html").text == "<p>drift</p>"
    assert client.get("/drift/inner/").text == "<p>docs</p>"
    assert "each at the address that its asset links to" in client.get("/").text
    refused = ["/drift/", "/link.txt", "/out/secret.txt", "/../secret.txt", "/%2e%2e/secret.txt", "/missing.html"]
    assert {path: client.get(path).status_code for path in refused} == dict.fromkeys(refused, 404)
    assert client.post("/drift/report.html").status_code == 405


@pytest.mark.parametrize(("host", "status"), [("localhost:4000", 200), ("evil.example", 400), ("127.0.0.1.evil", 400)])
def test_request_that_names_another_host_is_refused(reports: Path, host: str, status: int) -> None:
    client = TestClient(reports_app(reports), base_url="http://127.0.0.1:4000")
    assert client.get("/drift/report.html", headers={"host": host}).status_code == status
