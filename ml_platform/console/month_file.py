"""The file of the report of a month, for `ml-platform export`."""

from datetime import UTC, datetime
from pathlib import Path

from ml_platform.console.site.home_overview import DeclarationReader
from ml_platform.console.site.monthly_report import monthly_report, read_month
from ml_platform.console.site.pages import month_page
from ml_platform.data.atomic import write_text
from ml_platform.registry.audit import AuditLog
from resources.home import Home
from resources.orchestration import open_instance
from resources.profiles import REPOSITORY
from resources.state import open_state
from resources.tracking_location import tracking_store


def write_month_file(home: Home, month: str | None, zone: str, out: Path | None) -> Path:
    """Write the report of ``month`` to ``out`` or to the working directory, and return its path.

    Raises :class:`~ml_platform.console.site.monthly_report.MonthError` for a month or zone that cannot be read.
    """
    from ml_platform.registry.tracking import Tracking
    from ml_platform.steps.prices import read_prices

    period = read_month(month, zone, datetime.now(UTC))
    tracking = Tracking(*tracking_store(home))
    with open_instance(home) as instance:
        report = monthly_report(
            period,
            AuditLog(open_state(home)),
            DeclarationReader(REPOSITORY).current(),
            tracking if tracking.exists else None,
            instance,
        )
    path = out or Path(f"models-{period.label}.html")
    prices = read_prices(REPOSITORY)
    write_text(path, month_page(report, prices.shown_currency))
    return path
