"""Load the functions that declarations name as `package.module:function`.

All components load functions here, so a typo fails when a declaration is read, and the error offers the close match.
"""

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from typing import Any

from ml_platform.errors import PlatformError, did_you_mean, listed


class FunctionNotFoundError(PlatformError):
    """Raised when a declared `package.module:function` does not name a function."""


def load_function(reference: str) -> Callable[..., Any]:
    """Return the function that ``reference`` names, importing its module.

    ``reference`` has the form ``package.module:function``. Raises :class:`FunctionNotFoundError` when it has another
    form, the module or the function does not exist (the closest name is offered), or the object is not callable. An
    error that the module itself raises on import passes through unchanged.

    >>> load_function("math:sqrt")(9.0)
    3.0
    """
    module_name, _, name = reference.partition(":")
    if not module_name or not name.isidentifier():
        raise FunctionNotFoundError(
            f"Function '{reference}'",
            expected="the form 'package.module:function'",
            found="no module" if not module_name else "no ':' followed by a function name",
            fix="Write for example 'assets.shop.datasets.loaders:orders'.",
        )
    missing = _first_missing_part(module_name)
    if missing is not None:
        raise FunctionNotFoundError(
            f"Function '{reference}'",
            expected=f"a module '{module_name}'",
            found=f"no module '{missing}'",
            fix="Create the module, or correct the name.",
        )
    module = importlib.import_module(module_name)
    attribute = getattr(module, name, None)
    if not callable(attribute):
        functions = [key for key, value in vars(module).items() if inspect.isfunction(value) and key[0] != "_"]
        classes = [key for key, value in vars(module).items() if inspect.isclass(value) and key[0] != "_"]
        raise FunctionNotFoundError(
            f"Function '{reference}'",
            expected=f"a function '{name}' in {module_name}",
            found=f"{listed(functions)}" if attribute is None else f"a {type(attribute).__name__}",
            fix=f"Add the function, or correct the name.{did_you_mean(name, [*functions, *classes])}",
        )
    function: Callable[..., Any] = attribute
    return function


def _first_missing_part(module_name: str) -> str | None:
    parts = module_name.split(".")
    for count in range(1, len(parts) + 1):
        package = ".".join(parts[:count])
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError:  # The parent is a module, not a package.
            return package
        if spec is None:
            return package
    return None
