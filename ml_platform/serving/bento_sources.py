"""Finds the project's modules and the pinned libraries that a bento needs, without running any code.

A bento carries only the modules that its entry points import: no Dagster, no MLflow, no training code.
"""

import ast
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ml_platform.errors import PlatformError, listed

PROJECT_PACKAGES = ("ml_platform", "assets", "resources", "bento")
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

    Imports inside functions count for a team's modules. They do not count for the platform's modules, which import
    heavy libraries there that serving never uses. Raises :class:`BentoError`, which names the importing module, when a
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
        if name.partition(".")[0] not in PROJECT_PACKAGES:
            libraries.add(name.partition(".")[0])
            continue
        path = _source_file(name)
        if path is None:  # an attribute of a module
            continue
        relative_path = name.replace(".", "/")
        files[f"{relative_path}/__init__.py" if path.name == "__init__.py" else f"{relative_path}.py"] = path
        parent = name.rpartition(".")[0]
        imported = _imported_names(path, include_functions=not name.startswith("ml_platform"))
        pending += [(each, name) for each in [*imported, *([parent] if parent else [])]]
    return BentoSources(dict(sorted(files.items())), tuple(sorted(libraries - set(sys.stdlib_module_names))))


def pinned_requirements(libraries: Iterable[str], lock: Path) -> list[str]:
    """Return ``name==version`` for the distributions of ``libraries``, as ``lock`` (requirements.lock) pins them.

    Only pins whose environment marker holds for the running interpreter count. ``libraries`` are names of top-level
    modules. Raises :class:`BentoError` when a library has no pin.
    """
    pins = _applicable_pins(lock)
    owners = importlib.metadata.packages_distributions()
    distributions = {canonicalize_name(owner) for library in libraries for owner in owners.get(library, [library])}
    unpinned = sorted(distributions - set(pins))
    if unpinned:
        raise BentoError(
            "Requirements of the bento",
            expected=f"a pin in {lock} for each library",
            found=f"none for {listed(unpinned)}",
            fix="Add the library to pyproject.toml and run make lock.",
        )
    return [f"{name}=={pins[name]}" for name in sorted(distributions)]


def request_view_modules(features: Mapping[str, object]) -> list[str]:
    """Return the modules of the request views' functions in ``features`` (`features.json`)."""
    views: list[dict[str, str]] = features["views"]  # type: ignore[assignment]
    return sorted({view["function"].partition(":")[0] for view in views if view["kind"] == "request"})


def _applicable_pins(lock: Path) -> dict[str, str]:
    """Return the pinned version of each distribution whose environment marker holds for the running interpreter."""
    pins: dict[str, str] = {}
    for line in lock.read_text().splitlines():
        if not line or line[0] in "#- \t":  # a comment, an option, or a hash of the pin above
            continue
        requirement = Requirement(line.partition("--hash=")[0].rstrip(" \\"))
        versions = [each.version for each in requirement.specifier if each.operator == "=="]
        if versions and (requirement.marker is None or requirement.marker.evaluate()):
            pins[canonicalize_name(requirement.name)] = versions[0]
    return pins


def _reject_forbidden_import(name: str, importer: str) -> None:
    for forbidden in FORBIDDEN_IMPORTS:
        if name == forbidden or name.startswith(f"{forbidden}."):
            raise BentoError(
                "Sources of the bento",
                expected="request features and serving code only",
                found=f"{importer} imports {name}",
                fix=f"Move the code that the features need to a module that does not import {forbidden}.",
            )


def _source_file(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _imported_names(path: Path, *, include_functions: bool) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree)) if include_functions else list(_module_level_imports(tree.body))
    names: list[str] = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            # An imported name can be a module or an attribute; `_source_file` returns None for an attribute.
            is_ours = node.module.partition(".")[0] in PROJECT_PACKAGES
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names if is_ours)]
    return names


def _module_level_imports(body: Iterable[ast.stmt]) -> Iterable[ast.stmt]:
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and not _is_type_checking_block(node):
            yield from _module_level_imports([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from _module_level_imports([*node.body, *node.orelse, *node.finalbody])


def _is_type_checking_block(node: ast.If) -> bool:
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
