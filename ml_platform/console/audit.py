"""`ml-platform audit`: check the log of all decisions, print its end as an anchor, and export it."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from ml_platform.registry.audit import AuditLog
from ml_platform.registry.audit_anchor import anchor_of, released_anchors, verify_anchor
from resources.home import Home
from resources.profiles import REPOSITORY
from resources.state import open_state


def verify(
    home: Home, anchor: Path | None = None, public_key: Path | None = None, repository: Path = REPOSITORY
) -> Iterator[str]:
    """Yield one line for each check that passed: the chain, ``anchor``, and the anchors of the releases.

    The releases of ``repository`` are decisions of the home inside it; another home has other decisions, and they are
    not compared. Raises :class:`~ml_platform.registry.audit.AuditError` for the first check that fails.
    """
    audit = AuditLog(open_state(home))
    yield f"The chain of {audit.verify()} records is unbroken."
    inside = home.root.resolve().is_relative_to(repository.resolve())
    files = [*([anchor] if anchor else []), *(released_anchors(repository) if inside else [])]
    for file in files:
        # Releases are not signed, so the key is for the given anchor.
        found = verify_anchor(audit, file, public_key if file == anchor else None)
        yield f"Record {found.sequence} is the one of the anchor {file}."


def head(home: Home, at: datetime, private_key: Path | None = None) -> dict[str, Any]:
    """Return the end of the log as JSON values, signed with ``private_key`` (ed25519, PEM) where it is given."""
    return anchor_of(AuditLog(open_state(home)), at, private_key)


def export(home: Home) -> Iterator[str]:
    """Yield each record as one line of JSON with its newline."""
    for line in AuditLog(open_state(home)).export():
        yield line.decode()
