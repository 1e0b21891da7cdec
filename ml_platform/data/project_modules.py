"""Finds the modules of the project by name, without importing them.

A module belongs to the project when neither Python itself nor an installed library provides its file. The lock pins
Python libraries, so their code needs no digest, and a bento installs them instead of carrying them.
"""

import importlib.util
import os
import site
import sys
import sysconfig
from functools import cache
from pathlib import Path


def module_file(name: str) -> Path | None:
    """Return the file of the project's module ``name``, or None for a library, a built-in module and an unknown name.

    A package without ``__init__.py`` has no code; its folder is returned.

    >>> module_file("ml_platform.data.project_modules").name
    'project_modules.py'
    >>> module_file("json") is None
    True
    """
    key = (name, tuple(sys.path))
    file = _files.get(key)
    # A definition names hundreds of modules; `os.path` takes a third of the time of `pathlib`.
    if file is None or not os.path.exists(file):  # noqa: PTH110
        top, *parts = name.split(".")
        places = _top_level_places(top)
        for count, part in enumerate(parts, start=1):
            places = _places_in(places, ".".join([top, *parts[: count - 1]]), part)
        if not places:
            return None
        file = _files[key] = Path(places[0])
    return file


_files: dict[tuple[str, tuple[str, ...]], Path] = {}


def is_package(file: Path) -> bool:
    """Return whether ``file``, from :func:`module_file`, is a package, which may contain modules."""
    return file.name == "__init__.py" or file.is_dir()


@cache
def is_project_file(path: Path) -> bool:
    """Return whether ``path`` is code of the project: outside the folders of Python and of its installed libraries."""
    return not any(path.is_relative_to(folder) for folder in _library_folders())


def absolute_name(package: str, level: int, name: str | None) -> str | None:
    """Return the module that ``from <level dots><name> import …`` names in ``package``; None beyond the top package.

    >>> absolute_name("shop.views", 2, "windows")
    'shop.windows'
    """
    if level == 0:
        return name
    parts = package.split(".")
    if level > len(parts):
        return None
    return ".".join([*parts[: len(parts) - level + 1], *([name] if name else [])])


def _top_level_places(top: str) -> list[str]:
    key = (top, tuple(sys.path))
    if top in sys.stdlib_module_names or key in _libraries:
        return []
    try:
        # A top-level name has no parent, so nothing is imported here.
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return []
    found = [spec.origin] if spec.origin else list(spec.submodule_search_locations or [])
    is_code = spec.origin is None or spec.origin.endswith(".py")
    places = [place for place in found if is_code and is_project_file(Path(place))]
    if not places:
        _libraries.add(key)
    return places


_libraries: set[tuple[str, tuple[str, ...]]] = set()


def _places_in(places: list[str], package: str, part: str) -> list[str]:
    folders = [place.removesuffix("/__init__.py") for place in places]
    if places and package in sys.modules:  # a loaded package may have been extended by further folders
        folders += [folder for folder in getattr(sys.modules[package], "__path__", []) if folder not in folders]
    for folder in folders:
        for file in (f"{folder}/{part}/__init__.py", f"{folder}/{part}.py"):
            if os.path.isfile(file):  # noqa: PTH113
                return [file]
    return [f"{folder}/{part}" for folder in folders if os.path.isdir(f"{folder}/{part}")]  # noqa: PTH112


@cache
def _library_folders() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    folders = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return tuple(Path(folder) for folder in (*folders, *site.getsitepackages(), site.getusersitepackages()))
