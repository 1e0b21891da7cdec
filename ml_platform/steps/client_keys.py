"""Decisions about the clients of the gateway and their keys; each is an audit record, which contains no secret."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ml_platform.registry.audit import AuditLog
from ml_platform.serving.client_keys import (
    Client,
    NewKey,
    add_client,
    require_client,
    revoke_keys,
    rotate_key,
    set_limits,
)
from ml_platform.state.store import StateStore

ADDED, ROTATED, REVOKED, LIMITED = "client_added", "client_key_rotated", "client_key_revoked", "client_limits_changed"
KEY_KINDS = (ADDED, ROTATED, REVOKED, LIMITED)
"""Kinds of the audit records about clients and their keys."""


@dataclass(frozen=True)
class KeyDecision:
    """Who decides, why and when."""

    by: str
    reason: str
    at: datetime


def add(state: StateStore, client: Client, decision: KeyDecision) -> NewKey:
    """Add ``client`` and return its first key. Raises ``ClientKeyError`` for a client with a valid key."""
    key = NewKey.make()
    with state.write():
        add_client(state, client, key, decision.at)
        _record(state, ADDED, decision, client.name, key=key.id, limits=_limits(client))
    return key


def rotate(state: StateStore, client: str, overlap: timedelta, decision: KeyDecision) -> NewKey:
    """Return another key of ``client``; its other keys are valid for ``overlap`` from now, if not for less."""
    key, ends = NewKey.make(), decision.at + overlap
    with state.write():
        old = rotate_key(state, client, key, decision.at, ends)
        _record(state, ROTATED, decision, client, key=key.id, old_keys=old, old_valid_until=ends.isoformat())
    return key


def revoke(state: StateStore, client: str, decision: KeyDecision, key_id: str = "") -> list[str]:
    """End the key ``key_id`` of ``client``, or all its keys; return the ids of the keys that ended."""
    with state.write():
        ended = revoke_keys(state, client, decision.at, key_id)
        _record(state, REVOKED, decision, client, keys=ended)
    return ended


def limit(state: StateStore, client: str, changes: dict[str, Any], decision: KeyDecision) -> Client:
    """Replace those limits of ``client`` that ``changes`` names, and return all of them."""
    with state.write():
        changed = Client.model_validate({**require_client(state, client).model_dump(), **changes})
        set_limits(state, changed)
        _record(state, LIMITED, decision, client, limits=_limits(changed))
    return changed


def _limits(client: Client) -> dict[str, Any]:
    return client.model_dump(mode="json", exclude={"name"})


def _record(state: StateStore, kind: str, decision: KeyDecision, client: str, **facts: Any) -> None:
    AuditLog(state).append(
        kind, actor=decision.by, at=decision.at, facts={"client": client, "reason": decision.reason, **facts}
    )
