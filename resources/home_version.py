"""The version stamp of a home, and the migration of a home that an earlier release made.

Every process that opens a home for writing calls :func:`prepare_home` first. Records that a digest protects keep their
stored names, which :mod:`ml_platform.data.stored_names` translates.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ml_platform.data.atomic import write_json
from ml_platform.errors import PlatformError
from ml_platform.state.migrate import HEAD, schema_revision
from ml_platform.state.sqlite_file import StateStoreError
from resources.file_state_import import (
    Changes,
    create_state,
    import_decisions,
    import_lake,
    import_predictions,
    make_private,
    relocate_artifacts,
    save_database,
)
from resources.home import Home
from resources.private_files import declared_group, has_group_access, restrict_access
from resources.state_location import state_at, state_location

HOME_VERSION = 3
"""Version of the layout that this code reads and writes."""

UNSTAMPED_VERSION = 1
"""Version of homes made by release 0.1.0, which wrote no stamp."""

STAMP_FILE = "home.json"
OLD_DESIRED_STATE_FILE = "wanted.json"
"""Name of the desired-state file of a model in a home of version 1."""

LOCK_FILE = ".home.lock"
LOCK_SECONDS = 60.0

REPORT_FILE = "report.json"
"""The changes of a migration and the items that it left out, in the folder that :meth:`Home.upgrade` names."""

LOG = logging.getLogger(__name__)

_CURRENT_STORES: set[tuple[str, int | None]] = set()
"""State stores whose schema this process has compared, by location and file."""


class HomeVersionError(PlatformError):
    """Raised when this code cannot use a home: a later version, a broken stamp, or use by an earlier release."""


@dataclass(frozen=True)
class Upgrade:
    """A migration of a home: the versions before and after, what was changed, and what could not be taken over."""

    before: int | None
    after: int
    made: list[str]
    left_out: list[str]


def prepare_home(home: Home) -> None:
    """Migrate ``home`` to :data:`HOME_VERSION`, or create it, with a warning that says what changed.

    A home of this version is not changed, except for its access when a group is declared and for a newer schema of the
    state store. Raises as :func:`upgrade_home`.
    """
    if stored_version(home) == HOME_VERSION and _has_current_schema(home) and _has_declared_access(home):
        return
    done = upgrade_home(home)
    if done.before is None:
        return
    summary = ", ".join([*done.made, *(f"left out {each}" for each in done.left_out)]) or "nothing to change"
    # The terminal of a command and the log of a run show warnings by default.
    level = logging.WARNING if done.made or done.left_out else logging.INFO
    if done.before != done.after:
        LOG.log(level, "Migrated home %s from version %d to %d: %s.", home.root, done.before, done.after, summary)
    elif done.made:
        LOG.warning("Changed home %s: %s.", home.root, summary)


def upgrade_home(home: Home) -> Upgrade:
    """Migrate ``home`` to :data:`HOME_VERSION`, or create it; return what was changed.

    A file lock lets one process migrate at a time. The stamp is written last, so a killed migration starts again, and
    its steps skip finished work. Raises :class:`HomeVersionError` when the home has a later version, when its stamp
    cannot be read, or when a home that needs a migration is in use; and
    :class:`~ml_platform.state.migrate.StateVersionError` when a later release wrote its state store.
    """
    stored_version(home)
    declared_group()
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
            made = [*restrict_access(home.root), *create_state(home).made]
            _stamp(home, HOME_VERSION)
            return Upgrade(None, HOME_VERSION, made, [])
        changes = Changes()
        if version < HOME_VERSION:
            with _not_in_use(home, version):
                changes = _migrate(home, version)
        elif not _has_current_schema(home):
            with _not_in_use(home, version):
                changes = create_state(home)
        made = [*changes.made, *(restrict_access(home.root) if declared_group() is not None else [])]
        return Upgrade(version, HOME_VERSION, made, changes.left_out)


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


def _has_current_schema(home: Home) -> bool:
    """Return whether the state store has the schema of this code; a missing or empty store is not created here."""
    state = state_at(state_location(home))
    known = (str(state.location), None if state.path is None else _inode(state.path))
    if known not in _CURRENT_STORES:
        if state.path is not None and not state.path.exists():
            return True
        try:
            revision = schema_revision(state)
        except StateStoreError:
            # Each use of the store reports this, and `ml-platform repair` must be able to start.
            return True
        if revision not in (HEAD, None):
            return False
        _CURRENT_STORES.add(known)
    return True


def _inode(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None


def _has_declared_access(home: Home) -> bool:
    group = declared_group()
    return group is None or has_group_access(home.root, group)


def _migrate(home: Home, version: int) -> Changes:
    changes = Changes()
    for start in range(version, HOME_VERSION):
        own = Changes()
        for step in MIGRATIONS[start]:
            own += step(home)
            # A killed migration has reported its finished steps.
            _report(home, version, own)
        _stamp(home, start + 1)
        changes += own
    return changes


def _report(home: Home, version: int, changes: Changes) -> None:
    """Add ``changes`` to the report of the migration in the home."""
    path = home.upgrade(version, HOME_VERSION) / REPORT_FILE
    earlier = json.loads(path.read_text()) if path.exists() else {"made": [], "left_out": []}
    added = {"made": changes.made, "left_out": changes.left_out}
    report = {name: list(dict.fromkeys([*earlier[name], *texts])) for name, texts in added.items()}
    if report != earlier:
        write_json(path, report)


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


def _rename_desired_states(home: Home) -> Changes:
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
        return Changes()
    return Changes([f"renamed {OLD_DESIRED_STATE_FILE} to {DESIRED_STATE_FILE} for {', '.join(renamed)}"])


def _rename_dead_letters(home: Home) -> Changes:
    """Move the entries of ``records/outbox/refused`` to the folder of the dead letters."""
    from ml_platform.registry.outbox import DEAD_LETTER_FOLDER

    old, target = home.records / "outbox" / "refused", home.records / "outbox" / DEAD_LETTER_FOLDER
    if not old.is_dir() or old == target:
        return Changes()
    target.mkdir(exist_ok=True)
    entries = sorted(old.iterdir())
    for entry in entries:
        entry.replace(target / entry.name)
    old.rmdir()
    return Changes([f"moved {len(entries)} entries of the outbox from {old.name} to {target.name}"])


MIGRATIONS: Mapping[int, Sequence[Callable[[Home], Changes]]] = {
    1: (_rename_desired_states, _rename_dead_letters),
    2: (
        make_private,
        save_database,
        create_state,
        import_lake,
        import_decisions,
        import_predictions,
        relocate_artifacts,
    ),
}
"""The migration steps from each version to the next, in order. Each may run again."""
