"""The engine: datasets, features, training, evaluation, serving and monitoring, for any domain.

`type: ml_platform.Dataset` in a defs.yaml finds the components here. The first access to a component imports it and
Dagster, so that a training worker or a service imports the engine without Dagster.
"""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "__version__":
        # Not at the top: a bento carries this module without the package metadata.
        from importlib.metadata import version

        return version("ml-platform")
    # Components are classes. A lower-case name is a submodule, which Python imports itself.
    if name[:1].isupper():
        components = importlib.import_module("ml_platform.components")
        if name in components.__all__:
            return getattr(components, name)
    raise AttributeError(f"module 'ml_platform' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *importlib.import_module("ml_platform.components").__all__])
