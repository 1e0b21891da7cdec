"""A card that cannot be made anew says why and stops no promotion."""

from pathlib import Path
from typing import Any

from ml_platform.registry.audit import AuditLog
from ml_platform.steps.model_card import refresh_model_card, write_model_card
from ml_platform_tests.components.delivery_model import delivery_model
from resources.home import Home


def test_card_without_a_verdict_is_not_refreshed_and_reports_why(tmp_path: Path) -> None:
    home, unused_registry = Home(tmp_path), Any
    message = refresh_model_card(
        lambda: write_model_card(
            delivery_model(),
            "2013-03",
            registry=unused_registry,  # type: ignore[arg-type]
            audit=AuditLog(home.audit_log),
            folders=home,
            repository=tmp_path,
            links={},
        )
    )
    assert message.startswith("Not made anew: Model 'late', 2013-03: expected a recorded verdict, found none.")
    assert not home.reports.exists()
