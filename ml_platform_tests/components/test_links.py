"""Links in asset metadata lead to served pages at the addresses of the day on which they are opened."""

import asyncio
from pathlib import Path

import httpx
import pytest
from starlette.responses import PlainTextResponse

from ml_platform.console.link_redirects import LinkRedirects
from resources import addresses
from resources.home import Home
from resources.lake import LakeResource
from resources.mlflow import MlflowResource
from resources.profiles import resources_of_profile


def test_page_in_the_home_is_linked_at_the_report_server(tmp_path: Path) -> None:
    lake = LakeResource.for_home(Home(tmp_path))
    page = lake.data_docs() / "flights" / "2013-06" / "index.html"

    assert lake.link(page).url == "/go/reports/data_docs/flights/2013-06/index.html"


def test_links_use_the_configured_address_and_no_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_PLATFORM_REPORTS_PORT", "4711")
    monkeypatch.setenv("ML_PLATFORM_MLFLOW_ADDRESS", "https://mlflow.example.org/")
    home = Home(tmp_path)
    resources = resources_of_profile(home)

    assert resources["home"].link(home.reports / "card.html").url == "/go/reports/card.html"
    assert resources["mlflow"].server_address == "https://mlflow.example.org"


def test_page_outside_the_reports_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not in the subpath"):
        addresses.page_link(tmp_path / "secret.html", tmp_path / "reports", "http://127.0.0.1:3001")


def test_run_is_linked_to_its_page_at_the_mlflow_server(tmp_path: Path) -> None:
    mlflow = MlflowResource.for_home(Home(tmp_path))
    with mlflow.tracking.run("departure_risk", "a run", {}) as run:
        pass

    assert mlflow.link("departure_risk", run.run_id).url == f"/go/mlflow/#/experiments/1/runs/{run.run_id}"


def followed(link: str, method: str = "GET") -> httpx.Response:
    """Return the answer of a server of the platform to ``link``, without the step that it asks for."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(LinkRedirects(PlainTextResponse("another page")))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:3000") as client:
            return await client.request(method, link)

    return asyncio.run(send())


def test_link_of_another_day_leads_to_the_ports_of_today(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_PLATFORM_REPORTS_PORT", "4711")
    home = Home(tmp_path)
    card = resources_of_profile(home)["home"].link(home.reports / "a card.html").url
    mlflow = MlflowResource.for_home(home)
    with mlflow.tracking.run("departure_risk", "a run", {}) as run:
        link = mlflow.link("departure_risk", run.run_id).url

    monkeypatch.setenv("ML_PLATFORM_REPORTS_PORT", "4712")
    monkeypatch.setenv("ML_PLATFORM_MLFLOW_PORT", "4713")
    answer = followed(f"{card}?page=2")
    assert (answer.status_code, answer.headers["location"]) == (307, "http://127.0.0.1:4712/a%20card.html?page=2")
    assert answer.headers["cache-control"] == "no-store"
    # A browser keeps the part after '#', which no server sees.
    assert link is not None
    assert followed(link).headers["location"] == "http://127.0.0.1:4713/"
    assert link.endswith(f"/#/experiments/1/runs/{run.run_id}")


@pytest.mark.parametrize(
    ("link", "method"), [("/go/evil/x", "GET"), ("/go", "GET"), ("/assets", "GET"), ("/go/mlflow/api", "POST")]
)
def test_other_requests_are_not_redirected(link: str, method: str) -> None:
    assert followed(link, method).text == "another page"


@pytest.mark.parametrize("path", ["/evil.example", "@evil.example", "..%2f..", "%0d%0aSet-Cookie:%20a=b"])
def test_link_leads_to_no_other_host(path: str) -> None:
    location = followed(f"/go/reports/{path}").headers["location"]
    assert httpx.URL(location).netloc == b"127.0.0.1:3001"
    assert "\n" not in location
