"""New databases of the tests are copies of one that was really made: making one takes up to two seconds, and hundreds
of tests need one.

Only this process is concerned. Commands and servers that tests start make their databases themselves.
"""

import functools
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from ml_platform.registry import tracking
from ml_platform.state import migrate, store


@contextmanager
def copied_databases(folder: Path) -> Iterator[None]:
    """Within the block, a new state store and a new tracking store on SQLite are copied from templates in ``folder``.

    Alembic keeps the files of its revisions, which Dagster otherwise executes at each new instance.
    """
    with pytest.MonkeyPatch.context() as patch:
        _copy_state_stores(patch, folder / "state.db")
        _copy_tracking_stores(patch, folder / "mlflow.db")
        _keep_revisions(patch)
        yield


def _copy_state_stores(patch: pytest.MonkeyPatch, template: Path) -> None:
    original = migrate.migrate

    @functools.cache
    def applied() -> list[str]:
        made = store.StateStore(path=template)
        revisions = original(made)
        made.close()
        return revisions

    def migrate_or_copy(new: migrate.Store) -> list[str]:
        if new.path is None or new.path.exists():
            return original(new)
        revisions = list(applied())
        new.path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(template, new.path)  # with its mode
        return revisions

    patch.setattr(store, "migrate", migrate_or_copy)


def _copy_tracking_stores(patch: pytest.MonkeyPatch, template: Path) -> None:
    original = tracking._require_database

    @functools.cache
    def made() -> Path:
        from mlflow import MlflowClient

        MlflowClient(f"{tracking.SQLITE_PREFIX}{template}", f"{tracking.SQLITE_PREFIX}{template}").search_experiments()
        return template

    def copy_or_require(database: Path) -> None:
        if database.exists():
            original(database)
        else:
            shutil.copy(made(), database)

    patch.setattr(tracking, "_require_database", copy_or_require)


def _keep_revisions(patch: pytest.MonkeyPatch) -> None:
    from alembic.util import pyfiles

    original: Callable[[str, Path], ModuleType] = pyfiles.load_module_py
    kept = functools.cache(original)

    def load(module_id: str, path: Path) -> ModuleType:
        return (kept if Path(path).parent.name == "versions" else original)(module_id, path)

    patch.setattr(pyfiles, "load_module_py", load)
