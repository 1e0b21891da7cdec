"""An analyst in the Dagster UI: open the graph, read about an asset, materialize it, and follow its links."""

import pytest

from ml_platform_tests.browser.page import Page

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
