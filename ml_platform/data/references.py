"""Functions named in declarations: from `package.module:function` to the function, with errors that say what there is.

Apart because every component takes functions by name, and a typo must not surface hours later as an ImportError.
"""

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from typing import Any

from ml_platform.errors import PlatformError, did_you_mean, listed


class FunctionNotFoundError(PlatformError):
    """Raised when a declared `package.module:function` does not lead to a function."""


def load_function(reference: str) -> Callable[..., Any]:
    """Return the function that ``reference`` names, importing its module.

    ``reference`` reads ``package.module:function``. Raises :class:`FunctionNotFoundError` when it has another form,
    the module or the function does not exist (the nearest name is offered), or what it names cannot be called. An
    error raised *by* the module while it is imported is passed on as it is, chained to nothing of ours.

    >>> load_function("math:sqrt")(9.0)
    3.0
    """
    module_name, _, name = reference.partition(":")
    if not module_name or not name.isidentifier():
        raise FunctionNotFoundError(
            f"Function '{reference}'",
            expected="the form 'package.module:function'",
            found="no module" if not module_name else "no ':' followed by a function name",
            mend="Write for example 'assets.aviation.datasets.loaders:flights'.",
        )
    missing = _first_missing_part(module_name)
    if missing is not None:
        raise FunctionNotFoundError(
            f"Function '{reference}'",
            expected=f"a module '{module_name}'",
            found=f"no module '{missing}'",
            mend="Create the module, or mend the name.",
        )
    module = importlib.import_module(module_name)
    function = getattr(module, name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if inspect.isfunction(value) and key[0] != "_"]
        raise FunctionNotFoundError(
            f"Function '{reference}'",
            expected=f"a function '{name}' in {module_name}",
            found=f"{listed(functions)}" if function is None else f"a {type(function).__name__}",
            mend=f"Add it, or mend the name.{did_you_mean(name, functions)}",
        )
    return function


def _first_missing_part(module_name: str) -> str | None:
    parts = module_name.split(".")
    for count in range(1, len(parts) + 1):
        package = ".".join(parts[:count])
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError:  # the parent is a module, not a package
            return package
        if spec is None:
            return package
    return None
