"""The hash of the code behind a declared function, used as code version of assets.

Dagster marks an asset stale when its code version changes. A computed hash cannot be forgotten, unlike a version that
is raised by hand.
"""

import ast
import hashlib
import importlib.util
from pathlib import Path


def source_hash(function: str) -> str:
    """Return 12 hexadecimal digits that change when the code behind ``package.module:function`` does.

    The hash covers the function's module and all modules of the same top-level package that it imports, at any depth.
    Comments, docstrings and layout do not count, because the hash covers syntax trees and not text.
    """
    root_module = function.partition(":")[0]
    digest = hashlib.sha256(function.encode())
    for name, tree in sorted(_syntax_trees(root_module, root_module.partition(".")[0]).items()):
        digest.update(name.encode())
        digest.update(ast.dump(_without_docstrings(tree)).encode())
    return digest.hexdigest()[:12]


def _syntax_trees(root_module: str, package: str) -> dict[str, ast.Module]:
    found: dict[str, ast.Module] = {}
    pending = [root_module]
    while pending:
        name = pending.pop()
        spec = importlib.util.find_spec(name) if name not in found else None
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            continue
        found[name] = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        pending += [module for module in _imported_modules(found[name]) if module.partition(".")[0] == package]
    return found


def _imported_modules(tree: ast.Module) -> list[str]:
    modules: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            # `from package import module` and `from module import name` look alike: try both.
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in modules if _is_module(name)]


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return tree
