"""The text of an error that a domain raised while it was loaded: the cause in one line, with file and line.

Dagster wraps such an error in several others and in a picture of the whole project, which hides the cause.
"""

import traceback
from pathlib import Path

from dagster.components.core.component_tree import ComponentTreeException

from ml_platform.errors import PlatformError


def load_error_text(error: BaseException, declared_at: str, domain: Path, root: Path) -> str:
    """Return the cause of ``error`` with its place in ``domain``, with paths relative to ``root``, in one line.

    The place is ``declared_at`` if neither the text nor the traceback of the cause names a file of the domain.
    """
    cause = _cause(error, domain)
    text = " ".join(str(cause).split()).replace(f"{root}/", "")
    if not isinstance(cause, PlatformError):
        text = f"{type(cause).__name__}: {text}"
    relative = str(domain.relative_to(root)) if domain.is_relative_to(root) else str(domain)
    place = _last_line(cause, domain, root) or declared_at
    return f"{place}: {text}" if relative not in text and place else text


def _cause(error: BaseException, domain: Path) -> BaseException:
    """Return the first error of the chain that is not Dagster's wrapper and names a file, else the innermost one."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None:
        if not isinstance(current, ComponentTreeException):
            chain.append(current)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    named = (each for each in chain if isinstance(each, PlatformError) or str(domain) in str(each))
    return next(named, chain[-1] if chain else error)


def _last_line(error: BaseException, domain: Path, root: Path) -> str:
    """Return ``assets/…/module.py:12``, the last line of the traceback inside ``domain``, or an empty text."""
    if isinstance(error, SyntaxError) and error.filename:
        file, line = Path(error.filename), error.lineno or 1
        return f"{file.relative_to(root) if file.is_relative_to(root) else file}:{line}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_relative_to(domain) or file == domain.with_suffix(".py"):
            return f"{file.relative_to(root) if file.is_relative_to(root) else file}:{frame.lineno}"
    return ""
