"""An engineer on call: the home page names the run that failed with its reason, and leads to it."""

import os
import subprocess

import pytest

from ml_platform_tests.browser.page import Page
from ml_platform_tests.conftest import COMMAND, PROJECT

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(600)]


def test_reason_of_a_failed_run_is_found_from_the_home_page(page: Page) -> None:
    landed = page.site.home.landing / "weather" / "2013-01.csv"
    lines = landed.read_text().splitlines()
    wind = lines[0].split(",").index("wind_speed")
    first = lines[1].split(",")
    landed.write_text("\n".join([lines[0], ",".join([*first[:wind], "-400", *first[wind + 1 :]]), *lines[2:]]) + "\n")
    failed = subprocess.run(
        [COMMAND, "materialize", "--select", "datasets/weather", "-p", "2013-01"],
        env={**os.environ, "ML_PLATFORM_HOME": str(page.site.home.root)},
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert failed.returncode == 1
    landed.write_text("\n".join(lines) + "\n")

    page.browser.get(page.site.reports)
    page.wait_for("Failures", "datasets/weather", "column 'wind_speed' should lie between 0 and 250 mph")
    page.click("//a[contains(@href, '/runs/')]")
    page.wait_for("STEP_FAILURE", "column 'wind_speed' should lie between 0 and 250 mph")


def test_home_page_leads_to_a_model_and_back(page: Page) -> None:
    page.browser.get(page.site.reports)
    page.click("//a[text() = 'departure_risk']")
    page.wait_for("departure_risk", "No candidate was evaluated yet.", "team:aviation")
    page.click("//a[text() = 'ml_platform']")
    page.wait_for("aviation", "bike_demand", "Last decisions")
