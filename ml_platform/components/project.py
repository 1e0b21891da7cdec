"""Loads the domains of the project one by one, and leaves out those that do not load.

A domain is a folder or file directly below `assets/`. An error in one domain must not stop the domains of other teams,
so each is loaded by itself, and Dagster sees only the domains without errors.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
from dagster.components.core.component_tree import ComponentTree
from dagster.components.core.decl import (
    ComponentDecl,
    DefsFolderDecl,
    build_filesystem_component_decl_from_context,
)
from dagster.components.core.defs_module import ComponentPath, find_defs_or_component_yaml

from ml_platform.components.declaration import Declaration
from ml_platform.components.load_errors import load_error_text
from ml_platform.components.overlay import read_overlay
from ml_platform.errors import PlatformError, listed

T = TypeVar("T", bound=dg.Component)
Failures = dict[str, list["LoadFailure"]]

VALIDATION_VARIABLE = "DAGSTER_IS_DEFS_VALIDATION_CLI"
"""Dagster sets this variable to 1 in `dg check defs` and `dagster definitions validate`."""


class DomainNotLoadedError(PlatformError):
    """Raised where all domains are necessary and at least one does not load."""


class NameClashError(PlatformError):
    """Raised for two declarations of the same kind with one name."""


@dataclass(frozen=True)
class LoadFailure:
    """An error while a domain was loaded, and the file and line where the failed declaration begins."""

    place: str
    error: BaseException


class ProjectTree(ComponentTree):
    """The component tree of the project without the domains in :attr:`failures`."""

    @cached_property
    def failures(self) -> Failures:
        """The errors by domain. A tree fills it while it reads the declarations."""
        return {}

    @cached_property
    def domains(self) -> Mapping[str, ComponentDecl[Any]]:
        """The declarations of each domain that can be read, by the name of its folder."""
        context = self.decl_load_context.for_component_loc(ComponentPath.from_path(self.defs_module_path))
        found, overlay = {}, read_overlay()
        for path in sorted(self.defs_module_path.iterdir()):
            if not overlay.includes(path.stem):
                continue
            if path.stem in self.failures or path.name == "__pycache__" or path.name.startswith("."):
                continue
            own = context.for_component_loc(ComponentPath.from_path(path))
            try:
                declared = build_filesystem_component_decl_from_context(own)
            except (Exception, SystemExit) as error:
                self.failures[path.stem] = self._unreadable_files(path) or [LoadFailure("", error)]
            else:
                if declared is not None:
                    found[path.stem] = declared
        return found

    def _unreadable_files(self, domain: Path) -> list[LoadFailure]:
        failures = []
        for file in sorted(domain.rglob("defs.yaml")):
            try:
                build_filesystem_component_decl_from_context(
                    self.decl_load_context.for_component_loc(ComponentPath.from_path(file.parent))
                )
            except (Exception, SystemExit) as error:
                failures.append(LoadFailure(str(file.relative_to(self.project_root)), error))
        return failures

    def _get_filesystem_decl(self) -> ComponentDecl[Any]:
        if find_defs_or_component_yaml(self.defs_module_path):
            return super()._get_filesystem_decl()
        return self._folder

    @cached_property
    def _folder(self) -> DefsFolderDecl:
        loc = ComponentPath.from_path(self.defs_module_path)
        return DefsFolderDecl(
            context=self.decl_load_context.for_component_loc(loc),
            loc=loc,
            children={_path(declared): declared for declared in self.domains.values()},
            source_tree=None,
            component_file_model=None,
        )


@dataclass(frozen=True)
class Project:
    """The domains that load. ``not_loaded`` has the text of the errors of each other domain, one per line."""

    tree: ProjectTree
    not_loaded: Mapping[str, str]

    def components(self, kind: type[T]) -> list[T]:
        """Return all components of ``kind``."""
        return self.tree.get_all_components(kind)

    def require_all(self) -> None:
        """Raise :class:`DomainNotLoadedError` with all errors if a domain does not load."""
        if self.not_loaded:
            raise DomainNotLoadedError(
                f"Domains {listed(self.not_loaded, 100)}",
                expected="all domains to load",
                found="\n" + "\n".join(f"{name}: {text}" for name, text in self.not_loaded.items()) + "\n",
                fix="Correct the files. Until then the platform leaves these domains out.",
            )


def read_project(root: Path) -> Project:
    """Return the domains whose declarations are valid by themselves; references between them are not followed.

    Domains with a clash of names are all left out, because their assets would write the same table.
    """
    return _project(root, (_load_failures, _clashes))


def load_project(root: Path) -> Project:
    """Return the domains that load with the modules and the declarations that they name."""
    return _project(root, (_load_failures, _clashes, _build_failures))


def load_definitions_of(root: Path, shared: dg.Definitions) -> tuple[Project, dg.Definitions]:
    """Return the domains that load, and their definitions with the ``shared`` ones.

    The definitions are resolved: a domain that cannot be resolved beside the domains before it by name is left out.
    """
    resolution = _Resolution(shared)
    project = _project(root, (_load_failures, _clashes, _build_failures, resolution))
    # Dagster keeps what it resolved for the object, so this process does not resolve it twice.
    return project, resolution.resolved or dg.Definitions.merge(project.tree.build_defs(), shared)


def is_validation() -> bool:
    """Return whether this process only validates the definitions, so that each error must fail it."""
    return os.environ.get(VALIDATION_VARIABLE) == "1"


def _project(root: Path, stages: tuple[Callable[[ProjectTree], Failures], ...]) -> Project:
    failures: Failures = {}
    while True:
        # A new tree after each failure: a cached component may refer to a domain that is left out now.
        tree = ProjectTree.for_project(root)
        tree.failures.update(failures)
        found = _first_failures(tree, stages)
        failures = {**tree.failures, **found}
        if not found:
            break
    not_loaded = {
        name: "\n".join(
            dict.fromkeys(load_error_text(e.error, e.place, tree.defs_module_path / name, root) for e in errors)
        )
        for name, errors in sorted(failures.items())
    }
    return Project(tree, not_loaded)


def _first_failures(tree: ProjectTree, stages: tuple[Callable[[ProjectTree], Failures], ...]) -> Failures:
    return next((found for stage in stages if (found := stage(tree))), {})


def _load_failures(tree: ProjectTree) -> Failures:
    return _failures_of(tree, tree.load_structural_component_at_loc)


def _build_failures(tree: ProjectTree) -> Failures:
    return _failures_of(tree, tree.build_defs_at_path)


def _failures_of(tree: ProjectTree, step: Callable[[Any], object]) -> Failures:
    """Return the errors of ``step`` for each component, so that one check finds the errors of all files."""
    failures: Failures = defaultdict(list)
    for name, domain in tree.domains.items():
        for loc, declared in domain.iterate_loc_component_decl_pairs():
            if any(True for _ in declared.iterate_child_component_decls()):
                continue
            try:
                step(loc)
            except (Exception, SystemExit) as error:
                failures[name].append(LoadFailure(_first_line(tree, declared), error))
    return dict(failures)


def _first_line(tree: ProjectTree, declared: ComponentDecl[Any]) -> str:
    source = getattr(declared, "source_tree", None)
    if source is None:
        return ""
    position = source.source_position_tree.position
    return f"{Path(position.filename).relative_to(tree.project_root)}:{position.start.line}"


def _clashes(tree: ProjectTree) -> Failures:
    declared: dict[tuple[str, str], list[Declaration]] = defaultdict(list)
    for each in tree.get_all_components(Declaration):  # type: ignore[type-abstract]
        # Steps have names of letters, digits and underscores.
        declared[type(each).__name__, str(getattr(each, "name", "")).replace(".", "_")].append(each)
    failures: Failures = defaultdict(list)
    for (kind, name), same in declared.items():
        if len(same) > 1 and name:
            places = [each.line("name") for each in same]
            error = NameClashError(
                f"{kind} '{name}'",
                expected="one declaration",
                found=f"{len(same)}: {', '.join(places)}",
                fix="Give one of them another name.",
            )
            for domain in dict.fromkeys(_domain_of(tree, place) for place in places):
                failures[domain].append(LoadFailure("", error))
    return dict(failures)


def _domain_of(tree: ProjectTree, place: str) -> str:
    file = tree.project_root / place.rpartition(":")[0]
    return Path(file.relative_to(tree.defs_module_path).parts[0]).stem


@dataclass
class _Resolution:
    """The last stage: Dagster resolves all definitions together, such as dependencies and the names of jobs.

    ``resolved`` has the definitions of the last call without a failure.
    """

    shared: dg.Definitions
    resolved: dg.Definitions | None = None

    def __call__(self, tree: ProjectTree) -> Failures:
        merged = dg.Definitions.merge(tree.build_defs(), self.shared)
        try:
            merged.get_repository_def()
        except Exception:
            self.resolved = None
        else:
            self.resolved = merged
            return {}
        before: list[dg.Definitions] = []
        failures: Failures = {}
        for name, declared in tree.domains.items():
            own = tree.build_defs_at_path(declared.loc)
            error = self._error_with(*before, own)
            if error is None:
                before.append(own)
            else:
                failures[name] = [LoadFailure("", error)]
        return failures

    def _error_with(self, *definitions: dg.Definitions) -> BaseException | None:
        try:
            dg.Definitions.merge(*definitions, self.shared).get_repository_def()
        except Exception as error:
            return error
        return None


def _path(declared: ComponentDecl[Any]) -> Path:
    if not isinstance(declared.loc, ComponentPath):
        raise TypeError(f"expected a component of a file, got {declared.loc}")
    return declared.loc.file_path
