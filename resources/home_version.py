"""The version of a home's layout: its stamp, and the steps that bring an older home up to date.

Every process that opens a home for writing calls :func:`prepare_home` first. Records that a digest protects keep their
stored names; :mod:`ml_platform.data.stored_names` reads those.
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
"""The layout that this code reads and writes."""

UNSTAMPED_VERSION = 1
"""The layout of homes made by release 0.1.0, which wrote no stamp."""

STAMP_FILE = "home.json"
OLD_DESIRED_STATE_FILE = "wanted.json"
"""Name of a model's desired state in a home of version 1."""

LOCK_FILE = ".home.lock"
LOCK_SECONDS = 60.0

LOG = logging.getLogger(__name__)


class HomeVersionError(PlatformError):
    """Raised when this code cannot work on a home: of a later version, in use by earlier code, or without a stamp."""


def prepare_home(home: Home) -> None:
    """Bring ``home`` to :data:`HOME_VERSION`, creating it where there is none; one that is up to date is not touched.

    Processes take turns by a file lock. The stamp is written last, so a migration that was killed starts again, and
    each of its steps leaves alone what is done. Raises :class:`HomeVersionError` when the home is of a later version,
    when its stamp cannot be read, or when a home that needs a migration is in use.
    """
    if stored_version(home) == HOME_VERSION:
        return
    home.root.mkdir(parents=True, exist_ok=True)
    turn = _locked(
        home,
        home.root / LOCK_FILE,
        seconds=LOCK_SECONDS,
        expected=f"its migration to end within {LOCK_SECONDS:g} s",
        found="another process that still holds its lock",
        fix="Wait for that process, or stop it, and repeat the command.",
    )
    with turn:
        version = stored_version(home)
        if version is None:
            _stamp(home, HOME_VERSION)
        elif version < HOME_VERSION:
            with _not_in_use(home, version):
                _migrate(home, version)


def stored_version(home: Home) -> int | None:
    """Return the version of ``home``, None where it is absent or empty. Creates nothing.

    Raises :class:`HomeVersionError` when it is later than :data:`HOME_VERSION`, or its stamp cannot be read.
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
    # A file whose name starts with a dot is a lock, or a stamp that is being written.
    return home.root.is_dir() and any(not entry.name.startswith(".") for entry in home.root.iterdir())


def _migrate(home: Home, version: int) -> None:
    for start in range(version, HOME_VERSION):
        changes = [change for step in MIGRATIONS[start] for change in step(home)]
        _stamp(home, start + 1)
        summary = ", ".join(changes) or "nothing to change"
        # A warning reaches the terminal of a command and the log of a run without any configuration.
        level = logging.WARNING if changes else logging.INFO
        LOG.log(level, "Migrated home %s from version %d to %d: %s.", home.root, start, start + 1, summary)


def _stamp(home: Home, version: int) -> None:
    write_json(home.root / STAMP_FILE, {"version": version})


@contextmanager
def _not_in_use(home: Home, version: int) -> Iterator[None]:
    """Hold the locks of `ml-platform up` and of the demo: in a home of an earlier version, earlier code holds them."""
    from ml_platform.serving.processes import LOCK_FILE as UP_LOCK

    with ExitStack() as stack:
        for folder in (home.run, home.run / "demo"):
            if folder.is_dir():
                stack.enter_context(
                    _locked(
                        home,
                        folder / UP_LOCK,
                        seconds=0,
                        expected=f"nothing running while it is migrated from version {version} to {HOME_VERSION}",
                        found="an earlier release that is up in it",
                        fix="Stop it with Ctrl-C where it was started, then repeat the command.",
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


# From 1 to 2: names of the field in place of those of release 0.1.0.


def _rename_desired_states(home: Home) -> list[str]:
    """Rename the desired state of each model; its keys stay."""
    from ml_platform.serving.desired_state import DESIRED_STATE_FILE

    renamed = []
    for old in sorted(home.serving.glob(f"*/{OLD_DESIRED_STATE_FILE}")):
        target = old.with_name(DESIRED_STATE_FILE)
        lock = old.with_name(f".{old.name}.lock")
        waiting = {
            "expected": f"the desired state of '{old.parent.name}' to be free within {LOCK_SECONDS:g} s",
            "found": "another process that changes it",
            "fix": "Stop that process and repeat the command.",
        }
        with _locked(home, lock, seconds=LOCK_SECONDS, **waiting):
            # Both exist only where two releases wrote to one home: the later one's file counts, the other is kept.
            old.replace(old.with_name(f"{old.name}.superseded") if target.exists() else target)
        lock.unlink(missing_ok=True)
        renamed.append(old.parent.name)
    if not renamed:
        return []
    return [f"renamed {OLD_DESIRED_STATE_FILE} to {DESIRED_STATE_FILE} for {', '.join(renamed)}"]


def _rename_dead_letters(home: Home) -> list[str]:
    """Move what waits in ``records/outbox/refused`` to the folder of the dead letters."""
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
"""The steps that lead on from each version, in order. Each returns its changes, one text each, and may run again."""
