"""The input and the result of one check of the doctor."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from resources.home import Home

State = Literal["ok", "warning", "failed"]

LISTED = 5
"""Maximal number of names in a line; the line ends with the number of the others."""


@dataclass(frozen=True)
class Subject:
    """The objects of a check: a home, the code in ``repository``, and the machine at the time ``now`` (aware)."""

    home: Home
    repository: Path
    now: datetime

    @property
    def has_home(self) -> bool:
        """Return whether the home exists and is not empty."""
        return self.home.root.is_dir() and any(self.home.root.iterdir())


@dataclass(frozen=True)
class Finding:
    """The result of one check. ``fix`` is empty if no fix is necessary."""

    state: State
    found: str
    fix: str = ""


NO_HOME = Finding("ok", "no home yet; the first command creates it")


def ok(found: str) -> Finding:
    """Return a finding without a problem."""
    return Finding("ok", found)


def warning(found: str, fix: str) -> Finding:
    """Return a finding that the user should know; the platform works."""
    return Finding("warning", found, fix)


def failed(found: str, fix: str) -> Finding:
    """Return a finding that stops a part of the platform."""
    return Finding("failed", found, fix)


def capped(parts: Iterable[str]) -> str:
    """Return the first :data:`LISTED` of ``parts`` in one line, and the number of the others.

    >>> capped(["a", "b", "c", "d", "e", "f", "g"])
    'a; b; c; d; e; … and 2 more'
    """
    every = list(parts)
    more = [f"… and {len(every) - LISTED} more"] if len(every) > LISTED else []
    return "; ".join([*every[:LISTED], *more])
