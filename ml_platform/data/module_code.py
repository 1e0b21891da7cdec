"""The code of one module, split into the definitions that other code can depend on.

A module is read as a set of names, each with the statements that bind or change it, and of statements that act when the
module is imported. Comments, layout, docstrings (also those below constants and attributes), blocks for type checkers
only and the main block are left out, because they do not change what an import or a call does.
"""

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ml_platform.data.project_modules import absolute_name

PURE_DECORATOR_MODULES = ("abc", "contextlib", "dataclasses", "enum", "functools", "typing")
"""Modules whose decorators return a changed definition and do nothing else. Other decorators may register it."""

IMPORT_FUNCTIONS = ("import_module", "__import__")

_FUNCTION_REFERENCE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+:[A-Za-z_]\w*")


@dataclass(frozen=True)
class ImportTarget:
    """An imported name: ``attribute`` of ``module``, or the module itself when ``attribute`` is None."""

    module: str
    attribute: str | None = None

    def __str__(self) -> str:
        return self.module if self.attribute is None else f"{self.module}:{self.attribute}"


@dataclass(frozen=True)
class Reference:
    """A dotted name in code: ``root`` is a name of the module, or a name that the function itself imports."""

    root: str | ImportTarget
    attributes: tuple[str, ...] = ()


@dataclass
class Uses:
    """Names on which a statement depends.

    ``functions`` are strings of the form 'package.module:function'. ``modules`` are imported when the statement runs.
    ``all_names`` is true for code that reads the module's names from ``globals()``.
    """

    references: set[Reference] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    modules: set[ImportTarget] = field(default_factory=set)
    all_names: bool = False


@dataclass(eq=False)
class Statement:
    """A top-level statement of a module: the digest of its syntax tree, and the names on which it depends."""

    digest: str
    uses: Uses


@dataclass(eq=False)
class ModuleCode:
    """The code of the module ``name``, without comments and docstrings.

    ``definitions`` maps each name to the statements that bind or change it. ``imports`` maps each imported name to its
    targets. ``stars`` are the modules of star imports. ``effects`` are the statements that act on import in another
    way, and ``modules`` are imported with the module. ``outer_imports`` are all modules and names that are imported
    outside functions and classes, ``inner_imports`` those inside. ``functions`` are all strings of the form
    'package.module:function'.
    """

    name: str
    package: str
    definitions: dict[str, list[Statement]] = field(default_factory=dict)
    imports: dict[str, list[ImportTarget]] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    effects: list[Statement] = field(default_factory=list)
    modules: set[ImportTarget] = field(default_factory=set)
    outer_imports: set[ImportTarget] = field(default_factory=set)
    inner_imports: set[ImportTarget] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)

    def import_targets(self, *, inside_functions: bool) -> set[ImportTarget]:
        """Return all imported modules and names; those inside functions only if ``inside_functions``."""
        return self.outer_imports | self.inner_imports if inside_functions else self.outer_imports


def parse_module(name: str, source: bytes, *, package: bool) -> ModuleCode:
    """Return the code of the module ``name`` with the text ``source``; ``package`` tells whether it is a package.

    Raises SyntaxError when ``source`` is not Python.
    """
    tree = _parsed(source, without_main_block=True)
    code = ModuleCode(name, package=name if package else name.rpartition(".")[0])
    has_global_statements = b"global " in source  # a search through every function takes long
    for node in tree.body:
        _add(code, node, has_global_statements)
    code.outer_imports = _import_targets(_statements(tree.body), code.package)
    code.inner_imports = _import_targets(ast.walk(tree), code.package) - code.outer_imports
    code.functions = {node.value for node in ast.walk(tree) if _is_function_reference(node)}  # type: ignore[attr-defined]
    return code


def _import_targets(nodes: Iterable[ast.AST], package: str) -> set[ImportTarget]:
    return {
        target
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for _, _, target in _imported(node, package)
    }


def _add(code: ModuleCode, node: ast.stmt, has_global_statements: bool) -> None:
    bound, targets = _bound_names([node], code.package)
    for name, imported in targets.items():
        code.imports.setdefault(name, []).extend(imported)
    for each in _statements([node]):
        if isinstance(each, ast.Import | ast.ImportFrom):
            for name, module, target in _imported(each, code.package):
                code.modules.add(module)
                if name == "*":
                    code.stars.append(target.module)
    if isinstance(node, ast.Import | ast.ImportFrom):
        return
    collector = _UseCollector(code.package)
    collector.visit(node)
    statement = Statement(hashlib.sha256(ast.dump(node).encode()).hexdigest(), collector.uses)
    changed = {name for each in _statements([node]) for name in _changed_names(each)}
    if has_global_statements:
        changed |= {name for each in ast.walk(node) if isinstance(each, ast.Global) for name in each.names}
    for name in bound | changed:
        code.definitions.setdefault(name, []).append(statement)
    if any(_acts_on_import(each, code.imports) for each in _statements([node])):
        code.effects.append(statement)


