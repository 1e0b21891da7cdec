"""The engine: datasets, features, models and everything that happens to them. Names no dataset, column or product.

`type: ml_platform.Dataset` in a defs.yaml finds the components here. They (and Dagster) are imported only when
one is asked for, so that a training worker or a service imports the engine without Dagster.
"""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # on demand: a bento has this module and no installed package

        return version("ml-platform")
    # Components are classes: anything in lower case is a submodule that is yet to be imported.
    if name[:1].isupper():
        components = importlib.import_module("ml_platform.components")
        if name in components.__all__:
            return getattr(components, name)
    raise AttributeError(f"module 'ml_platform' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *importlib.import_module("ml_platform.components").__all__])
