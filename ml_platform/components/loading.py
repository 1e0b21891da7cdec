"""Loads what the project declares: a model by name, bound to its feature views, and the retention of all content."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from ml_platform.components.dataset.component import Dataset
from ml_platform.components.model.component import Model
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.project import read_project
from ml_platform.errors import PlatformError, did_you_mean, listed
from resources.profiles import REPOSITORY

if TYPE_CHECKING:
    from ml_platform.steps.retention import RetentionPolicies


class ModelUnknownError(PlatformError):
    """Raised when no model with the given name is declared."""


def bound_model(name: str) -> ModelAssets:
    """Return the model called ``name``. Raises :class:`ModelUnknownError` if none is declared."""
    project = read_project(REPOSITORY)
    tree = project.tree
    known = {each.name: each for each in tree.get_all_components(Model)}
    if name not in known:
        raise ModelUnknownError(
            f"Model '{name}'",
            expected=f"one of {listed(known)}",
            found="no such model" + _beside(project.not_loaded),
            fix=f"Declare the model in assets/, or correct the name.{did_you_mean(name, known)}",
        )
    return ModelAssets(known[name], known[name].views(tree), known[name].example_pii(tree), known[name].schemes(tree))


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


def _beside(not_loaded: Collection[str]) -> str:
    return f"; the domains {listed(not_loaded)} do not load (`ml-platform doctor`)" if not_loaded else ""
