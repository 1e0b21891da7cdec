"""Dagster resource of the home, for assets that write pages, models and records."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from resources.addresses import page_link
from resources.home import Home
from resources.home_version import prepare_home

if TYPE_CHECKING:
    from ml_platform.registry.audit import AuditLog


class HomeResource(dg.ConfigurableResource[Any]):
    """The folder of the platform's state."""

    root: str = Field(description="Folder of the home.")
    repository: str = Field(description="Folder of the code, from which the manifest takes commit, lock and prices.")
    reports_address: str = Field(
        default="/go/reports", description="Address of the reports for a browser, or the path that redirects there."
    )

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Bring the home to the version of this code before a step writes to it."""
        prepare_home(self.home())

    def home(self) -> Home:
        """Return the folders of the home."""
        return Home(Path(self.root))

    def audit(self) -> "AuditLog":
        """Return the audit log."""
        from ml_platform.registry.audit import AuditLog
        from resources.state import open_state

        return AuditLog(open_state(self.home()))

    def link(self, page: Path) -> dg.UrlMetadataValue:
        """Return the link to a page of the reports, as metadata for the UI."""
        return dg.MetadataValue.url(page_link(page, self.home().reports, self.reports_address))

    @property
    def code(self) -> Path:
        """Return the folder of the code."""
        return Path(self.repository)
