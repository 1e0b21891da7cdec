"""Cursors: how far something was read, by name. A cursor is written in the transaction of what was read."""

import json
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from ml_platform.state.schema import cursors
from ml_platform.state.store import StateStore, now_text

_NAMES_AT_ONCE = 500


def read_cursor(state: StateStore, name: str) -> Any:
    """Return the value of the cursor ``name``, or None."""
    with state.read() as connection:
        value = connection.scalar(sa.select(cursors.c.value).where(cursors.c.name == name))
    return None if value is None else json.loads(value)


def read_cursors(state: StateStore, names: Iterable[str]) -> dict[str, Any]:
    """Return the values of the cursors ``names``, by name; absent ones are left out."""
    listed = list(names)
    found: dict[str, Any] = {}
    with state.read() as connection:
        for start in range(0, len(listed), _NAMES_AT_ONCE):
            chunk = listed[start : start + _NAMES_AT_ONCE]
            query = sa.select(cursors.c.name, cursors.c.value).where(cursors.c.name.in_(chunk))
            found |= {row.name: json.loads(row.value) for row in connection.execute(query)}
    return found


def cursors_below(state: StateStore, prefix: str) -> dict[str, Any]:
    """Return the values of all cursors whose names begin with ``prefix``, by the rest of the name."""
    query = sa.select(cursors.c.name, cursors.c.value).where(cursors.c.name.startswith(prefix, autoescape=True))
    with state.read() as connection:
        return {row.name.removeprefix(prefix): json.loads(row.value) for row in connection.execute(query)}


def write_cursor(state: StateStore, name: str, value: Any) -> None:
    """Set the cursor ``name`` to ``value`` (JSON), in the current transaction if one is open."""
    changed = {"value": json.dumps(value, sort_keys=True), "changed_at": now_text()}
    with state.write() as connection:
        updated = connection.execute(sa.update(cursors).where(cursors.c.name == name).values(**changed))
        if not updated.rowcount:
            connection.execute(sa.insert(cursors).values(name=name, **changed))


def delete_cursors(state: StateStore, names: Iterable[str]) -> None:
    """Delete the cursors ``names``; absent ones are skipped."""
    listed = list(names)
    with state.write() as connection:
        for start in range(0, len(listed), _NAMES_AT_ONCE):
            chunk = listed[start : start + _NAMES_AT_ONCE]
            connection.execute(sa.delete(cursors).where(cursors.c.name.in_(chunk)))
