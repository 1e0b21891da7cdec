"""Plain English in all tracked text: the words and phrases that made sentences hard to read do not come back.

The list holds patterns, not taste: STYLE questions beyond it belong to review.
"""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUFFIXES = (
    ".py",
    ".md",
    ".ipynb",
    ".yaml",
    ".yml",
    ".toml",
    ".html",
    ".css",
    ".txt",
    ".j2",
    "Makefile",
    ".importlinter",
    "run",
)
NOT_OURS = ("requirements.lock", "LICENSE")
THIS_FILE = Path(__file__).relative_to(ROOT).as_posix()

INSTEAD = {
    r"mend(s|ed|ing)?": "fix, repair",
    r"told|telling": "report, say, distinguish",
    r"held(?![-_ ]out)": "keep, contain, compare",
    r"asked": "request, query",
    r"who(so)?ever": "name the subject: the analyst, the client",
    r"whatsoever|anew|wherefrom|therein|heretofore": "again, from which, there",
    r"crown(s|ed|ing)?|carding": "promote, model card",
    r"things?": "the noun that it stands for",
    r"apart (because|from|so that|since)": "say what the module is for",
    r"(rooms?|floors?|house) of (the )?(engine|platform|house)": "package, layer",
}
"""What a reader stumbles over (regular expression, whole words, any case) and what to write instead."""

SUBJECT_CLAUSE = re.compile(r'(?:^|["#>.]\s*|- )(What|That of|Those of) [a-z`]')
"""A sentence whose subject is a clause: `What is compared are rows that neither was shown`."""

ALLOWED = {
    # Its tables list the names of earlier versions.
    "docs/operations/upgrading.md": ("`thing`", "`mend`", "crowning"),
}
"""Parts of lines that may stay in a file, with the reason above."""


def tracked_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [path for path in listed.splitlines() if path.endswith(SUFFIXES) and Path(path).name not in NOT_OURS]
    assert len(paths) > 100  # an empty list would pass
    return [path for path in paths if path != THIS_FILE and (ROOT / path).exists()]


def findings(path: str, text: str) -> list[str]:
    """Return `path:line: phrase (instead)` for each banned phrase in ``text``."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if any(part in line for part in ALLOWED.get(path, ())):
            continue
        for pattern, instead in INSTEAD.items():
            found += [
                f"{path}:{number}: '{match.group()}' (write: {instead})"
                for match in re.finditer(rf"(?<![\w]){pattern}(?![\w])", line, re.IGNORECASE)
            ]
        is_heading = path.endswith(".md") and line.startswith("#")
        clause = SUBJECT_CLAUSE.search(line.strip())
        if clause and not is_heading and "?" not in line:
            found.append(f"{path}:{number}: '{clause.group().strip()} …' as a subject (name the subject)")
    return found


def test_no_tracked_text_uses_a_banned_phrase():
    found = [each for path in tracked_files() for each in findings(path, (ROOT / path).read_text(encoding="utf-8"))]

    assert not found, "\n".join([f"{len(found)} phrases to rewrite:", *found[:60]])


@pytest.mark.parametrize(
    "line",
    [
        "# Apart because the command line promotes too.",
        "the lines told to people",
        "Mended since",
        '"""What is compared are rows that neither was shown."""',
        "is held against the reference",
        "the whole thing",
    ],
)
def test_a_banned_phrase_is_found(line: str):
    assert len(findings("module.py", line)) == 1


@pytest.mark.parametrize(
    "line", ["held_out = rows", "a held-out month", "something else", "## What to do first", "- What is a candidate?"]
)
def test_plain_text_passes(line: str):
    assert findings("page.md", line) == []
