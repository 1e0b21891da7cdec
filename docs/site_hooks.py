"""Hooks of the documentation site: navigation of the decision records, notebooks as pages, and docstrings in its form."""

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

DECISIONS = "Decision records"
NOTEBOOK = ".ipynb"
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


class NotebookFile(File):
    """A notebook that is a page: links and the navigation name the notebook itself."""

    def is_documentation_page(self) -> bool:
        return True


def on_files(files: Files, config: Any) -> Files:
    """Replace each notebook, which would be copied, by a page."""
    for each in [file for file in files if file.src_uri.endswith(NOTEBOOK)]:
        page = NotebookFile(each.src_uri, each.src_dir, each.dest_dir, each.use_directory_urls)
        page.content_string = notebook_markdown(each.content_string)
        files.remove(each)
        files.append(page)
    return files


def notebook_markdown(notebook: str) -> str:
    """Return a notebook in the form of its file as Markdown: its text, and each cell of code as a block of Python."""
    parts = []
    for cell in json.loads(notebook)["cells"]:
        source = "".join(cell["source"])
        parts.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
    return "\n\n".join(parts) + "\n"


def on_page_content(html: str, **_: Any) -> str:
    """Return the page with the roles of reStructuredText, which docstrings use, as plain code."""
    return re.sub(r"::</p>", ":</p>", _ROLE.sub(r"<code>\1</code>", html))
