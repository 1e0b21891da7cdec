"""What people type, read: months, instants, domains; what cannot be read is refused with an example of what can."""

import importlib
from datetime import datetime
from pathlib import Path
from types import ModuleType

from ml_platform.data.partitions import months_between
from ml_platform.errors import PlatformError, did_you_mean, listed


class ArgumentError(PlatformError):
    """Raised when an argument cannot be read, or names what does not exist."""


def parse_months(text: str) -> list[str]:
    """Return the months that ``2013-06`` or ``2013-01...2013-06`` names, at least one."""
    first, _, last = text.partition("...")
    months = months_between(first, last or first)
    if not months:
        raise ArgumentError(
            f"Months '{text}'",
            expected="the first month before the last, like 2013-01...2013-06",
            found=f"{last} before {first}",
            fix="Turn them round.",
        )
    return months


def parse_instant(text: str) -> datetime:
    """Return the instant that ``text`` (ISO 8601 with an offset) names."""
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        read = None
    if read is None or read.tzinfo is None:
        raise ArgumentError(
            f"Instant '{text}'",
            expected="ISO 8601 with an offset, like 2013-07-01T06:00:00-04:00",
            found="no time that can be read" if read is None else "no offset, so that it could be anywhere",
            fix="Mend the time." if read is None else f"Add an offset: {read.isoformat()}+00:00 is UTC.",
        )
    return read


def domain_module(domain: str, name: str) -> ModuleType:
    """Return the module ``assets.<domain>.<name>``, like the landing or the demo of a domain; domains may be nested."""
    root = Path(importlib.import_module("assets").__path__[0])  # by name: an import never goes up
    having = sorted(".".join(file.relative_to(root).parent.parts) for file in root.rglob(f"{name}.py"))
    folder = f"assets/{domain.replace('.', '/')}"
    if domain not in having:
        raise ArgumentError(
            f"Domain '{domain}'",
            expected=f"one with a module '{name}': {listed(having)}",
            found=f"no file {folder}/{name}.py" if (root.parent / folder).is_dir() else f"no folder {folder}",
            fix=f"Add it, or mend the name.{did_you_mean(domain, having)}",
        )
    return importlib.import_module(f"assets.{domain}.{name}")
