"""Loads a temporary project with the package `shop`, and collects the messages of its loading errors."""

from pathlib import Path

import dagster as dg

from ml_platform_tests.conftest import Importable

PROJECT_FILE = """\
[tool.dg]
directory_type = "project"
[tool.dg.project]
root_module = "shop"
defs_module = "shop"
registry_modules = ["ml_platform.components"]
"""


def make_project(root: Path, importable: Importable) -> None:
    """Make ``root`` a project whose package `shop` can be imported."""
    (root / "pyproject.toml").write_text(PROJECT_FILE)
    importable(root, "shop")


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