def _acts_on_import(node: ast.stmt, imports: Mapping[str, list[ImportTarget]]) -> bool:
    """Return whether ``node`` does more on import than to bind or change names of its own module."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return not all(_is_pure(decorator, imports) for decorator in node.decorator_list)
    if isinstance(node, ast.Expr | ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Delete):
        roots = [_root(target) for target in _changed_targets(node)]
        changes_others = any(root is None or root in imports for root in roots)
        return changes_others or (isinstance(node, ast.Expr) and not roots)
    return isinstance(node, ast.Assert | ast.Raise)


def _is_pure(decorator: ast.expr, imports: Mapping[str, list[ImportTarget]]) -> bool:
    root = _root(decorator.func if isinstance(decorator, ast.Call) else decorator)
    targets = imports.get(root or "", [])
    return bool(targets) and all(target.module in PURE_DECORATOR_MODULES for target in targets)


def syntax_digest(source: bytes) -> str:
    """Return the digest of the whole module ``source``; comments, layout, docstrings and type imports do not count."""
    return hashlib.sha256(ast.dump(_parsed(source)).encode()).hexdigest()


def _parsed(source: bytes, *, without_main_block: bool = False) -> ast.Module:
    tree = ast.parse(source)
    tree.body = _without_text(tree.body, without_main_block=without_main_block)
    return tree


def _without_text(body: list[ast.stmt], *, without_main_block: bool = False) -> list[ast.stmt]:
    """Return ``body`` without strings that are statements, ``pass``, and blocks that do not run."""
    kept: list[ast.stmt] = []
    for node in body:
        if isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            continue
        if isinstance(node, ast.If):
            branch = _branch_that_runs(node, without_main_block=without_main_block)
            if branch is not None:
                kept += _without_text(branch, without_main_block=without_main_block)
                continue
        for name in ("body", "orelse", "finalbody"):
            inner = getattr(node, name, None)
            if inner:
                setattr(node, name, _without_text(inner))
        for part in (*getattr(node, "handlers", []), *getattr(node, "cases", [])):
            part.body = _without_text(part.body)
        kept.append(node)
    return kept


def _branch_that_runs(node: ast.If, *, without_main_block: bool) -> list[ast.stmt] | None:
    """Return the branch of ``node`` that runs outside a type checker, or in an import; None when both may run."""
    if _is_type_checking(node.test):
        return node.orelse
    if (
        isinstance(node.test, ast.UnaryOp)
        and isinstance(node.test.op, ast.Not)
        and _is_type_checking(node.test.operand)
    ):
        return node.body
    test = node.test
    is_main_block = isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and test.left.id == "__name__"
    return node.orelse if is_main_block and without_main_block else None


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of ``body`` and of its blocks, but not those inside functions and classes."""
    for node in body:
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        for name in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(node, name, []))
        for part in (*getattr(node, "handlers", []), *getattr(node, "cases", [])):
            yield from _statements(part.body)


def _imported(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, ImportTarget, ImportTarget]]:
    """Yield the bound name ('*' for a star), the imported module (or name in it), and the target of the bound name."""
    for alias in node.names:
        if isinstance(node, ast.Import):
            module = ImportTarget(alias.name)
            yield (
                (alias.asname, module, module)
                if alias.asname
                else (
                    alias.name.partition(".")[0],
                    module,
                    ImportTarget(alias.name.partition(".")[0]),
                )
            )
            continue
        source = absolute_name(package, node.level, node.module)
        if source is None:
            continue
        target = ImportTarget(source, None if alias.name == "*" else alias.name)
        yield alias.asname or alias.name, target, target


def _bound_names(body: Iterable[ast.AST], package: str) -> tuple[set[str], dict[str, list[ImportTarget]]]:
    """Return the names that ``body`` binds in its own scope, and the targets of those that it imports."""
    names: set[str] = set()
    targets: dict[str, list[ImportTarget]] = {}
    outer: set[str] = set()
    pending: list[ast.AST] = list(body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for name, _, target in _imported(node, package):
                if name != "*":
                    names.add(name)
                    targets.setdefault(name, []).append(target)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            outer.update(node.names)
        elif isinstance(node, ast.Lambda):
            pass
        elif isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            # Only an assignment expression binds a name outside the comprehension.
            pending += [each.target for each in ast.walk(node) if isinstance(each, ast.NamedExpr)]
        else:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
                names.add(node.id)
            elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
                names.add(node.name)
            elif isinstance(node, ast.MatchMapping) and node.rest:
                names.add(node.rest)
            pending += ast.iter_child_nodes(node)
    return names - outer, targets


def _changed_targets(node: ast.stmt) -> list[ast.expr]:
    """Return what ``node`` changes in place: ``x`` in ``x.a = 1``, ``x[0] = 1``, ``x += 1`` and ``x.append(1)``."""
    if isinstance(node, ast.Expr):
        called = node.value.func if isinstance(node.value, ast.Call) else None
        return [called] if isinstance(called, ast.Attribute) else []
    if isinstance(node, ast.AugAssign):
        return [node.target]
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign | ast.Delete):
        targets = list(node.targets)
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    flat: list[ast.expr] = []
    while targets:
        target = targets.pop()
        if isinstance(target, ast.Tuple | ast.List):
            targets += target.elts
        else:
            flat.append(target.value if isinstance(target, ast.Starred) else target)
    return [target for target in flat if not isinstance(target, ast.Name)]


