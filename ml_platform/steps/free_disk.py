"""Free space of the disk of a home, and the limits below which it is too little."""

import shutil
from pathlib import Path

GIB = 2**30
FAILED_BYTES, WARNING_BYTES = 1 * GIB, 10 * GIB


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk of ``folder``, or of its first parent that exists."""
    return shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists())).free
