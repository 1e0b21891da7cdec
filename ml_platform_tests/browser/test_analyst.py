"""An analyst in the Dagster UI: open the graph, read about an asset, materialize it, and follow its links."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from ml_platform_tests.browser.conftest import Site

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(600)]

TIMEOUT_SECONDS = 180


@pytest.fixture
def page(browser: Any, site: Site, tmp_path: Path) -> Any:
    yield Page(browser, site, tmp_path)
    browser.save_screenshot(str(tmp_path / "last.png"))


class Page:
    """The browser with the actions of a user: open a page, wait for text, fill a field, click."""

    def __init__(self, browser: Any, site: Site, screenshots: Path) -> None:
        self.browser, self.site, self.screenshots = browser, site, screenshots

    def open(self, path: str) -> None:
        self.browser.get(self.site.webserver + path)

    def text(self) -> str:
        return str(self.browser.find_element(By.TAG_NAME, "body").text)

    def until(self, condition: Callable[[], Any]) -> Any:
        waiting = WebDriverWait(self.browser, TIMEOUT_SECONDS, ignored_exceptions=[StaleElementReferenceException])
        try:
            return waiting.until(lambda _: condition())
        except Exception as error:
            self.browser.save_screenshot(str(self.screenshots / "timeout.png"))
            raise AssertionError(
                f"The condition failed for {TIMEOUT_SECONDS} s. Text of the page:\n{self.text()[:3_000]}"
            ) from error

    def wait_for(self, *texts: str) -> None:
        self.until(lambda: all(text in self.text() for text in texts))

    def fill(self, xpath: str, text: str) -> None:
        field = self.until(
            lambda: [each for each in self.browser.find_elements(By.XPATH, xpath) if each.is_displayed()]
        )
        field[0].click()
        field[0].send_keys(Keys.CONTROL, "a")
        field[0].send_keys(text + Keys.ENTER)

    def switch_to_new_tab(self) -> None:
        self.until(lambda: len(self.browser.window_handles) > 1)
        self.browser.switch_to.window(self.browser.window_handles[-1])

    def click(self, xpath: str) -> None:
        def clicked() -> bool:
            found = [each for each in self.browser.find_elements(By.XPATH, xpath) if each.is_displayed()]
            enabled = [each for each in found if each.is_enabled()]
            if enabled:
                enabled[0].click()
            return bool(enabled)

        self.until(clicked)


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

    page.click(f"//a[starts-with(@href, '{page.site.reports}/data_docs/weather/2013-02/')]")
    page.switch_to_new_tab()
    page.wait_for("Expectation Validation Result", "weather", "wind_gust")
