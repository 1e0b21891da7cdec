"""A trial of the migration of a home: what it would change and what it could not take over, without any change.

The steps run on a copy of the small files in a temporary folder. The lake is only read, through a link.
"""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ml_platform.data.scratch import scratch_folder
from ml_platform.errors import listed
from resources.file_state_import import Changes, import_predictions, make_private, save_database
from resources.home import Home
from resources.home_version import HOME_VERSION, MIGRATIONS, Upgrade, stored_version
from resources.profile import PROFILE_VARIABLE, STATE_VARIABLE
from resources.state_location import state_at, state_location

OUTBOX = "outbox"
NOT_TRIED = (make_private, save_database, import_predictions)
"""Steps that change files which the trial does not copy; their changes are named instead."""


def try_upgrade(home: Home) -> Upgrade:
    """Return what :func:`~resources.home_version.upgrade_home` would do with ``home``; nothing is changed.

    The cost depends on the size of the lake, because its files are read. Raises as the steps do.
    """
    version = stored_version(home)
    if version is None:
        return Upgrade(None, HOME_VERSION, ["create a new home"], [])
    if version == HOME_VERSION:
        return Upgrade(version, HOME_VERSION, [], [])
    changes = Changes()
    with scratch_folder("upgrade") as folder, _own_state_store():
        copy = _small_copy(home, Home(folder / "home"))
        for start in range(version, HOME_VERSION):
            for step in MIGRATIONS[start]:
                if step not in NOT_TRIED:
                    changes += step(copy)
        state_at(state_location(copy)).close()
    made = [*changes.made, *_named_changes(home)]
    return Upgrade(version, HOME_VERSION, made, changes.left_out)


@contextmanager
def _own_state_store() -> Iterator[None]:
    """Let the trial use a SQLite store in its own folder, also where the home has another store."""
    before = {name: os.environ.pop(name, None) for name in (STATE_VARIABLE, PROFILE_VARIABLE)}
    try:
        yield
    finally:
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _small_copy(home: Home, copy: Home) -> Home:
    """Copy everything that the steps change, except predictions and evidence."""
    copy.root.mkdir()
    skipped = {home.prediction_logs.name, home.evidence.name, OUTBOX}
    for source, target in ((home.serving, copy.serving), (home.records, copy.records)):
        if source.is_dir():
            shutil.copytree(source, target, ignore=lambda _, names: skipped & set(names))
    # A step moves the entries of the outbox; their names are enough.
    for entry in (home.records / OUTBOX).glob("*/*"):
        (copy.records / entry.relative_to(home.records)).mkdir(parents=True)
    if home.lake.is_dir():
        copy.lake.symlink_to(home.lake)
    database = home.mlflow / "mlflow.db"
    if database.exists():
        copy.mlflow.mkdir()
        with closing(sqlite3.connect(database)) as opened, closing(sqlite3.connect(copy.mlflow / database.name)) as own:
            opened.backup(own)
    return copy


def _named_changes(home: Home) -> list[str]:
    models = sorted(path.parent.name for path in Path(home.lake).glob("models/*/predictions") if path.is_dir())
    return [
        *(["make the home private to its owner"] if home.root.stat().st_mode & 0o077 else []),
        *(["copy mlflow.db beside the report"] if (home.mlflow / "mlflow.db").exists() else []),
        *([f"split the predictions and outcomes of {listed(models)} into days"] if models else []),
    ]
