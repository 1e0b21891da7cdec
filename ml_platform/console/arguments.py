"""Parsing of command-line arguments: instants and domains. An error shows an example that is valid."""

import importlib
from datetime import datetime
from pathlib import Path
from types import ModuleType

from ml_platform.errors import PlatformError, did_you_mean, listed


class ArgumentError(PlatformError):
    """Raised when an argument cannot be parsed, or names an object that does not exist."""


def parse_instant(text: str) -> datetime:
    """Return the instant of ``text``, which is ISO 8601 with an offset from UTC; raises :class:`ArgumentError`."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise ArgumentError(
            f"Instant '{text}'",
            expected="ISO 8601 with an offset, like 2013-07-01T06:00:00-04:00",
            found="text in another form" if instant is None else "a time without offset, which is ambiguous",
            fix="Correct the time." if instant is None else f"Add an offset: {instant.isoformat()}+00:00 is UTC.",
        )
    return instant


def only_domain(name: str) -> str:
    """Return the only domain with a module ``name``. Raises :class:`ArgumentError` where none or several have one."""
    domains = _domains_with(name)
    if len(domains) != 1:
        raise ArgumentError(
            "Domain",
            expected=f"one domain with a module '{name}'",
            found=listed(domains),
            fix="Name the domain." if domains else f"Write assets/<domain>/{name}.py.",
        )
    return domains[0]


def domain_module(domain: str, name: str) -> ModuleType:
    """Return the module ``assets.<domain>.<name>``, such as the landing or the demo of a domain.

    A nested domain is written with dots. Raises :class:`ArgumentError` when the module does not exist.
    """
    domains = _domains_with(name)
    folder = f"assets/{domain.replace('.', '/')}"
    if domain not in domains:
        raise ArgumentError(
            f"Domain '{domain}'",
            expected=f"one with a module '{name}': {listed(domains)}",
            found=f"no file {folder}/{name}.py" if (_assets_root().parent / folder).is_dir() else f"no folder {folder}",
            fix=f"Add it, or correct the name.{did_you_mean(domain, domains)}",
        )
    return importlib.import_module(f"assets.{domain}.{name}")


def _domains_with(name: str) -> list[str]:
    root = _assets_root()
    return sorted(".".join(file.relative_to(root).parent.parts) for file in root.rglob(f"{name}.py"))


def _assets_root() -> Path:
    # By name: a static import would break the layers.
    return Path(importlib.import_module("assets").__path__[0])
