"""Loads a temporary project with the package `shop`, and collects the messages of its loading errors."""

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
    """Make ``root`` a project, and forget an imported package `shop` of an earlier test."""
    (root / "pyproject.toml").write_text(PROJECT_FILE)
    monkeypatch.syspath_prepend(str(root))
    for name in [name for name in sys.modules if name == "shop" or name.startswith("shop.")]:
        monkeypatch.delitem(sys.modules, name)


def load(root: Path) -> dg.Definitions:
    """Return the definitions of the project at ``root``."""
    return dg.load_from_defs_folder(project_root=root)


def error_chain(error: BaseException) -> str:
    """Return the messages of ``error`` and of its causes, as Dagster prints them."""
    every: list[str] = []
    current: BaseException | None = error
    while current is not None:
        every.append(str(current))
        current = current.__cause__ or current.__context__
    return "\n".join(every)
