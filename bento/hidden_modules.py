"""Imports without libraries that another library would import only because they are installed: seconds at a start."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def hidden_modules(names: Sequence[str]) -> Iterator[None]:
    """Let the imports within fail for those of the modules ``names`` that are not imported yet."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
