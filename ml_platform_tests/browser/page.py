"""The browser with the actions of a user."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

TIMEOUT_SECONDS = 180


class Page:
    """The browser with the actions of a user: open a page, wait for text, fill a field, click."""

    def __init__(self, browser: Any, site: Any, screenshots: Path) -> None:
        self.browser, self.site, self.screenshots = browser, site, screenshots

    def open(self, path: str) -> None:
        self.browser.get(self.site.webserver + path)

    def text(self) -> str:
        return str(self.browser.find_element(By.TAG_NAME, "body").text)

    def until(self, condition: Callable[[], Any], seconds: float = TIMEOUT_SECONDS) -> Any:
        waiting = WebDriverWait(self.browser, seconds, ignored_exceptions=[StaleElementReferenceException])
        try:
            return waiting.until(lambda _: condition())
        except Exception as error:
            self.browser.save_screenshot(str(self.screenshots / "timeout.png"))
            raise AssertionError(
                f"The condition failed for {seconds:g} s. Text of the page:\n{self.text()[:3_000]}"
            ) from error

    def wait_for(self, *texts: str, seconds: float = TIMEOUT_SECONDS) -> None:
        self.until(lambda: all(text in self.text() for text in texts), seconds)

    def fill(self, xpath: str, text: str) -> None:
        field = self.until(
            lambda: [each for each in self.browser.find_elements(By.XPATH, xpath) if each.is_displayed()]
        )
        field[0].click()
        field[0].send_keys(Keys.CONTROL, "a")
        field[0].send_keys(text + Keys.ENTER)

    def write(self, text: str) -> None:
        """Replace the text of the editor on the page; typed text would be indented and completed by the editor."""
        self.browser.execute_script("document.querySelector('.CodeMirror').CodeMirror.setValue(arguments[0])", text)

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
