"""Finds the code on which a function, a class or a module of the project depends, without running any code.

Digests of code (:func:`code_digest`) follow single definitions: a function counts with all functions, classes and
constants that it names, directly or through others, in any module of the project. Whole modules would be simpler, but a
module with the functions of several models would then make all of them out of date together. These rules decide in
doubtful cases, and all of them count too much rather than too little:

- A class counts as a whole, with its bases, attributes, methods, decorators and annotations.
- A name that is bound or changed in several statements (branches, ``x[…] = …``, ``x.append(…)``, ``global x``) counts
  with all of these.
- A module that is used other than by ``module.name`` counts as a whole, as does a module that calls ``globals()``.
- Statements that act on import, such as a call or a registering decorator, count for everything that imports their
  module, directly or through others. So do those of parent packages.
- A string ``'package.module:function'`` and the constant argument of ``import_module`` count like an import.

Comments, layout, docstrings and imports for type checkers only do not count. Libraries do not count either: the lock
pins them. Some dependencies cannot be seen: files that code reads by path, names that are computed at run time, classes
that are found through their base class, and objects that the caller passes in (their classes count where an annotation
names them). A view or dataset that depends on these declares its ``code_version``.

A bento carries whole modules, so :func:`imported_modules` follows modules.
"""

import builtins
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from ml_platform.data.module_code import ImportTarget, ModuleCode, Reference, Statement
from ml_platform.data.module_code_cache import read_module
from ml_platform.data.project_modules import module_file


def code_digest(entry_points: Iterable[str], leave_out: Iterable[str] = ()) -> str:
    """Return the hexadecimal SHA-256 of the code behind ``entry_points``.

    An entry point is a function or class ``package.module:name``, or a module ``package.module``. Definitions in
    ``leave_out`` (``package.module:name``) do not count, and neither does the code that only they use.
    """
    digest = hashlib.sha256()
    for name, part in sorted(code_dependencies(entry_points, leave_out).items()):
        digest.update(f"{name} {part}\n".encode())
    return digest.hexdigest()


def code_dependencies(entry_points: Iterable[str], leave_out: Iterable[str] = ()) -> dict[str, str]:
    """Return the parts of :func:`code_digest`: a digest or an import target for each definition, by its name."""
    key = (tuple(sorted(set(entry_points))), tuple(sorted(set(leave_out))))
    search = _searches.get(key)
    if search is None or not search.is_current():
        search = _searches[key] = _Search(set(key[1]))
        for entry_point in key[0]:
            search.add_entry_point(entry_point)
        search.run()
    return dict(search.parts)


def imported_modules(name: str, *, inside_functions: bool, in_strings: bool) -> list[str]:
    """Return the modules that the project's module ``name`` imports, and its parent package.

    Imports in branches count, and imports for type checkers only do not. Imports inside functions count with
    ``inside_functions``. Modules of the project in strings ``'package.module:function'`` count with ``in_strings``.
    Imported names of the project that are no modules are left out. The list is empty for a module of a library.
    """
    code = _module_code(name)
    if code is None:
        return []
    modules: set[str] = set()
    for target in code.import_targets(inside_functions=inside_functions):
        modules.add(target.module)
        submodule = f"{target.module}.{target.attribute}"
        if target.attribute is not None and module_file(submodule) is not None:
            modules.add(submodule)
    named = {function.partition(":")[0] for function in code.functions} if in_strings else set()
    parent = name.rpartition(".")[0]
    return sorted(modules | {module for module in named if module_file(module)} | ({parent} if parent else set()))


@dataclass(frozen=True)
class _Definition:
    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"


@dataclass(frozen=True)
class _Module:
    name: str


