"""Which files of the house a bento needs: the modules that its entry points import, found without running any.

Apart because a bento must carry what it imports and nothing else: no Dagster, no MLflow, no training code.
"""

import ast
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ml_platform.errors import PlatformError, listed

HOUSE = ("ml_platform", "assets", "resources", "bento")
KEPT_OUT = (
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

_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*])?==([^\s;\\]+)", re.MULTILINE)


class PackageRefused(PlatformError):  # noqa: N818
    """Raised when a bento cannot be built, or was built and does not score as training does."""


@dataclass(frozen=True)
class Sources:
    """``files``: path inside the bento → file here. ``libraries``: top-level modules imported from outside."""

    files: dict[str, Path]
    libraries: tuple[str, ...]


def sources_of(entry_points: Iterable[str]) -> Sources:
    """Return the sources that the modules ``entry_points`` need, themselves and parent packages included.

    Imports inside functions count for teams' modules and not for the platform's, where they are the doors to heavy
    libraries that serving does not go through. Raises :class:`PackageRefused` when something is reached that must
    stay out, naming the module that imports it.
    """
    files: dict[str, Path] = {}
    libraries: set[str] = set()
    waiting = [(name, "the entry points") for name in entry_points]
    seen: set[str] = set()
    while waiting:
        name, importer = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        _refuse_kept_out(name, importer)
        if name.partition(".")[0] not in HOUSE:
            libraries.add(name.partition(".")[0])
            continue
        path = _source_of(name)
        if path is None:  # a name inside a module, not a module
            continue
        inside = name.replace(".", "/")
        files[f"{inside}/__init__.py" if path.name == "__init__.py" else f"{inside}.py"] = path
        parent = name.rpartition(".")[0]
        found = _imported(path, whole=not name.startswith("ml_platform"))
        waiting += [(each, name) for each in [*found, *([parent] if parent else [])]]
    return Sources(dict(sorted(files.items())), tuple(sorted(libraries - set(sys.stdlib_module_names))))


def pins(libraries: Iterable[str], lock: Path) -> list[str]:
    """Return ``name==version`` for the distributions of ``libraries``, as ``lock`` (requirements.lock) pins them.

    Raises :class:`PackageRefused` when a library is not pinned.
    """
    pinned = {_plain(name): version for name, version in _PIN.findall(lock.read_text())}
    owners = importlib.metadata.packages_distributions()
    wanted = {_plain(owner) for library in libraries for owner in owners.get(library, [library])}
    unknown = sorted(wanted - set(pinned))
    if unknown:
        raise PackageRefused(
            "Requirements of the bento",
            expected=f"a pin in {lock} for each library",
            found=f"none for {listed(unknown)}",
            mend="Add it to pyproject.toml and run make lock.",
        )
    return [f"{name}=={pinned[name]}" for name in sorted(wanted)]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _refuse_kept_out(name: str, importer: str) -> None:
    for kept_out in KEPT_OUT:
        if name == kept_out or name.startswith(f"{kept_out}."):
            raise PackageRefused(
                "Sources of the bento",
                expected="request features and serving code only",
                found=f"{importer} imports {name}",
                mend=f"Move what the features need to a module that does not import {kept_out}.",
            )


def _source_of(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _imported(path: Path, *, whole: bool) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree)) if whole else list(_at_module_level(tree.body))
    names: list[str] = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            # `from package import module` and `from module import name` look alike: both are tried.
            inside = node.module.partition(".")[0] in HOUSE
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names if inside)]
    return names


def _at_module_level(body: Iterable[ast.stmt]) -> Iterable[ast.stmt]:
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and not _is_for_types(node):
            yield from _at_module_level([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from _at_module_level([*node.body, *node.orelse, *node.finalbody])


def _is_for_types(node: ast.If) -> bool:
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def request_modules(features: Mapping[str, object]) -> list[str]:
    """Return the modules of the request views' functions in ``features`` (`features.json`)."""
    views: list[dict[str, str]] = features["views"]  # type: ignore[assignment]
    return sorted({view["function"].partition(":")[0] for view in views if view["kind"] == "request"})
