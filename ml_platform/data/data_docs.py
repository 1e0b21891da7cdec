"""Data Docs: the pages in which Great Expectations shows a contract and what was found when it was checked."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from great_expectations.data_context.store.store import DataDocsSiteConfigTypedDict

INDEX = "index.html"


def site_settings(folder: Path) -> "DataDocsSiteConfigTypedDict":
    """Return the settings of a Data Docs site in ``folder``, which is emptied: its pages are of the next check only."""
    shutil.rmtree(folder, ignore_errors=True)
    return {
        "class_name": "SiteBuilder",
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }


def results_page(folder: Path) -> Path:
    """Return the page to open first: the newest results, or the index where there are none.

    The index fills its tables by a script from the network; results are plain HTML and read the same without one.
    """
    return max((folder / "validations").rglob("*.html"), default=folder / INDEX)
