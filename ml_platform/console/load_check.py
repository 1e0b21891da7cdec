"""The domains that do not load, without loading all of them again while no file has changed."""

import json
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import bento
import ml_platform
import resources
from ml_platform.data.atomic import write_text
from ml_platform.data.canonical import value_digest
from resources.home import Home

if TYPE_CHECKING:
    from ml_platform.components.project import Project

LOADED = frozenset((".py", ".yaml", ".lock", ".txt", ".json"))
"""Suffixes of the files on which it depends whether a domain loads."""

RECORD = "project_loads.json"
"""File in the run folder of a home: a digest of the files with which all domains loaded."""


def domains_not_loaded(home: Home, project: "Project") -> dict[str, str]:
    """Return the errors of each domain of ``project`` that does not load with the modules that it names, by domain.

    Loading takes seconds for hundreds of models. That all domains load is recorded with the paths, sizes and times of
    the files of the project and of the platform; only an error is looked for again each time.
    """
    from ml_platform.components.project import load_project

    root = project.tree.project_root
    record, files = home.run / RECORD, _digest_of_files(root, project.tree.defs_module_path)
    if record.is_file() and json.loads(record.read_text()) == {"files": files}:
        return {}
    found = dict(load_project(root).not_loaded)
    if not found:
        write_text(record, json.dumps({"files": files}))
    return found


def project_digest(root: Path) -> str:
    """Return a digest that changes when a file of the project at ``root``, or of the platform's code, changes."""
    return _digest_of_files(root, root / "assets")


def _digest_of_files(root: Path, declarations: Path) -> str:
    # Installing or removing a library changes the folder of the libraries itself.
    libraries = Path(sysconfig.get_path("purelib")).stat().st_mtime_ns
    code = [Path(next(iter(module.__path__))) for module in (ml_platform, resources, bento)]
    files = [file for folder in (declarations, *code) for file in folder.rglob("*") if file.suffix in LOADED]
    files += [*root.glob("*.lock"), *root.glob("deploy/*.txt")]
    return value_digest([sys.version, libraries, sorted(map(_identity, files))])


def _identity(file: Path) -> list[str | int]:
    status = file.stat()
    return [str(file), status.st_size, status.st_mtime_ns]
