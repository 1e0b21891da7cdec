"""The code of modules as it was read once, kept beside the files that Python compiles.

Each process that loads the definitions needs the code of hundreds of modules, and to parse them takes most of the time.
As with compiled files, a kept one counts while the time and the size of its source have not changed, and none is
written where Python may not keep what it compiles. A kept file that cannot be used is read from the source again.
"""

import hashlib
import importlib.util
import os
import pickle
import stat
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from ml_platform.data import module_code
from ml_platform.data.module_code import ModuleCode, parse_module
from ml_platform.data.project_modules import is_package

SUFFIX = ".code"
"""Suffix of a kept file, in place of `.pyc`."""

_RACE_NANOSECONDS = 100_000_000
"""File systems note times in steps. A file that changed this recently may change again under the same time."""
_DIGEST_LENGTH = hashlib.sha256().digest_size


def read_module(name: str, file: Path) -> ModuleCode:
    """Return the code of the module ``name`` in ``file``, parsed once until the file changes.

    A folder, which is a package without ``__init__.py``, has no code. Raises SyntaxError when the file is not Python.
    """
    status = file.stat()
    is_folder = stat.S_ISDIR(status.st_mode)
    key = (0, 0) if is_folder else (status.st_mtime_ns, status.st_size)
    cached = _cache.get(file)
    if cached is not None and cached[:2] == (name, key):
        return cached[2]
    read_at = time.time_ns()
    kept_file = None if is_folder else _kept_file(file)
    code = None if kept_file is None else _kept(kept_file, name, key)
    if code is None:
        code = parse_module(name, b"" if is_folder else file.read_bytes(), package=is_package(file))
        if kept_file is not None and status.st_mtime_ns < read_at - _RACE_NANOSECONDS:
            _keep(kept_file, name, key, code)
    if is_folder or status.st_mtime_ns < read_at - _RACE_NANOSECONDS:
        _cache[file] = (name, key, code)
    return code


_cache: dict[Path, tuple[str, tuple[int, int], ModuleCode]] = {}


def _kept_file(file: Path) -> Path:
    return Path(importlib.util.cache_from_source(str(file))).with_suffix(SUFFIX)


def _kept(kept_file: Path, name: str, key: tuple[int, int]) -> ModuleCode | None:
    """Return the kept code, or None if there is none of this source, this module and this release of the platform."""
    try:
        content = kept_file.read_bytes()
    except OSError:
        return None
    expected, data = content[:_DIGEST_LENGTH], content[_DIGEST_LENGTH:]
    if hashlib.sha256(_header(name, key) + data).digest() != expected:
        return None
    # The digest matches, so the data are whole. As with `.pyc` files, only the owner of the code can write here.
    code: ModuleCode = pickle.loads(data)
    return code


def _keep(kept_file: Path, name: str, key: tuple[int, int], code: ModuleCode) -> None:
    if sys.dont_write_bytecode:
        return
    data = pickle.dumps(code, protocol=pickle.HIGHEST_PROTOCOL)
    staged = kept_file.with_name(f"{kept_file.name}.{os.getpid()}")
    # A folder that cannot be written costs time, not a result, as with compiled files.
    with suppress(OSError):
        kept_file.parent.mkdir(exist_ok=True)
        staged.write_bytes(hashlib.sha256(_header(name, key) + data).digest() + data)
        staged.replace(kept_file)


def _header(name: str, key: tuple[int, int]) -> bytes:
    return f"{_format()} {name} {key[0]} {key[1]} ".encode()


@cache
def _format() -> str:
    """Return the digest of the code that parses modules, so that a changed parser uses nothing of the one before."""
    source = Path(module_code.__file__).read_bytes()
    return hashlib.sha256(source).hexdigest()
