"""Sources of a bento: the modules that it may carry, and the pins of its libraries."""

import importlib
import importlib.metadata
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from ml_platform.serving.bento_build import ENTRY_POINTS, REQUIRED_LIBRARIES
from ml_platform.serving.bento_locks import BentoLocks, LockError
from ml_platform.serving.bento_sources import BentoError, find_sources, pinned_requirements
from ml_platform_tests.conftest import Importable
from ml_platform_tests.serving.conftest import LOCK


def test_code_that_imports_dagster_is_rejected_and_named() -> None:
    with pytest.raises(BentoError, match=r"ml_platform.components\.\w+ imports|imports ml_platform.components"):
        find_sources(["ml_platform.components.dataset.component"])


@pytest.fixture
def domain(tmp_path: Path, importable: Importable) -> Path:
    """A package `shop` of a team, with a module that serving may not import."""
    folder = tmp_path / "shop"
    (folder / "windows").mkdir(parents=True)
    for name in ("__init__.py", "rates.py", "holidays.py", "windows/__init__.py", "windows/hours.py"):
        (folder / name).write_text("VALUE = 1\n")
    (folder / "training.py").write_text("import dagster\n")
    importable(tmp_path, "shop")
    return folder


@pytest.mark.parametrize(
    ("source", "carried"),
    [
        ("from .rates import VALUE", {"shop/rates.py"}),
        ("from . import rates", {"shop/rates.py"}),
        ("from shop import rates", {"shop/rates.py"}),
        ("from .windows.hours import VALUE", {"shop/windows/__init__.py", "shop/windows/hours.py"}),
        ("def view(rows):\n    from .rates import VALUE\n    return VALUE", {"shop/rates.py"}),
        (
            "try:\n    from .rates import VALUE\nexcept ImportError:\n    from . import holidays",
            {"shop/rates.py", "shop/holidays.py"},
        ),
        ("RATES = 'shop.rates:load'", {"shop/rates.py"}),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .training import Trainer", set()),
        ("import rates", set()),
    ],
)
def test_bento_carries_the_modules_that_a_view_imports(domain: Path, source: str, carried: set[str]) -> None:
    (domain / "views.py").write_text(f"{source}\n")
    assert set(find_sources(["shop.views"]).files) == {"shop/__init__.py", "shop/views.py", *carried}


def test_forbidden_module_behind_a_relative_import_is_rejected(domain: Path) -> None:
    (domain / "views.py").write_text("from .training import Trainer\n")
    with pytest.raises(BentoError, match=r"shop\.training imports dagster"):
        find_sources(["shop.views"])


def test_library_without_a_pin_is_rejected(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("# made by uv\npolars==2.1.0 \\\n    --hash=sha256:00\n    # via ml-platform\n")
    assert pinned_requirements(["polars"], BentoLocks(lock)) == ["polars==2.1.0"]
    with pytest.raises(BentoError, match="none for 'lightgbm'"):
        pinned_requirements(["polars", "lightgbm"], BentoLocks(lock))


def test_pin_for_another_interpreter_is_ignored_wherever_it_is_listed(tmp_path: Path) -> None:
    running, later = f"{sys.version_info.major}.{sys.version_info.minor}", f"{sys.version_info.major}.99"
    pins = [
        f"numpy==2.4.6 ; python_full_version < '{later}' \\",
        f"numpy==2.5.5 ; python_full_version >= '{later}' \\",
        f"redis[hiredis]==6.0.0 ; python_version >= '{running}' and sys_platform == '{sys.platform}' \\",
        "waitress==3.0.2 ; sys_platform == 'never'",
    ]
    lock = tmp_path / "requirements.lock"
    for lines in (pins, pins[::-1]):
        lock.write_text("".join(f"{line}\n    --hash=sha256:00\n" for line in lines))
        assert pinned_requirements(["numpy", "redis"], BentoLocks(lock)) == ["numpy==2.4.6", "redis==6.0.0"]
        with pytest.raises(BentoError, match="none for 'waitress'"):
            pinned_requirements(["waitress"], BentoLocks(lock))


def test_lock_of_a_domain_adds_its_pins_to_its_bentos_only(tmp_path: Path) -> None:
    (tmp_path / "assets" / "shop").mkdir(parents=True)
    (tmp_path / "requirements.lock").write_text("polars==2.1.0\n")
    (tmp_path / "assets" / "shop" / "requirements.lock").write_text("skops==0.1.0\npip==9\n")
    shop, other = (BentoLocks.of(tmp_path, f"assets.{name}.examples:rows") for name in ("shop", "other"))
    assert pinned_requirements(["polars"], shop) == ["pip==9", "polars==2.1.0", "skops==0.1.0"]
    assert pinned_requirements(["polars"], other) == ["polars==2.1.0"]
    with pytest.raises(BentoError, match="none for 'skops'"):
        pinned_requirements(["skops"], other)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ("polars==2.0.0\n", r"both pin \(polars 2.1.0\), found 'polars 2.0.0'"),
        ("skops==0.1.0\n", f"pinned versions, found 'skops {importlib.metadata.version('skops')}'"),
        ("no-such-package==1\n", "found 'no-such-package not installed'. Run make install"),
        (f"skops=={importlib.metadata.version('skops')}\n", None),
    ],
)
def test_lock_of_a_domain_agrees_with_the_platform_and_the_machine(
    tmp_path: Path, own: str, message: str | None
) -> None:
    (tmp_path / "requirements.lock").write_text("polars==2.1.0\n")
    (tmp_path / "own.lock").write_text(own)
    locks = BentoLocks(tmp_path / "requirements.lock", domain=tmp_path / "own.lock")
    with pytest.raises(LockError, match=message) if message else nullcontext():
        locks.require_usable()


def test_pins_of_a_bento_equal_the_installed_versions() -> None:
    libraries = find_sources([*ENTRY_POINTS, "bento.lightgbm_scorer"]).libraries
    pins = dict(each.split("==") for each in pinned_requirements([*libraries, *REQUIRED_LIBRARIES], BentoLocks(LOCK)))
    assert {"numpy", "polars", "bentoml", "lightgbm"} <= set(pins)
    assert pins == {name: importlib.metadata.version(name) for name in pins}
