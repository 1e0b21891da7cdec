"""An analyst in the Dagster UI: open the graph, read about an asset, materialize it, and follow its links.

Then an engineer on call: the home page names the run that failed with its reason, and leads to it. One file, because
both share a site, and each worker of the tests would start its own.
"""

import os
import subprocess

import pytest

from ml_platform_tests.browser.page import Page
from ml_platform_tests.conftest import COMMAND, PROJECT

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(600)]


def test_graph_shows_the_asset_groups(page: Page) -> None:
    page.open("/asset-groups")
    page.wait_for("aviation", "aviation_features", "departure_risk")


def test_page_of_an_asset_describes_it_before_its_materialization(page: Page) -> None:
    page.open("/assets/datasets/weather")
    page.wait_for(
        "One row per New York airport and observed hour", "Owners", "aviation", "Polars", "Delta Lake", "Tags"
    )
    page.wait_for("wind_gust", "Speed of gusts; none when there were none")


def test_month_materialized_with_clicks_shows_its_rows_and_its_report(page: Page) -> None:
    page.open("/assets/datasets/weather")
    page.click("//button[contains(., 'Materialize')]")
    page.wait_for("Launch runs to materialize")
    page.fill("//input[starts-with(@placeholder, 'ex: 2013-01')]", "2013-02")
    page.click("//button[contains(., 'Launch 1 run')]")
    page.until(lambda: "Launch runs to materialize" not in page.text())  # the dialog closes when the run is accepted

    page.open("/runs")
    page.wait_for("partition: 2013-02", "Success")
    page.open("/assets/datasets/weather?view=partitions&partition=2013-02")
    page.wait_for("Materialized (1)", "dagster/row_count", "2010", "landed_sha256")

    page.click("//a[contains(@href, '/go/reports/data_docs/weather/2013-02/')]")
    page.switch_to_new_tab()
    page.wait_for("Expectation Validation Result", "weather", "wind_gust")


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
