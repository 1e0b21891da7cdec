"""Domains are loaded again only after a file has changed, or while one does not load."""

from pathlib import Path

import pytest

from ml_platform.components import project as project_module
from ml_platform.components.project import Project, read_project
from ml_platform.console.load_check import domains_not_loaded
from ml_platform_tests.components.project_loading import make_project
from ml_platform_tests.components.test_project import add_domain, dataset
from ml_platform_tests.conftest import Importable
from resources.home import Home


@pytest.fixture
def root(tmp_path: Path, importable: Importable) -> Path:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/__init__.py").touch()
    make_project(tmp_path, importable)
    add_domain(tmp_path, "good", dataset("orders", "shop.good.loaders:orders"), "def orders(path): ...\n")
    return tmp_path


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The projects that were loaded with all their modules."""
    seen: list[Path] = []
    load = project_module.load_project

    def counted(root: Path) -> Project:
        seen.append(root)
        return load(root)

    monkeypatch.setattr(project_module, "load_project", counted)
    return seen


def test_unchanged_project_that_loads_is_not_loaded_again(
    root: Path, tmp_path: Path, loads: list[Path], importable: Importable
) -> None:
    home = Home(tmp_path / "home")
    for _ in range(3):
        assert domains_not_loaded(home, read_project(root)) == {}
    assert len(loads) == 1

    (root / "shop/good/loaders.py").write_text("def order(path): ...\n")
    importable(root, "shop")
    for _ in range(2):
        assert "'orders'" in domains_not_loaded(home, read_project(root))["good"]
    assert len(loads) == 3

    (root / "shop/good/loaders.py").write_text("def orders(path): return path\n")
    importable(root, "shop")
    assert domains_not_loaded(home, read_project(root)) == {}


def test_new_lock_file_and_new_domain_are_looked_at(root: Path, tmp_path: Path, loads: list[Path]) -> None:
    home = Home(tmp_path / "home")
    domains_not_loaded(home, read_project(root))
    (root / "requirements.lock").write_text("numpy==1.0\n")
    domains_not_loaded(home, read_project(root))
    add_domain(root, "other", dataset("returns", "shop.other.loaders:absent"))
    assert set(domains_not_loaded(home, read_project(root))) == {"other"}
    assert len(loads) == 3
