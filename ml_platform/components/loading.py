"""Loads what the project declares: a model by name, bound to its feature views, and the retention of all content."""

from collections.abc import Collection
from typing import TYPE_CHECKING, TypeVar

from ml_platform.components.dataset.component import Dataset
from ml_platform.components.feature_view.component import FeatureView, datasets_by_name
from ml_platform.components.model.component import Model
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.project import read_project
from ml_platform.errors import PlatformError, did_you_mean, listed
from resources.profiles import REPOSITORY

if TYPE_CHECKING:
    from ml_platform.components.project import Project
    from ml_platform.features.view import FeatureView as FeatureViewSettings
    from ml_platform.steps.retention import RetentionPolicies


Declared = TypeVar("Declared", Dataset, Model)


class DeclarationUnknownError(PlatformError):
    """Raised when no dataset or model with the given name is declared."""


def bound_model(name: str) -> ModelAssets:
    """Return the model called ``name``. Raises :class:`DeclarationUnknownError` if none is declared."""
    project = read_project(REPOSITORY)
    tree, found = project.tree, _declared(Model, "model", name, project)
    return ModelAssets(found, found.views(tree), found.example_pii(tree), found.schemes(tree))


def declared_dataset(name: str, project: "Project | None" = None) -> Dataset:
    """Return the dataset called ``name``. Raises :class:`DeclarationUnknownError` if none is declared."""
    return _declared(Dataset, "dataset", name, project or read_project(REPOSITORY))


def declared_views() -> "list[FeatureViewSettings]":
    """Return the settings of all declared feature views, with the types of their keys.

    A domain that does not load has none.
    """
    tree = read_project(REPOSITORY).tree
    datasets = datasets_by_name(tree)
    return [each.settings(datasets) for each in tree.get_all_components(FeatureView)]


def declared_retention() -> "RetentionPolicies":
    """Return the retention of `params.yaml`, with the values of each declared dataset and model.

    Raises :class:`DomainNotLoadedError` if a domain does not load, because its content may have to stay for ever.
    """
    from ml_platform.features.last_facts import last_facts_table
    from ml_platform.steps.retention import ModelPolicy, RetentionPolicies, read_retention

    project, platform = read_project(REPOSITORY), read_retention(REPOSITORY)
    project.require_all()
    tree = project.tree
    models = [
        ModelAssets(each, each.views(tree), each.example_pii(tree), each.schemes(tree))
        for each in tree.get_all_components(Model)
    ]
    return RetentionPolicies(
        platform,
        {each.name: platform.with_values_of(each.retention) for each in tree.get_all_components(Dataset)},
        {
            model.name: ModelPolicy(
                platform.with_values_of(model.declared.retention), model.pii_columns, tuple(model.identity)
            )
            for model in models
        },
        {model.table for model in models}
        | {table for model in models for view in model.stored_views for table in (view.table, last_facts_table(view))},
    )


def _declared(kind: type[Declared], word: str, name: str, project: "Project") -> Declared:
    known = {each.name: each for each in project.tree.get_all_components(kind)}
    if name not in known:
        raise DeclarationUnknownError(
            f"{word.capitalize()} '{name}'",
            expected=f"one of {listed(known)}",
            found=f"no such {word}" + _beside(project.not_loaded),
            fix=f"Declare the {word} in assets/, or correct the name.{did_you_mean(name, known)}",
        )
    return known[name]


def _beside(not_loaded: Collection[str]) -> str:
    return f"; the domains {listed(not_loaded)} do not load (`ml-platform doctor`)" if not_loaded else ""
