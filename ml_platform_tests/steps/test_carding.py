"""A card that cannot be made anew says why and stops no promotion."""

from pathlib import Path
from typing import Any

from ml_platform.registry.audit import AuditLog
from ml_platform.steps.carding import renewed_card, write_card
from ml_platform_tests.components.judged_model import judged_model
from resources.home import Home


def test_card_without_a_verdict_to_show_is_not_made_anew_and_says_why(tmp_path: Path) -> None:
    home, never_asked = Home(tmp_path), Any
    words = renewed_card(
        lambda: write_card(
            judged_model(),
            "2013-03",
            registry=never_asked,  # type: ignore[arg-type]
            audit=AuditLog(home.audit_log),
            folders=home,
            repository=tmp_path,
            links={},
        )
    )
    assert words.startswith("Not made anew: Model 'late', 2013-03: expected a recorded verdict, found none.")
    assert not home.reports.exists()