def _changed_names(node: ast.stmt) -> set[str]:
    return {root for target in _changed_targets(node) if (root := _root(target)) is not None}


def _root(node: ast.expr) -> str | None:
    """Return ``x`` for ``x.a.b``, ``x[0].a`` and ``x.a(1).b``; None when the expression starts with no name."""
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute | ast.Subscript | ast.Starred):
            node = node.value
        elif isinstance(node, ast.Call):
            node = node.func
        else:
            return None
    return node.id


def _is_function_reference(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and _FUNCTION_REFERENCE.fullmatch(node.value) is not None
    )


class _UseCollector(ast.NodeVisitor):
    """Collects the names on which a statement depends, with the scopes of functions and comprehensions.

    A class body opens no scope here: its names may also mean those of the module, so they count as such.
    """

    def __init__(self, package: str) -> None:
        self.package = package
        self.uses = Uses()
        self._scopes: list[dict[str, list[ImportTarget]]] = []
        self._in_class_body = False

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._visit_all([*node.decorator_list, *node.bases, *node.keywords])
        outside, self._in_class_body = self._in_class_body, True
        self._visit_all(node.body)
        self._in_class_body = outside

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._visit_all([*node.decorator_list, *([node.returns] if node.returns else [])])
        self._visit_function(node.args, node.body)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._visit_function(node.args, [node.body])

    def visit_comprehension_of(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        self.visit(node.generators[0].iter)  # evaluated outside the comprehension's scope
        targets, _ = _bound_names([generator.target for generator in node.generators], self.package)
        self._scopes.append({name: [] for name in targets})
        results = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        later = [generator.iter for generator in node.generators[1:]]
        self._visit_all([*later, *(test for generator in node.generators for test in generator.ifs), *results])
        self._scopes.pop()

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = visit_comprehension_of  # noqa: N815

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        for _, module, target in _imported(node, self.package):
            self.uses.modules.add(module)
            if self._in_class_body:
                self.uses.references.add(Reference(target))

    visit_ImportFrom = visit_Import  # noqa: N815

    def visit_Attribute(self, node: ast.Attribute) -> None:
        attributes: list[str] = []
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            attributes.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            self._add(inner.id, tuple(reversed(attributes)))
        else:
            self.visit(inner)

    def visit_Name(self, node: ast.Name) -> None:
        self._add(node.id, ())

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and _is_function_reference(node):
            self.uses.functions.add(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        first = node.args[0] if node.args else None
        if called in IMPORT_FUNCTIONS and isinstance(first, ast.Constant) and isinstance(first.value, str):
            name = first.value.lstrip(".")
            module = absolute_name(self.package, len(first.value) - len(name), name)
            if module is not None:
                self.uses.modules.add(ImportTarget(module))
                self.uses.references.add(Reference(ImportTarget(module)))
        self.uses.all_names |= called == "globals"
        self.generic_visit(node)

    def _visit_function(self, arguments: ast.arguments, body: Iterable[ast.AST]) -> None:
        parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        parameters += [each for each in (arguments.vararg, arguments.kwarg) if each is not None]
        self._visit_all([*arguments.defaults, *(each for each in arguments.kw_defaults if each is not None)])
        self._visit_all(each.annotation for each in parameters if each.annotation is not None)
        body = list(body)
        names, targets = _bound_names(body, self.package)
        self._scopes.append({each.arg: [] for each in parameters} | {name: [] for name in names} | targets)
        outside, self._in_class_body = self._in_class_body, False
        self._visit_all(body)
        self._in_class_body = outside
        self._scopes.pop()

    def _visit_all(self, nodes: Iterable[ast.AST]) -> None:
        for node in nodes:
            self.visit(node)

    def _add(self, root: str, attributes: tuple[str, ...]) -> None:
        for scope in reversed(self._scopes):
            if root in scope:
                self.uses.references.update(Reference(target, attributes) for target in scope[root])
                return
        self.uses.references.add(Reference(root, attributes))