class _Search:
    """A search through definitions and modules; ``parts`` collects what it has reached."""

    def __init__(self, leave_out: set[str]) -> None:
        self.parts: dict[str, str] = {}
        self._leave_out = leave_out
        self._pending: list[tuple[str, Statement]] = []
        self._meanings: dict[tuple[str, str], list[_Definition | _Module]] = {}
        self._imported: set[str] = set()
        self._whole: set[str] = set()
        self._reached: set[_Definition] = set()
        self._code: dict[str, ModuleCode | None] = {}

    def add_entry_point(self, entry_point: str) -> None:
        module, _, name = entry_point.partition(":")
        self.parts[f"entry point {entry_point}"] = ""
        self._import(module)
        meanings = self._meanings_of(module, name) if name else []
        for meaning in meanings or [_Module(module)]:
            self._use(meaning, ())

    def run(self) -> None:
        """Follow all uses of the statements that were reached, until no new one is found."""
        while self._pending:
            module, statement = self._pending.pop()
            uses = statement.uses
            for target in uses.modules:
                for name in self._modules_of(target):
                    self._import(name)
            for reference in uses.references:
                self._follow(module, reference)
            for function in uses.functions:
                self._follow_string(function)
            if uses.all_names:
                self._use_whole(module)

    def is_current(self) -> bool:
        """Return whether each module that the search has looked at, or looked for, is still as it was read."""
        return all(
            _module_code(name) is code
            for name, code in self._code.items()
            # Names below a module that is no package are classes and functions, so its file tells.
            if code is not None or self._may_contain_modules(name.rpartition(".")[0])
        )

    def _may_contain_modules(self, name: str) -> bool:
        code = self._code.get(name)
        return code is None or code.package == name

    def _module(self, name: str) -> ModuleCode | None:
        if name not in self._code:
            self._code[name] = _module_code(name)
        return self._code[name]

    def _follow(self, module: str, reference: Reference) -> None:
        if isinstance(reference.root, ImportTarget):
            meanings = self._meanings_of_target(reference.root)
        else:
            meanings = self._meanings_of(module, reference.root)
        for meaning in meanings:
            self._use(meaning, reference.attributes)

    def _follow_string(self, function: str) -> None:
        module, _, name = function.partition(":")
        if function not in self._leave_out and self._module(module) is not None:
            for meaning in self._meanings_of(module, name):
                self._use(meaning, ())

    def _use(self, meaning: _Definition | _Module, attributes: tuple[str, ...]) -> None:
        if isinstance(meaning, _Definition):
            self._use_definition(meaning)
            return
        self._import(meaning.name)
        if self._module(meaning.name) is None:
            return
        if not attributes:
            self._use_whole(meaning.name)
            return
        found = self._meanings_of(meaning.name, attributes[0])
        for each in found:
            self._use(each, attributes[1:])
        if not found and not self._is_external(meaning.name, attributes[0]):
            self._use_whole(meaning.name)

    def _is_external(self, module: str, name: str) -> bool:
        """Return whether ``name`` of ``module`` comes from a library, or is set by Python, such as ``__name__``."""
        code = self._module(module)
        return code is None or name in code.imports or (name[:2] == "__" and name[-2:] == "__")

    def _use_definition(self, definition: _Definition) -> None:
        code = self._module(definition.module)
        if code is None or definition in self._reached or str(definition) in self._leave_out:
            return
        self._reached.add(definition)
        self._import(definition.module)
        statements = code.definitions[definition.name]
        self.parts[str(definition)] = " ".join(statement.digest for statement in statements)
        self._pending += [(definition.module, statement) for statement in statements]

    def _use_whole(self, module: str) -> None:
        """Use all definitions of ``module``, also those that it imports from other modules."""
        code = self._module(module)
        if code is None or module in self._whole:
            return
        self._whole.add(module)
        self._import(module)
        for name in (*code.definitions, *code.imports):
            for meaning in self._meanings_of(module, name):
                if isinstance(meaning, _Definition):
                    self._use_definition(meaning)
        for star in code.stars:
            self._use_whole(star)

    def _modules_of(self, target: ImportTarget) -> list[str]:
        """Return the modules of the project that an import of ``target`` may run, without their parents."""
        code = self._module(target.module)
        if code is None:
            return []
        is_module = target.attribute is not None and target.attribute not in code.definitions
        return [target.module, *([f"{target.module}.{target.attribute}"] if is_module else [])]

    def _import(self, module: str) -> None:
        """Reach the statements of ``module``, its parents and its imports that act on import."""
        waiting = [module]
        while waiting:
            name = waiting.pop()
            if name in self._imported:
                continue
            self._imported.add(name)
            code = self._module(name)
            if code is None:
                continue
            if code.effects:
                self.parts[f"{name} on import"] = " ".join(statement.digest for statement in code.effects)
                self._pending += [(name, statement) for statement in code.effects]
            for target in code.modules:
                waiting += self._modules_of(target)
            if "." in name:
                waiting.append(name.rpartition(".")[0])

    def _meanings_of_target(self, target: ImportTarget) -> list[_Definition | _Module]:
        if target.attribute is not None:
            return self._meanings_of(target.module, target.attribute)
        return [] if self._module(target.module) is None else [_Module(target.module)]

    def _meanings_of(self, module: str, name: str) -> list[_Definition | _Module]:
        """Return the definitions and modules that ``name`` may mean in ``module``; empty for one of a library."""
        key = (module, name)
        if key in self._meanings:
            return self._meanings[key]
        self._meanings[key] = []  # ends a circle of imports
        code = self._module(module)
        if code is not None:
            self._meanings[key] = self._find_meanings(code, name)
        return self._meanings[key]

    def _find_meanings(self, code: ModuleCode, name: str) -> list[_Definition | _Module]:
        found: list[_Definition | _Module] = []
        if name in code.definitions:
            found.append(_Definition(code.name, name))
        submodule = _Module(f"{code.name}.{name}")
        for target in code.imports.get(name, []):
            self._import(code.name)
            self.parts[f"{code.name}:{name} imports {target}"] = ""
            own_submodule = target == ImportTarget(code.name, name)
            found += [submodule] if own_submodule else self._meanings_of_target(target)
        if not found and name not in code.imports:
            for star in reversed(code.stars):
                found = found or self._meanings_of(star, name)
        if not found and name not in code.imports:
            if self._module(submodule.name) is not None:
                found.append(submodule)
            elif "__getattr__" in code.definitions and name[:2] != "__" and not hasattr(builtins, name):
                found.append(_Definition(code.name, "__getattr__"))
        return found


_searches: dict[tuple[tuple[str, ...], tuple[str, ...]], _Search] = {}
"""The last search by entry points and left out definitions: two hundred models share the code of their fits."""


def _module_code(name: str) -> ModuleCode | None:
    file = module_file(name)
    return None if file is None else read_module(name, file)
