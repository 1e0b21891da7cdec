"""The version stamp of a home, and the migration of a home that an earlier release made.

Every process that opens a home for writing calls :func:`prepare_home` first. Records that a digest protects keep their
stored names, which :mod:`ml_platform.data.stored_names` translates.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ml_platform.data.atomic import write_json
from ml_platform.errors import PlatformError
from resources.home import Home

HOME_VERSION = 2
"""Version of the layout that this code reads and writes."""

UNSTAMPED_VERSION = 1
"""Version of homes made by release 0.1.0, which wrote no stamp."""

STAMP_FILE = "home.json"
OLD_DESIRED_STATE_FILE = "wanted.json"
"""Name of the desired-state file of a model in a home of version 1."""

LOCK_FILE = ".home.lock"
LOCK_SECONDS = 60.0

LOG = logging.getLogger(__name__)


class HomeVersionError(PlatformError):
    """Raised when this code cannot use a home: a later version, a broken stamp, or use by an earlier release."""


def prepare_home(home: Home) -> None:
    """Migrate ``home`` to :data:`HOME_VERSION`, or create it; a home of this version is not changed.

    A file lock lets one process migrate at a time. The stamp is written last, so a killed migration starts again, and
    its steps skip finished work. Raises :class:`HomeVersionError` when the home has a later version, when its stamp
    cannot be read, or when a home that needs a migration is in use.
    """
    if stored_version(home) == HOME_VERSION:
        return
    home.root.mkdir(parents=True, exist_ok=True)
    migration_lock = _locked(
        home,
        home.root / LOCK_FILE,
        seconds=LOCK_SECONDS,
        expected=f"the end of its migration within {LOCK_SECONDS:g} s",
        found="another process that still has its lock",
        fix="Wait until that process ends, or stop it. Then repeat the command.",
    )
    with migration_lock:
        version = stored_version(home)
        if version is None:
            _stamp(home, HOME_VERSION)
        elif version < HOME_VERSION:
            with _not_in_use(home, version):
                _migrate(home, version)


def stored_version(home: Home) -> int | None:
    """Return the version of ``home``, or None if it is missing or empty. Nothing is created.

    Raises :class:`HomeVersionError` when the version is later than :data:`HOME_VERSION`, or the stamp cannot be read.
    """
    stamp = home.root / STAMP_FILE
    if not stamp.exists():
        return UNSTAMPED_VERSION if _has_content(home) else None
    text = stamp.read_text(errors="replace")
    try:
        version = int(json.loads(text)["version"])
        if version < UNSTAMPED_VERSION:
            raise ValueError(f"version {version}")
    except (ValueError, KeyError, TypeError) as error:
        raise HomeVersionError(
            f"Platform home {home.root}",
            expected=f'a stamp like {{"version": {HOME_VERSION}}} in {STAMP_FILE}',
            found=f"'{' '.join(text.split())[:40]}'",
            fix=f"Restore {STAMP_FILE} from a backup.",
        ) from error
    if version > HOME_VERSION:
        raise HomeVersionError(
            f"Platform home {home.root}",
            expected=f"version {HOME_VERSION} or earlier",
            found=f"version {version}, written by a later release",
            fix="Upgrade ml-platform, or set ML_PLATFORM_HOME to another folder.",
        )
    return version


def _has_content(home: Home) -> bool:
    # Names that start with a dot belong to locks and to unfinished writes of the stamp.
    return home.root.is_dir() and any(not entry.name.startswith(".") for entry in home.root.iterdir())


def _migrate(home: Home, version: int) -> None:
    for start in range(version, HOME_VERSION):
        changes = [change for step in MIGRATIONS[start] for change in step(home)]
        _stamp(home, start + 1)
        summary = ", ".join(changes) or "nothing to change"
        # The terminal of a command and the log of a run show warnings by default.
        level = logging.WARNING if changes else logging.INFO
        LOG.log(level, "Migrated home %s from version %d to %d: %s.", home.root, start, start + 1, summary)


def _stamp(home: Home, version: int) -> None:
    write_json(home.root / STAMP_FILE, {"version": version})


@contextmanager
def _not_in_use(home: Home, version: int) -> Iterator[None]:
    """Take the locks of `ml-platform up` and of the demo; raise if an earlier release is running in ``home``."""
    from ml_platform.serving.processes import LOCK_FILE as UP_LOCK

    with ExitStack() as stack:
        for folder in (home.run, home.run / "demo"):
            if folder.is_dir():
                stack.enter_context(
                    _locked(
                        home,
                        folder / UP_LOCK,
                        seconds=0,
                        expected=f"no running process during its migration from version {version} to {HOME_VERSION}",
                        found="a running `ml-platform up` or demo of an earlier release",
                        fix="Stop it with Ctrl-C in its terminal, then repeat the command.",
                    )
                )
        yield


@contextmanager
def _locked(home: Home, lock_file: Path, *, seconds: float, expected: str, found: str, fix: str) -> Iterator[None]:
    lock = FileLock(lock_file, timeout=seconds)
    try:
        lock.acquire()
    except Timeout as error:
        raise HomeVersionError(f"Platform home {home.root}", expected=expected, found=found, fix=fix) from error
    try:
        yield
    finally:
        lock.release()


# Migration from version 1 to 2: new names of files and folders.


def _rename_desired_states(home: Home) -> list[str]:
    """Rename the desired-state file of each model; its content stays."""
    from ml_platform.serving.desired_state import DESIRED_STATE_FILE

    renamed = []
    for old in sorted(home.serving.glob(f"*/{OLD_DESIRED_STATE_FILE}")):
        target = old.with_name(DESIRED_STATE_FILE)
        lock = old.with_name(f".{old.name}.lock")
        waiting = {
            "expected": f"an unlocked desired state of '{old.parent.name}' within {LOCK_SECONDS:g} s",
            "found": "another process that is changing it",
            "fix": "Stop that process and repeat the command.",
        }
        with _locked(home, lock, seconds=LOCK_SECONDS, **waiting):
            # Both files exist if two releases wrote to one home. The file of the later release is valid.
            old.replace(old.with_name(f"{old.name}.superseded") if target.exists() else target)
        lock.unlink(missing_ok=True)
        renamed.append(old.parent.name)
    if not renamed:
        return []
    return [f"renamed {OLD_DESIRED_STATE_FILE} to {DESIRED_STATE_FILE} for {', '.join(renamed)}"]


def _rename_dead_letters(home: Home) -> list[str]:
    """Move the entries of ``records/outbox/refused`` to the folder of the dead letters."""
    from ml_platform.registry.outbox import DEAD_LETTER_FOLDER

    old, target = home.records / "outbox" / "refused", home.records / "outbox" / DEAD_LETTER_FOLDER
    if not old.is_dir() or old == target:
        return []
    target.mkdir(exist_ok=True)
    entries = sorted(old.iterdir())
    for entry in entries:
        entry.replace(target / entry.name)
    old.rmdir()
    return [f"moved {len(entries)} entries of the outbox from {old.name} to {target.name}"]


MIGRATIONS: Mapping[int, Sequence[Callable[[Home], list[str]]]] = {1: (_rename_desired_states, _rename_dead_letters)}
"""The migration steps from each version to the next, in order. Each returns one text per change and may run again."""
