"""The page "from a CSV to an endpoint" and its blocks of code, which tests execute."""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorials" / "from-a-csv-to-an-endpoint.md"


def blocks(language: str) -> list[tuple[str, str]]:
    """Return title and code of each block of the page in ``language``; the title may be empty.

    Commands have no language.
    """
    # All blocks are matched, because the end of one without a language would look like the start of another.
    found = re.findall(r'^```(\w*)(?: title="([^"]*)")?\n(.*?)^```', PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [(title, code) for each, title, code in found if each == language]
