"""Leftovers: content of a home that is no longer needed, each with the action that removes it.

A finder yields leftovers and changes nothing, so a dry run shows exactly what the cleaning removes.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from ml_platform.data.scratch import scratch_folder

EXAMPLES_SHOWN = 3


@dataclass(frozen=True)
class Leftover:
    """Items of one kind that one action removes together.

    ``size_bytes`` is the space that the action frees; ``oldest`` is None where no time is known. ``remove`` returns
    False when the items are in use again and stay.
    """

    kind: str
    names: Sequence[str]
    size_bytes: int
    oldest: datetime | None
    remove: Callable[[], bool | None]


@dataclass(frozen=True)
class LeftoverSummary:
    """The leftovers of one kind: their number, their size in bytes, the oldest time, and a few names."""

    kind: str
    items: int
    size_bytes: int
    oldest: datetime | None
    examples: tuple[str, ...]

    def plus(self, leftover: Leftover) -> "LeftoverSummary":
        """Return the summary with ``leftover`` added."""
        times = [time for time in (self.oldest, leftover.oldest) if time is not None]
        return LeftoverSummary(
            self.kind,
            self.items + len(leftover.names),
            self.size_bytes + leftover.size_bytes,
            min(times, default=None),
            (*self.examples, *leftover.names)[:EXAMPLES_SHOWN],
        )


def before(now: datetime, days: float | None) -> datetime | None:
    """Return the instant ``days`` before ``now``, or None if content is kept for ever."""
    return None if days is None else now - timedelta(days=days)


def instant_text(time: datetime) -> str:
    """Return ``time`` in the form of the state store: ISO 8601 in UTC with microseconds."""
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def old_files(kind: str, folder: Path, changed_before: datetime | None, pattern: str = "*") -> Iterator[Leftover]:
    """Yield the files directly in ``folder`` that match ``pattern`` and did not change since the given time."""
    if changed_before is None or not folder.is_dir():
        return
    for path in sorted(folder.glob(pattern)):
        if path.name.startswith(".") or not path.is_file() or path.is_symlink():
            continue
        status = path.stat()
        changed = datetime.fromtimestamp(status.st_mtime, UTC)
        if changed < changed_before:
            yield Leftover(kind, [path.name], status.st_size, changed, _file_removal(path, status.st_mtime_ns))


def old_folders(
    kind: str, folder: Path, changed_before: datetime | None, *, is_kept: Callable[[Path], bool] = lambda _: False
) -> Iterator[Leftover]:
    """Yield the folders directly in ``folder`` in which no file changed since the given time."""
    if changed_before is None or not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_dir() or path.is_symlink() or is_kept(path):
            continue
        size, changed = folder_size(path)
        if changed < changed_before:
            name = f"{path.parent.name}/{path.name}"
            yield Leftover(kind, [name], size, changed, partial(remove_folder, path))


def folder_size(folder: Path) -> tuple[int, datetime]:
    """Return the size of all files in ``folder`` in bytes, and the time of the last change of any of them."""
    statuses = [path.stat() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    changed = max((status.st_mtime for status in statuses), default=folder.stat().st_mtime)
    return sum(status.st_size for status in statuses), datetime.fromtimestamp(changed, UTC)


def remove_folder(folder: Path) -> None:
    """Remove ``folder``, if it exists; a removal that is killed leaves no half folder under this name."""
    if not folder.exists():
        return
    # After a kill, the sweep of temporary folders removes the rest.
    with scratch_folder("removed", folder.parent) as removed:
        folder.replace(removed / folder.name)
        shutil.rmtree(removed / folder.name)


def _file_removal(path: Path, modified_ns: int) -> Callable[[], bool]:
    def remove() -> bool:
        # A file that changed since it was found is in use again.
        unchanged = path.exists() and path.stat().st_mtime_ns == modified_ns
        if unchanged:
            path.unlink()
        return unchanged

    return remove
