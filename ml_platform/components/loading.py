"""Loads a declared model by name and binds it to its feature views, for the command line."""

from ml_platform.components.model.component import Model
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.errors import PlatformError, did_you_mean, listed


class ModelUnknownError(PlatformError):
    """Raised when no model with the given name is declared."""


def bound_model(name: str) -> ModelAssets:
    """Return the model called ``name``. Raises :class:`ModelUnknownError` if none is declared."""
    from dagster.components.core.component_tree import ComponentTree

    from ml_platform.definitions import PROJECT_ROOT

    tree = ComponentTree.for_project(PROJECT_ROOT)
    known = {each.name: each for each in tree.get_all_components(Model)}
    if name not in known:
        raise ModelUnknownError(
            f"Model '{name}'",
            expected=f"one of {listed(known)}",
            found="no such model",
            fix=f"Declare the model in assets/, or correct the name.{did_you_mean(name, known)}",
        )
    return ModelAssets(known[name], known[name].views(tree))
