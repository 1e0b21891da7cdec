"""Who may read the files of a home: the owner only, or also the members of the group that ``ML_PLATFORM_GROUP`` names.

The umask of every platform process keeps new files private. The home's folder has the group and the set-group-ID bit,
so that new files in it belong to the group. Members of the group may read, and never change.
"""

import grp
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ml_platform.errors import PlatformError

GROUP_VARIABLE = "ML_PLATFORM_GROUP"
"""Environment variable with the name or number of the group whose members may read the home."""

OWNER_ONLY = frozenset({"signing_key.pem"})
"""Names of files that no group may read: who reads the private key could sign in the name of the platform."""

PRIVATE_UMASK, GROUP_UMASK = 0o077, 0o027
PRIVATE_FOLDER, GROUP_FOLDER = 0o700, 0o2750
_OTHERS = 0o077


class GroupError(PlatformError):
    """Raised when the declared group does not exist, or this user may not give it the home."""


def apply_umask() -> None:
    """Make the new files of this process and of its children private; a stricter umask stays."""
    before = os.umask(PRIVATE_UMASK)
    os.umask(before | (GROUP_UMASK if os.environ.get(GROUP_VARIABLE) else PRIVATE_UMASK))


def declared_group() -> int | None:
    """Return the id of the group in ``ML_PLATFORM_GROUP``, or None; raises :class:`GroupError` for an unknown one."""
    name = os.environ.get(GROUP_VARIABLE)
    if not name:
        return None
    try:
        return grp.getgrgid(int(name)).gr_gid if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise GroupError(
            GROUP_VARIABLE, expected="a group of this machine", found=f"'{name}'", fix="Correct or unset the variable."
        ) from error


def restrict_access(root: Path) -> list[str]:
    """Make the folder ``root`` private, or readable for the declared group; return one text per change.

    Without a declared group the mode of ``root`` decides, because nobody else can enter it. With one, every file and
    folder below gets the group too. A home that has the declared access already is not walked.
    """
    group, status = declared_group(), root.stat()
    if group is None:
        if status.st_mode & _OTHERS == 0:
            return []
        root.chmod(PRIVATE_FOLDER)
        return ["made the home private to its owner"]
    if has_group_access(root, group):
        return []
    try:
        for path in _below(root):
            _give_to_group(path, group)
        # The root is last: a killed change is made again.
        _give_to_group(root, group)
    except PermissionError as error:
        raise GroupError(
            f"Platform home {root}",
            expected=f"a group that this user may give it to, as {GROUP_VARIABLE} declares",
            found=str(error.strerror),
            fix="Add the user to the group, or declare another group.",
        ) from error
    return [f"made the home readable for the group {grp.getgrgid(group).gr_name}"]


def has_group_access(root: Path, group: int) -> bool:
    """Return whether ``root`` belongs to ``group``, with exactly the access of a home for a group."""
    status = root.stat()
    return status.st_gid == group and stat.S_IMODE(status.st_mode) == GROUP_FOLDER


def _below(root: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(root):
        yield from (Path(folder, name) for name in (*names, *files))


def _give_to_group(path: Path, group: int) -> None:
    if path.name in OWNER_ONLY:
        return
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            return
        if status.st_gid != group:
            os.chown(path, -1, group)
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISDIR(status.st_mode):
            path.chmod(mode & ~0o027 | GROUP_FOLDER)
        elif stat.S_ISREG(status.st_mode):
            path.chmod(mode & ~0o037 | 0o040)
    except FileNotFoundError:
        return  # a running process removed it
