"""Views of Data Docs whose templates are compiled once for all pages of a process.

Great Expectations compiles them for each site, which took longer than the check of a small partition. It imports this
module by its name in :func:`ml_platform.data.data_docs.site_config`, and nothing else does.
"""

from functools import cache
from typing import Any

from great_expectations.render.view.view import DefaultJinjaIndexPageView, DefaultJinjaPageView
from jinja2 import Environment


@cache
def _environment() -> Environment:
    # The filters of an environment are methods of its view, and use no state of it.
    return DefaultJinjaPageView().env


class PageView(DefaultJinjaPageView):
    """The view of a suite or of the results of a check."""

    def __init__(self, **directories: Any) -> None:
        super().__init__(**directories)
        self.env = _environment()


class IndexView(DefaultJinjaIndexPageView):
    """The view of the index of a site."""

    def __init__(self, **directories: Any) -> None:
        super().__init__(**directories)
        self.env = _environment()
