"""A project of the domain `shop`, loaded as a team's own is, and what a refusal of it says."""

import sys
from pathlib import Path

import dagster as dg
import pytest

PROJECT_FILE = """\
[tool.dg]
directory_type = "project"
[tool.dg.project]
root_module = "shop"
defs_module = "shop"
registry_modules = ["ml_platform.components"]
"""


def make_importable(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``root`` a project whose package `shop` is imported afresh."""
    (root / "pyproject.toml").write_text(PROJECT_FILE)
    monkeypatch.syspath_prepend(str(root))
    for name in [name for name in sys.modules if name == "shop" or name.startswith("shop.")]:
        monkeypatch.delitem(sys.modules, name)


def load(root: Path) -> dg.Definitions:
    return dg.load_from_defs_folder(project_root=root)


def error_chain(error: BaseException) -> str:
    """Return the messages of ``error`` and of everything that caused it, as Dagster prints them."""
    every: list[str] = []
    current: BaseException | None = error
    while current is not None:
        every.append(str(current))
        current = current.__cause__ or current.__context__
    return "\n".join(every)
