"""The engine: datasets, features, training, evaluation, serving and monitoring, for any domain.

`type: ml_platform.Dataset` in a defs.yaml finds the components here. The first access to a component imports it and
Dagster, so that a training worker or a service imports the engine without Dagster.

:func:`open` reads a home in a notebook or a script::

    import ml_platform as mp

    session = mp.open()
    session.dataset("flights", "2013-06").to_pandas()
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml_platform.session.session import Session


def open(home: Path | str | None = None) -> "Session":
    """Return a session that reads the home in the folder ``home``, and never changes it.

    None: ``$ML_PLATFORM_HOME``, or ``.ml_platform`` in the working directory. The other variables of the platform
    count as everywhere: ``$ML_PLATFORM_STATE`` names a Postgres store, ``$ML_PLATFORM_ONLINE`` another online store.
    No server has to run. Raises :class:`~ml_platform.session.opening.SessionError` when the folder has no home of this
    release. The session is a context manager; its end removes the models that it has downloaded.
    """
    from ml_platform.session.session import Session

    return Session(home)


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
