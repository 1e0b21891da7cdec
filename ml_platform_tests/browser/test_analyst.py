"""What an analyst does in the Dagster UI alone: look at the graph, read about an asset, make it, follow its links."""

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

SECONDS = 180


@pytest.fixture
def page(browser: Any, site: Site, tmp_path: Path) -> Any:
    yield Page(browser, site, tmp_path)
    browser.save_screenshot(str(tmp_path / "last.png"))


class Page:
    """The browser, with the few gestures of a person: open, see, click."""

    def __init__(self, browser: Any, site: Site, shots: Path) -> None:
        self.browser, self.site, self.shots = browser, site, shots

    def open(self, path: str) -> None:
        self.browser.get(self.site.webserver + path)

    def text(self) -> str:
        return str(self.browser.find_element(By.TAG_NAME, "body").text)

    def until(self, condition: Callable[[], Any]) -> Any:
        waiting = WebDriverWait(self.browser, SECONDS, ignored_exceptions=[StaleElementReferenceException])
        try:
            return waiting.until(lambda _: condition())
        except Exception as error:
            self.browser.save_screenshot(str(self.shots / "unseen.png"))
            raise AssertionError(f"Not seen within {SECONDS} s; the page says:\n{self.text()[:3_000]}") from error

    def sees(self, *texts: str) -> None:
        self.until(lambda: all(text in self.text() for text in texts))

    def fill(self, xpath: str, text: str) -> None:
        field = self.until(
            lambda: [each for each in self.browser.find_elements(By.XPATH, xpath) if each.is_displayed()]
        )
        field[0].click()
        field[0].send_keys(Keys.CONTROL, "a")
        field[0].send_keys(text + Keys.ENTER)

    def looks_at_new_tab(self) -> None:
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


def test_graph_shows_the_groups(page: Page) -> None:
    page.open("/asset-groups")
    page.sees("aviation", "aviation_features", "departure_risk")


def test_asset_explains_itself_before_it_is_made(page: Page) -> None:
    page.open("/assets/datasets/weather")
    page.sees("One row per New York airport and observed hour", "Owners", "aviation", "Polars", "Delta Lake", "Tags")
    page.sees("wind_gust", "Speed of gusts; none when there were none")


def test_month_is_made_by_clicking_and_shows_its_rows_and_its_report(page: Page) -> None:
    page.open("/assets/datasets/weather")
    page.click("//button[contains(., 'Materialize')]")
    page.sees("Launch runs to materialize")
    page.fill("//input[starts-with(@placeholder, 'ex: 2013-01')]", "2013-02")
    page.click("//button[contains(., 'Launch 1 run')]")
    page.until(lambda: "Launch runs to materialize" not in page.text())  # it closes when the run is accepted

    page.open("/runs")
    page.sees("partition: 2013-02", "Success")
    page.open("/assets/datasets/weather?view=partitions&partition=2013-02")
    page.sees("Materialized (1)", "dagster/row_count", "2010", "landed_sha256")

    page.click(f"//a[starts-with(@href, '{page.site.reports}/data_docs/weather/2013-02/')]")
    page.looks_at_new_tab()
    page.sees("Expectation Validation Result", "weather", "wind_gust")
