"""Data Docs: the pages in which Great Expectations shows a contract and the results of its checks.

Great Expectations writes pages that load styles and scripts from a dozen public servers. Without a network they are
unreadable, and with one these servers learn of every view. This module makes the pages self-contained.
"""

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from great_expectations.data_context.store.store import DataDocsSiteConfigTypedDict

INDEX = "index.html"

_VIEWS = "ml_platform.data.data_docs_views"

_EXTERNAL_REFERENCES = re.compile(
    r"""<script[^>]*\ssrc=["']https?://[^>]*>\s*</script>|<link[^>]*\shref=["']https?://[^>]*>"""
    r"""|<img[^>]*\ssrc=["']https?://[^>]*>|<a[^>]*\shref=["']https?://[^>]*>.*?</a>|<footer\b.*?</footer>""",
    re.DOTALL,
)
"""References of a page to other servers, and its footer with a newsletter form."""

_STYLESHEET = """<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1200px; padding: 1.5rem; color: #212529 }
table { border-collapse: collapse; margin: .5rem 0 }
td, th { border: 1px solid #dee2e6; padding: .3rem .6rem; text-align: left }
a { color: #0b5ed7; text-decoration: none } ol.breadcrumb { display: flex; gap: 1rem; list-style: none; padding: 0 }
.text-success { color: #198754 } .text-danger { color: #b02a37 } .text-warning { color: #b26b00 }
.badge { border: 1px solid #adb5bd; border-radius: .3rem; padding: 0 .35rem }
.fa-check-circle::before { content: "✓" } .fa-times::before { content: "✗" }
.fa-exclamation-triangle::before { content: "!" }
.fa-check-circle, .fa-times, .fa-exclamation-triangle { font-style: normal; font-weight: bold }
</style>"""


def site_config(folder: Path) -> "DataDocsSiteConfigTypedDict":
    """Empty ``folder`` and return the settings of a Data Docs site there, so that it shows the next check only."""
    shutil.rmtree(folder, ignore_errors=True)
    page, index = ({"module_name": _VIEWS, "class_name": name} for name in ("PageView", "IndexView"))
    config: Any = {  # the type of the library does not know the views of a site
        "class_name": "SiteBuilder",
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder", "view": index},
        "site_section_builders": {"expectations": {"view": page}, "validations": {"view": page}},
    }
    return cast("DataDocsSiteConfigTypedDict", config)


def results_page(folder: Path) -> Path:
    """Return the page to open first: the latest results, or the index when there are none.

    The index needs a script from the network to fill its tables; the results pages are plain HTML.
    """
    return max((folder / "validations").rglob("*.html"), default=folder / INDEX)


def make_self_contained(folder: Path) -> None:
    """Rewrite the pages in ``folder``: remove references to other servers and add an inline stylesheet."""
    for page in folder.rglob("*.html"):
        text = _EXTERNAL_REFERENCES.sub("", page.read_text(encoding="utf-8"))
        page.write_text(text.replace("</head>", f"{_STYLESHEET}\n</head>", 1), encoding="utf-8")
