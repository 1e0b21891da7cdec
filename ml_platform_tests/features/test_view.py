"""A declaration agrees with itself, and its code version changes when the code does."""

import importlib
import sys

import pytest
from pydantic import ValidationError

from ml_platform.features.view import FeatureView, source_hash

BASE = {"name": "v", "entity": ["k"], "features": [{"name": "x", "description": "…"}], "function": "m:f"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": [{"name": "k", "description": "…"}]}, "named twice"),
        ({"features": [{"name": "known_at", "description": "…"}]}, "reserved"),
        ({"inputs": ["w"]}, "only a request view takes 'inputs'"),
        ({"fields": ["due"]}, "only a request view takes 'inputs' and 'fields'"),
        ({"kind": "request"}, "a request view sees the row itself"),
        ({"features": [{"name": "x", "description": "…", "derived_from": ["flights.due"]}]}, "in none of its sources"),
        ({"features": []}, "at least 1 item"),
        ({"tolerance": 5}, "Did you mean 'tolerance_minutes'"),
    ],
)
def test_declaration_that_contradicts_itself_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FeatureView.model_validate(BASE | changes)


def test_columns_carry_the_name_of_the_view_and_its_age() -> None:
    view = FeatureView.model_validate(BASE | {"age": True})
    assert list(view.columns) == ["v__x", "v__age_minutes"]
    assert view.feature_names == ["v__x", "v__age_minutes"]
    assert FeatureView.model_validate(BASE).feature_names == ["v__x"]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `domain` whose view imports a module of the package, and one of the standard library."""
    folder = tmp_path / "domain"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "view.py").write_text("import json\nfrom domain.windows import HOURS\n\ndef f(s):\n    return HOURS\n")
    (folder / "windows.py").write_text("HOURS = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "domain"]:
        del sys.modules[name]


def test_code_version_changes_with_the_function(package) -> None:
    before = source_hash("domain.view:f")
    (package / "view.py").write_text("from domain.windows import HOURS\n\ndef f(s):\n    return 2 * HOURS\n")
    assert source_hash("domain.view:f") != before


def test_code_version_changes_with_what_the_function_imports(package) -> None:
    before = source_hash("domain.view:f")
    (package / "windows.py").write_text("HOURS = 4\n")
    assert source_hash("domain.view:f") != before


def test_code_version_does_not_change_with_comments_and_docstrings(package) -> None:
    before = source_hash("domain.view:f")
    (package / "windows.py").write_text('"""How long."""\n\n# In hours.\nHOURS = 3\n')
    assert source_hash("domain.view:f") == before


def test_declared_code_version_stands() -> None:
    assert FeatureView.model_validate(BASE | {"code_version": "7"}).table == "features/v/7"
