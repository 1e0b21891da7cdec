"""Finds the project's modules and the pinned libraries that a bento needs, without running any code.

A bento carries only the modules that its entry points import: no Dagster, no MLflow, no training code.
"""

import importlib.metadata
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from packaging.utils import canonicalize_name

from ml_platform.data.code_dependencies import imported_modules
from ml_platform.data.project_modules import is_package, module_file
from ml_platform.errors import PlatformError, listed
from ml_platform.features.view import TRANSFORMERS
from ml_platform.serving.bento_locks import BentoLocks

PLATFORM_PACKAGES = ("ml_platform", "bento")
"""Packages in which strings name functions of which a bento needs one only, such as the scorers."""

FORBIDDEN_IMPORTS = (
    "dagster",
    "mlflow",
    "evidently",
    "great_expectations",
    "ray",
    "optuna",
    "dvc",
    "resources",
    "ml_platform.training",
    "ml_platform.evaluation",
    "ml_platform.registry",
    "ml_platform.monitoring",
    "ml_platform.components",
)


class BentoError(PlatformError):
    """Raised when a bento cannot be built, when its verification fails, or when it is missing or changed."""


@dataclass(frozen=True)
class BentoSources:
    """``files`` maps paths inside the bento to files here; ``libraries`` are top-level modules of other projects."""

    files: dict[str, Path]
    libraries: tuple[str, ...]


def find_sources(entry_points: Iterable[str]) -> BentoSources:
    """Return the modules ``entry_points``, their parent packages, and all modules that these import.

    Imports inside functions, and functions that a string ``'package.module:function'`` names, count for a team's
    modules. In ``ml_platform`` neither counts, because functions there import heavy libraries that serving never uses.
    In ``bento`` the imports count.
    Imports for type checkers only never count. Raises :class:`BentoError`, which names the importing module, when a
    forbidden module is imported.
    """
    files: dict[str, Path] = {}
    libraries: set[str] = set()
    pending = [(name, "the entry points") for name in entry_points]
    seen: set[str] = set()
    while pending:
        name, importer = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        _reject_forbidden_import(name, importer)
        path = module_file(name)
        if path is None:
            libraries.add(name.partition(".")[0])
            continue
        relative_path = name.replace(".", "/")
        if path.is_file():  # a folder without __init__.py has no code
            files[f"{relative_path}/__init__.py" if is_package(path) else f"{relative_path}.py"] = path
        package = name.partition(".")[0]
        imported = imported_modules(
            name, inside_functions=package != "ml_platform", in_strings=package not in PLATFORM_PACKAGES
        )
        pending += [(each, name) for each in imported]
    return BentoSources(dict(sorted(files.items())), tuple(sorted(libraries - set(sys.stdlib_module_names))))


def pinned_requirements(libraries: Iterable[str], locks: BentoLocks) -> list[str]:
    """Return ``name==version`` for the distributions of ``libraries``, and for all that the lock of the domain pins.

    Only pins whose environment marker holds for the running interpreter count. ``libraries`` are names of top-level
    modules. Raises :class:`BentoError` when a library has no pin.
    """
    pins = locks.pins()
    owners = _distributions_by_module()
    distributions = {canonicalize_name(owner) for library in libraries for owner in owners.get(library, [library])}
    unpinned = sorted(distributions - set(pins))
    if unpinned:
        raise BentoError(
            "Requirements of the bento",
            expected=f"a pin in {locks.platform}, or in requirements.lock of the domain, for each library",
            found=f"none for {listed(unpinned)}",
            fix="Add the library to pyproject.toml and run make lock, or add it to the lock of the domain.",
        )
    return [f"{name}=={pins[name]}" for name in sorted(distributions | set(locks.domain_pins()))]


def require_pins(libraries: Iterable[str], locks: BentoLocks) -> None:
    """Raise :class:`BentoError` as :func:`pinned_requirements` does, without its cost at every load of definitions.

    A pinned distribution of a module's own name counts as its owner, so the installed distributions are read only for
    other modules. The build of a bento resolves all owners.
    """
    pins = locks.pins()
    others = [library for library in libraries if canonicalize_name(library) not in pins]
    if others:
        pinned_requirements(others, locks)


@cache
def _distributions_by_module() -> Mapping[str, list[str]]:
    # Reading the files of all installed distributions takes a second.
    return importlib.metadata.packages_distributions()


def request_view_modules(features: Mapping[str, object]) -> list[str]:
    """Return the modules of the request views' functions and transformers in ``features`` (`features.json`)."""
    views: list[dict[str, str]] = features["views"]  # type: ignore[assignment]
    code = [
        TRANSFORMERS.get(view["fitted"], view["fitted"]) if view.get("fitted") else view["function"]
        for view in views
        if view["kind"] == "request"
    ]
    return sorted({reference.partition(":")[0] for reference in code})


def _reject_forbidden_import(name: str, importer: str) -> None:
    for forbidden in FORBIDDEN_IMPORTS:
        if name == forbidden or name.startswith(f"{forbidden}."):
            raise BentoError(
                "Sources of the bento",
                expected="request features and serving code only",
                found=f"{importer} imports {name}",
                fix=f"Move the code that the features need to a module that does not import {forbidden}.",
            )
