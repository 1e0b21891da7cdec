"""What one check of the doctor found, and what the checks may look at."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from resources.home import Home

State = Literal["ok", "warning", "failed"]

LISTED = 5
"""How many names a line lists; it counts the others."""


@dataclass(frozen=True)
class Subject:
    """What is checked: a home, the code in ``repository``, and the machine at the time ``now`` (aware)."""

    home: Home
    repository: Path
    now: datetime

    @property
    def has_home(self) -> bool:
        """Whether anything lies in the home."""
        return self.home.root.is_dir() and any(self.home.root.iterdir())


@dataclass(frozen=True)
class Finding:
    """The result of one check. ``fix`` is empty where nothing needs one."""

    state: State
    found: str
    fix: str = ""


NO_HOME = Finding("ok", "no home yet; the first command creates it")


def ok(found: str) -> Finding:
    """Return a finding that needs no fix."""
    return Finding("ok", found)


def warning(found: str, fix: str) -> Finding:
    """Return a finding that a user should know of, and with which the platform works."""
    return Finding("warning", found, fix)


def failed(found: str, fix: str) -> Finding:
    """Return a finding with which a part of the platform does not work."""
    return Finding("failed", found, fix)


def capped(parts: Iterable[str]) -> str:
    """Return the first ``LISTED`` of ``parts`` in one line, and how many more there are.

    >>> capped(["a", "b", "c", "d", "e", "f", "g"])
    'a; b; c; d; e; … and 2 more'
    """
    every = list(parts)
    more = [f"… and {len(every) - LISTED} more"] if len(every) > LISTED else []
    return "; ".join([*every[:LISTED], *more])
