"""An analyst decides in the Dagster UI: approves a version, reads why the next one is on HOLD, and rolls back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_platform_tests.browser.approval_project import MODEL, make_two_versions, write_project
from ml_platform_tests.browser.conftest import Site, own_variables, running_site, selected
from ml_platform_tests.browser.page import Page
from ml_platform_tests.conftest import importable_from
from resources.home import Home

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(1200)]

RUN_SECONDS = 600
"""Time in which a launched run must end; a busy machine needs minutes."""


@pytest.fixture(scope="module")
def deciding_site(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose model has a champion, version 1, and a challenger, version 2, that passed its gates."""
    root = tmp_path_factory.mktemp("deciding")
    home = Home(root / "home")
    write_project(root)
    variables = own_variables(home)
    with selected(home, variables), importable_from() as make_importable:
        make_importable(root, "shop")
        make_two_versions(home, root)
    with running_site(home, root, variables) as site:
        yield site


@pytest.fixture
def page(browser: Any, deciding_site: Site, tmp_path: Path) -> Iterator[Page]:
    yield Page(browser, deciding_site, tmp_path)
    browser.save_screenshot(str(tmp_path / "last.png"))


def launch(page: Page, job: str, **config: object) -> None:
    """Fill in the configuration of a job that has one step in the launchpad, launch it, and wait for its success."""
    page.open(f"/locations/shop/jobs/{job}")
    page.click("//a[contains(., 'Launchpad')]")
    page.click("//button[contains(., 'Scaffold missing config')]")
    page.click("//button[contains(., 'Confirm')]")
    page.wait_for("decided_by: ")
    lines = "".join(f"      {name}: {value}\n" for name, value in config.items())
    page.write(f"ops:\n  {job}_step:\n    config:\n{lines}")
    page.click("//button[contains(., 'Launch Run')]")
    page.wait_for("Success", seconds=RUN_SECONDS)


def test_analyst_approves_a_version_that_waits(page: Page) -> None:
    page.open(f"/assets/{MODEL}/champion?view=checks")
    page.wait_for("approved", "0 of 1 approvals")
    launch(page, f"{MODEL}_approve", version=2, decided_by="ada@example.org", reason="far fewer errors")
    page.wait_for("Version 2 is champion.")
    page.open(f"/assets/{MODEL}/champion?view=events")
    page.wait_for("ada@example.org", "far fewer errors")


def test_run_of_a_held_version_ends_well_and_the_page_says_why(page: Page) -> None:
    page.open(f"/locations/shop/jobs/{MODEL}")
    page.click("//button[contains(., 'Materialize all')]")
    page.click("//a[contains(@href, '/runs/')]")  # in the notice of the launched run
    page.wait_for("Success", seconds=RUN_SECONDS)  # the state beside its id
    page.open(f"/assets/{MODEL}/evaluation")
    page.wait_for("HOLD", "more labels would decide")
    page.open(f"/assets/{MODEL}/champion?view=checks")
    page.wait_for("approved", "more labels would decide")


def test_analyst_rolls_back_and_the_page_of_the_champion_follows(page: Page) -> None:
    launch(page, f"{MODEL}_rollback", decided_by="ada@example.org", reason="the first one was right")
    page.wait_for("Version 1 is champion again")
    page.open(f"/assets/{MODEL}/champion?view=events")
    page.wait_for("ada@example.org", "the first one was right")
