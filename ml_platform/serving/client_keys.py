"""The clients of the gateway in the state store: their limits, and their API keys as hashes.

A key is the Base64 text of `<key id>:<secret>`, letters and digits only, so that the gateway reads it as the
credentials of HTTP's Basic scheme. The secret has 256 random bits, and only its SHA-1 is stored, the one hash that
Envoy's filter for Basic credentials takes. Slow hashes protect secrets that people choose; this one cannot be guessed.
"""

import base64
import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Self

import sqlalchemy as sa
from pydantic import ConfigDict, Field

from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError, did_you_mean, listed
from ml_platform.state.schema import client_keys, clients
from ml_platform.state.store import StateStore, time_text

CLIENT_PATTERN = r"^[a-z][a-z0-9_-]{0,62}$"
MODEL_PATTERN = r"^[A-Za-z0-9_.-]{1,200}$"
DEFAULT_RATE, DEFAULT_CONCURRENCY = 100, 16
_ID_BYTES, _SECRET_BYTES = 5, 32
"""Bytes for which `<key id>:<secret>` has a multiple of three characters, so that its Base64 text needs no padding."""


class ClientKeyError(PlatformError):
    """Raised when a client or key does not exist, exists already, or cannot be read."""


class Client(Settings):
    """A client of the gateway, and what it may ask."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=CLIENT_PATTERN, description="Name in logs, predictions and metrics.")
    requests_per_second: int = Field(default=DEFAULT_RATE, ge=1, le=1_000_000, description="Requests per second.")
    burst: int = Field(default=DEFAULT_RATE, ge=1, le=1_000_000, description="Requests at once after a pause.")
    requests_per_day: int | None = Field(
        default=None, ge=1, le=4_000_000_000, description="Requests per day in UTC; None: no quota."
    )
    concurrency: int = Field(
        default=DEFAULT_CONCURRENCY, ge=1, le=100_000, description="Requests under way in all services together."
    )
    models: tuple[Annotated[str, Field(pattern=MODEL_PATTERN)], ...] | None = Field(
        default=None, description="Models that it may ask; None: all."
    )


@dataclass(frozen=True)
class ClientKey:
    """A key as it is stored; times have a time zone. ``valid_until`` None: until it is revoked."""

    id: str
    client: str
    secret_sha1: str
    created_at: datetime
    valid_until: datetime | None = None
    revoked_at: datetime | None = None

    def is_valid(self, now: datetime) -> bool:
        """Return whether the gateway accepts the key at ``now``."""
        return self.revoked_at is None and (self.valid_until is None or now < self.valid_until)


@dataclass(frozen=True)
class NewKey:
    """A key that was just made: ``text`` is what the client sends, and is stored nowhere."""

    id: str
    text: str
    secret_sha1: str

    @classmethod
    def make(cls) -> Self:
        key_id, secret = secrets.token_hex(_ID_BYTES), secrets.token_urlsafe(_SECRET_BYTES)
        text = base64.b64encode(f"{key_id}:{secret}".encode()).decode()
        digest = hashlib.sha1(secret.encode(), usedforsecurity=False).digest()
        return cls(key_id, text, base64.b64encode(digest).decode())


def read_clients(state: StateStore) -> tuple[dict[str, Client], list[ClientKey]]:
    """Return all clients by name, and all keys, oldest first, from one snapshot of the store."""
    with state.read() as connection:
        client_rows = connection.execute(sa.select(clients).order_by(clients.c.name)).mappings().all()
        key_rows = connection.execute(sa.select(client_keys).order_by(client_keys.c.created_at)).mappings().all()
    return {row["name"]: _client(row) for row in client_rows}, [_key(row) for row in key_rows]


def add_client(state: StateStore, client: Client, key: NewKey, at: datetime) -> None:
    """Store ``client`` with its first key. A client without a valid key may be added again, with its new limits."""
    known, keys = read_clients(state)
    if any(each.client == client.name and each.is_valid(at) for each in keys):
        raise ClientKeyError(
            f"Client '{client.name}'",
            expected="a new name",
            found="a client with a valid key",
            fix=f"Make another key with `ml-platform keys rotate {client.name}`, or change its limits with "
            f"`ml-platform keys limit {client.name}`.",
        )
    if client.name in known:
        set_limits(state, client)
    else:
        with state.write() as connection:
            connection.execute(clients.insert().values(_client_row(client)))
    _insert_key(state, client.name, key, at)


def rotate_key(state: StateStore, client: str, key: NewKey, at: datetime, old_valid_until: datetime) -> list[str]:
    """Store another key of ``client``; return the ids of the keys that now end at ``old_valid_until``."""
    require_client(state, client)
    ends_later = (client_keys.c.client == client) & (client_keys.c.revoked_at.is_(None))
    ends_later &= client_keys.c.valid_until.is_(None) | (client_keys.c.valid_until > time_text(old_valid_until))
    with state.write() as connection:
        old = list(connection.scalars(sa.select(client_keys.c.id).where(ends_later)))
        connection.execute(client_keys.update().where(ends_later).values(valid_until=time_text(old_valid_until)))
    _insert_key(state, client, key, at)
    return old


def revoke_keys(state: StateStore, client: str, at: datetime, key_id: str = "") -> list[str]:
    """End the key ``key_id`` of ``client``, or all its keys, at ``at``; return the ids of the keys that ended."""
    require_client(state, client)
    with state.write() as connection:
        own = connection.execute(sa.select(client_keys).where(client_keys.c.client == client)).mappings().all()
        valid = [each.id for each in map(_key, own) if each.is_valid(at)]
        chosen = [each for each in valid if key_id in ("", each)]
        if not chosen:
            raise ClientKeyError(
                f"Client '{client}'",
                expected=f"the valid key '{key_id}'" if key_id else "a valid key",
                found=f"the valid keys {listed(valid)}" if valid else "no valid key",
                fix="`ml-platform keys list` shows the keys of each client.",
            )
        connection.execute(client_keys.update().where(client_keys.c.id.in_(chosen)).values(revoked_at=time_text(at)))
    return chosen


def set_limits(state: StateStore, client: Client) -> None:
    """Replace the stored limits of ``client``."""
    require_client(state, client.name)
    row = _client_row(client)
    with state.write() as connection:
        connection.execute(clients.update().where(clients.c.name == client.name).values(row))


def require_client(state: StateStore, name: str) -> Client:
    """Return the client ``name``; raises :class:`ClientKeyError` when there is none."""
    known, _ = read_clients(state)
    if name not in known:
        raise ClientKeyError(
            f"Client '{name}'",
            expected="one of the gateway's clients",
            found=listed(known),
            fix=f"Add it with `ml-platform keys add {name}`.{did_you_mean(name, known)}",
        )
    return known[name]


def _insert_key(state: StateStore, client: str, key: NewKey, at: datetime) -> None:
    values = {"id": key.id, "client": client, "secret_sha1": key.secret_sha1, "created_at": time_text(at)}
    with state.write() as connection:
        connection.execute(client_keys.insert().values(values))


def _client(row: Mapping[Any, Any]) -> Client:
    models = None if row["models"] is None else json.loads(row["models"])
    return Client.model_validate({**row, "models": models})


def _client_row(client: Client) -> dict[str, Any]:
    models = None if client.models is None else json.dumps(client.models)
    return {**client.model_dump(), "models": models}


def _key(row: Mapping[Any, Any]) -> ClientKey:
    return ClientKey(
        row["id"],
        row["client"],
        row["secret_sha1"],
        datetime.fromisoformat(row["created_at"]),
        _instant(row["valid_until"]),
        _instant(row["revoked_at"]),
    )


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
