"""Hooks of the documentation site: the navigation of the decision records, and docstrings as the site shows them."""

import re
from pathlib import Path
from typing import Any

DECISIONS = "Decision records"
_ROLE = re.compile(r":(?:class|func|meth|data|mod|attr|exc|obj):<code>~?\.?([^<]*)</code>")


def on_config(config: Any) -> Any:
    """Fill in the decision records, in the order of their numbers."""
    docs = Path(config["docs_dir"])
    records = [page.relative_to(docs).as_posix() for page in sorted((docs / "decisions").glob("[0-9]*.md"))]
    _fill(config["nav"], records)
    return config


def _fill(entries: list[Any], records: list[str]) -> None:
    for entry in entries:
        if isinstance(entry, dict):
            for title, inner in entry.items():
                if title == DECISIONS:
                    entry[title] = records
                elif isinstance(inner, list):
                    _fill(inner, records)


def on_page_content(html: str, **_: Any) -> str:
    """Return the page with the roles of reStructuredText, which docstrings use, as plain code."""
    return re.sub(r"::</p>", ":</p>", _ROLE.sub(r"<code>\1</code>", html))
