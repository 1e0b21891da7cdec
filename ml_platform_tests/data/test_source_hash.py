"""The source hash of a function changes with its code and its imports, and not with comments."""

from pathlib import Path

import pytest

from ml_platform.data.source_hash import source_hash
from ml_platform_tests.conftest import Importable


@pytest.fixture
def package(tmp_path: Path, importable: Importable) -> Path:
    """A package `domain` whose module `view` imports a module of the package and one of the standard library."""
    folder = tmp_path / "domain"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "view.py").write_text("import json\nfrom domain.windows import HOURS\n\ndef f(s):\n    return HOURS\n")
    (folder / "windows.py").write_text("HOURS = 3\n")
    importable(tmp_path, "domain")
    return folder


def test_hash_changes_with_the_function(package: Path) -> None:
    before = source_hash("domain.view:f")
    (package / "view.py").write_text("from domain.windows import HOURS\n\ndef f(s):\n    return 2 * HOURS\n")
    assert source_hash("domain.view:f") != before


def test_hash_changes_with_an_imported_module(package: Path) -> None:
    before = source_hash("domain.view:f")
    (package / "windows.py").write_text("HOURS = 4\n")
    assert source_hash("domain.view:f") != before


def test_hash_does_not_change_with_comments_and_docstrings(package: Path) -> None:
    before = source_hash("domain.view:f")
    (package / "windows.py").write_text('"""How long."""\n\n# In hours.\nHOURS = 3\n')
    assert source_hash("domain.view:f") == before
