"""Temporary folders and files whose names say which process uses them, so that a sweep can remove abandoned ones.

A killed process removes nothing. The sweep removes only what belongs to processes that ran on this machine and are
gone.
"""

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ml_platform.state.process_identity import current_process, has_exited

PREFIX = "ml-platform"
SEPARATOR = ","
"""Separates the parts of a name: the prefix, the purpose, the parts of the process's name, and a random part."""


@contextmanager
def scratch_folder(purpose: str, parent: Path | None = None) -> Iterator[Path]:
    """Yield a new empty folder, private to its owner, and remove it at the end of the body.

    ``purpose`` is one word for its name. The folder is in ``parent``, for content that is renamed to its final place
    there, or in the system's folder for temporary files. In ``parent`` its name starts with a dot.
    """
    prefix = scratch_prefix(purpose, hidden=parent is not None)
    with tempfile.TemporaryDirectory(dir=parent, prefix=prefix) as folder:
        yield Path(folder)


def scratch_prefix(purpose: str, *, hidden: bool = False) -> str:
    """Return the start of the name of a temporary file or folder of this process."""
    parts = [PREFIX, purpose.replace(SEPARATOR, "-"), *current_process().split("/"), ""]
    return ("." if hidden else "") + SEPARATOR.join(parts)


def sweep_temporary_folder() -> list[Path]:
    """Remove what killed processes left in the system's folder for temporary files, and return the paths.

    Nothing of another user, of another machine or of a running process is removed.
    """
    folder = Path(tempfile.gettempdir())
    return [path for path in folder.glob(f"{PREFIX}{SEPARATOR}*") if _remove_if_abandoned(path)]


def sweep(root: Path, excluded: Collection[Path] = ()) -> list[Path]:
    """Remove what killed processes left in ``root`` and its folders, except the ``excluded``; return the paths."""
    removed = []
    for folder, names, files in os.walk(root):
        found = [name for name in (*names, *files) if name.startswith(f".{PREFIX}{SEPARATOR}")]
        removed += [path for name in found if _remove_if_abandoned(path := Path(folder, name))]
        names[:] = [name for name in names if name not in found and Path(folder, name) not in excluded]
    return removed


def _remove_if_abandoned(path: Path) -> bool:
    process = path.name.split(SEPARATOR)[2:-1]
    try:
        if path.lstat().st_uid != os.getuid() or not has_exited("/".join(process)):
            return False
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        return False  # another sweep removes it
    return True
