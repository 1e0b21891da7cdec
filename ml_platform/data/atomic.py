"""Atomic writes of files and folders: temporary file, fsync, rename.

All packages write their state through this module, because a restart cannot repair a half-written file.
"""

import errno
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_platform.data.scratch import scratch_folder, scratch_prefix


def write_bytes(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Replace ``path`` by ``data``; after a crash, and for any reader, the file has the old content or the new.

    ``mode`` are the rights of the new file, less those that the umask denies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name lets a sweep remove what a killed process leaves.
    staged = str(path.parent / (scratch_prefix("file", hidden=True) + secrets.token_hex(8)))
    handle = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(staged).replace(path)
    except BaseException:
        Path(staged).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` (UTF-8), atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any, mode: int = 0o666) -> None:
    """Replace ``path`` by ``value`` as indented JSON with sorted keys, atomically; ``mode`` as in `write_bytes`."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, default=str) + "\n").encode(), mode)


def publish_version(staged: Path, target: Path, is_same: Callable[[Path], bool]) -> None:
    """Move the finished folder ``staged`` to ``target``, unless ``target`` has the same content already.

    For folders whose content never changes: other processes may read ``target`` now, so a folder for which ``is_same``
    is true is left in its place. Any other folder there is damaged, and is replaced as by `publish_directory`.
    """
    _sync_files(staged)
    try:
        staged.replace(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if not is_same(target):
            publish_directory(staged, target)
        return
    sync_directory(target.parent)


def publish_directory(staged: Path, target: Path) -> None:
    """Move the finished folder ``staged`` to ``target``, replacing any folder there.

    One rename cannot replace a folder, so the old folder is renamed first. For an instant ``target`` does not exist; a
    reader that hits this instant must try again.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _sync_files(staged)
    with scratch_folder("replaced", target.parent) as replaced:
        if target.exists():
            target.replace(replaced / target.name)
        staged.replace(target)
        sync_directory(target.parent)


def _sync_files(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


def sync_directory(folder: Path) -> None:
    """Return when the names in ``folder`` are on disk; a rename is durable only then."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
