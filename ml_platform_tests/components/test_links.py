"""Links in asset metadata point to served pages at the configured addresses."""

from pathlib import Path

import pytest

from resources import addresses
from resources.home import Home
from resources.lake import LakeResource
from resources.mlflow import MlflowResource
from resources.profiles import resources_of_profile


def test_page_in_the_home_is_linked_at_the_report_server(tmp_path: Path) -> None:
    lake = LakeResource.for_home(Home(tmp_path))
    page = lake.data_docs() / "flights" / "2013-06" / "index.html"

    assert lake.link(page).url == "http://127.0.0.1:3001/data_docs/flights/2013-06/index.html"


def test_links_use_the_configured_port_and_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_PLATFORM_REPORTS_PORT", "4711")
    monkeypatch.setenv("ML_PLATFORM_MLFLOW_ADDRESS", "https://mlflow.example.org/")
    home = Home(tmp_path)
    resources = resources_of_profile(home)

    assert resources["home"].link(home.reports / "card.html").url == "http://127.0.0.1:4711/card.html"
    assert resources["mlflow"].server_address == "https://mlflow.example.org"


def test_page_outside_the_reports_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not in the subpath"):
        addresses.page_link(tmp_path / "secret.html", tmp_path / "reports", "http://127.0.0.1:3001")


def test_run_is_linked_to_its_page_at_the_mlflow_server(tmp_path: Path) -> None:
    mlflow = MlflowResource.for_home(Home(tmp_path))
    with mlflow.tracking.run("departure_risk", "a run", {}) as run:
        pass

    assert mlflow.link("departure_risk", run.run_id).url == f"http://127.0.0.1:5000/#/experiments/1/runs/{run.run_id}"
