"""Dagster resource of the lake and the landing zone: the lake is a folder of the home, or a bucket."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from ml_platform.data.landing import Landing
from resources.addresses import page_link, stored_address
from resources.home import Home
from resources.profile import locations

if TYPE_CHECKING:
    from ml_platform.data.lake import Lake
    from ml_platform.data.landing_index import LandingIndex
    from ml_platform.state.store import StateStore


class LakeResource(dg.ConfigurableResource[Any]):
    """The locations of landed files, of Delta tables, and of the pages about them."""

    landing_root: str = Field(description="Folder for raw files from outside.")
    lake_root: str = Field(description="Folder or s3://bucket/prefix of the Delta tables.")
    home_root: str = Field(description="Folder of the home, whose state store has the catalog of the tables.")
    reports_root: str = Field(description="Folder for the pages that checks write.")
    reports_address: str = Field(
        default="/go/reports", description="Address of that folder for a browser, or the path that redirects there."
    )
    storage_options: dict[str, str] = Field(
        default_factory=dict,
        description="Options of the object store, such as AWS_REGION, in addition to those of the profile.",
    )

    @classmethod
    def for_home(cls, home: Home) -> "LakeResource":
        """Return the resource on the lake of the active profile; landing zone and reports are folders of ``home``."""
        return cls(
            landing_root=str(home.landing),
            lake_root=locations(home).lake,
            home_root=str(home.root),
            reports_root=str(home.reports),
            reports_address=stored_address("reports"),
        )

    def landing(self) -> Landing:
        """Return the landing zone."""
        return Landing(Path(self.landing_root))

    def landing_index(self) -> "LandingIndex":
        """Return the index of the landed files."""
        from ml_platform.data.landing_index import LandingIndex

        return LandingIndex(self.landing(), self.state())

    def state(self) -> "StateStore":
        """Return the state store of the home."""
        from resources.state import open_state

        return open_state(Home(Path(self.home_root)))

    def lake(self) -> "Lake":
        """Return the lake."""
        from ml_platform.data.lake import Lake

        found = locations(Home(Path(self.home_root)))
        # The credentials of the profile are no part of the configuration, which the UI shows.
        options = found.lake_options if self.lake_root == found.lake else {}
        return Lake(self.lake_root, self.state(), {**options, **self.storage_options} or None)

    def data_docs(self) -> Path:
        """Return the folder of the Data Docs, which contains one site per dataset and partition."""
        return Path(self.reports_root) / "data_docs"

    def link(self, page: Path) -> dg.UrlMetadataValue:
        """Return the link to a page of the reports, as metadata for the UI."""
        return dg.MetadataValue.url(page_link(page, Path(self.reports_root), self.reports_address))
