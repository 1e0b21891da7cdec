"""A model card that cannot be written reports the reason and does not stop a promotion."""

from pathlib import Path

import pytest

from ml_platform.steps.model_card import refresh_model_card, write_model_card
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform_tests.components.delivery_model import delivery_model
from resources.home import Home
from resources.home_lake import open_lake


def test_card_without_a_verdict_is_not_refreshed_and_reports_why(tmp_path: Path) -> None:
    home = Home(tmp_path)
    stores = PlatformStores(
        home,
        tmp_path,
        open_lake(home),
        lambda: pytest.fail("opened the registry without a verdict"),
        lambda: pytest.fail("opened the online store"),
    )
    message = refresh_model_card(lambda: write_model_card(delivery_model(), "2013-03", stores, {}))
    assert message.startswith("Not written again: Model 'late', 2013-03: expected a recorded verdict, found none.")
    assert not home.reports.exists()
