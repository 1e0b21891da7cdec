"""The online store on a Valkey or Redis server, for serving on several machines: one round trip per request.

Each view and code version has one hash. The hash has one field per entity, named by its key columns as JSON, with
known_at and the values as little-endian numbers. A publication fills a new hash and then renames it over the current
one. A reader therefore sees one whole snapshot of each view, the old one or the new one.
"""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ml_platform.data.instants import instant_of, microseconds_of
from ml_platform.errors import PlatformError, without_password
from ml_platform.features.key_types import (
    MAX_KEY_BYTES,
    PYTHON_TYPES,
    KeyType,
    KeyTypeError,
    key_type_of,
    require_python_types,
)
from ml_platform.features.online_store import ABSENT, LookupResult, Publication, Snapshot, latest_of
from ml_platform.features.view import FeatureView

if TYPE_CHECKING:
    from redis import Redis

PREFIX = "ml_platform:online"
WATERMARK, HEADER, KEY_TYPES = b"watermark", b"header", b"key_types"
"""Fields of the hash besides those of entities; a field of an entity is a JSON list, so the names cannot collide.

Snapshots of earlier versions have no key types."""

BATCH_ENTITIES = 5_000
"""Number of entities in one write command."""

ABANDONED_AFTER_SECONDS = 3_600
"""Lifetime of an unfinished publication whose process died."""

_SWAP = """
local current = redis.call('HGET', KEYS[2], 'watermark')
if current and tonumber(current) > tonumber(ARGV[1]) then
  redis.call('DEL', KEYS[1])
  return current
end
redis.call('PERSIST', KEYS[1])
redis.call('RENAME', KEYS[1], KEYS[2])
return false
"""


class OnlineServerError(PlatformError):
    """Raised when the server cannot be reached, or has no snapshot of a view."""


class ValkeyStore:
    """Snapshots on the server at ``url``. The store connects on first use and is safe to share between threads."""

    remote = True

    def __init__(self, url: str, prefix: str = PREFIX, timeout_seconds: float = 2.0) -> None:
        self.url = url
        self.prefix = prefix
        self.timeout_seconds = timeout_seconds
        self._client: Redis | None = None
        self._categories: dict[str, tuple[bytes, dict[str, list[str]]]] = {}

    @property
    def location(self) -> str:
        """Address of the server."""
        return self.url

    def publish(self, snapshot: Snapshot) -> Publication:
        """Replace the snapshot of a view, unless the current one has a later watermark; return the result."""
        from redis.exceptions import RedisError

        live = self._key(snapshot.view)
        staged = f"{live}:{uuid.uuid4().hex}"
        watermark = microseconds_of(snapshot.watermark)
        try:
            client = self._connected()
            size = 0
            fields = _fields(snapshot, watermark)
            while batch := dict(islice(fields, BATCH_ENTITIES)):
                client.hset(staged, mapping=batch)
                size += sum(len(name) + len(value) for name, value in batch.items())
            # If this process dies before the swap, the server deletes the staged hash.
            client.expire(staged, ABANDONED_AFTER_SECONDS)
            current_watermark = client.eval(_SWAP, 2, staged, live, watermark)
            if current_watermark is not None:
                current = instant_of(int(current_watermark))
                described = sum(client.hexists(live, name) for name in (WATERMARK, HEADER, KEY_TYPES))
                return Publication(snapshot.view.name, False, client.hlen(live) - described, current, 0)
        except RedisError as error:
            raise self._unreachable(error) from error
        return Publication(snapshot.view.name, True, snapshot.frame.height, snapshot.watermark, size)

    def require(self, views: Sequence[FeatureView]) -> None:
        """Raise :class:`OnlineServerError` when the server does not answer, or a view has no snapshot."""
        from redis.exceptions import RedisError

        try:
            pipeline = self._connected().pipeline(transaction=False)
            for view in views:
                pipeline.exists(self._key(view))
            found = pipeline.execute()
        except RedisError as error:
            raise self._unreachable(error) from error
        for view, exists in zip(views, found, strict=True):
            if not exists:
                raise self._no_snapshot(view)

    def lookup(self, views: Sequence[FeatureView], keys: Mapping[str, Sequence[Any]], rows: int) -> LookupResult:
        """Return the last facts for ``rows`` rows of ``keys``; see :class:`.online_store.LookupResult`.

        The lookup takes one pipelined round trip. Raises :class:`OnlineServerError` when the server does not answer in
        time, or a view has no snapshot, and :class:`.key_types.KeyTypeError` for a key of another type than the
        published ones.
        """
        from redis.exceptions import RedisError

        try:
            pipeline = self._connected().pipeline(transaction=False)
            for view in views:
                entity_keys = (_entity_field([keys[name][row] for name in view.entity]) for row in range(rows))
                pipeline.hmget(self._key(view), [WATERMARK, HEADER, KEY_TYPES, *entity_keys])
            answers = pipeline.execute()
        except RedisError as error:
            raise self._unreachable(error) from error
        ends = np.cumsum([0, *(len(view.dtypes) for view in views)]).tolist()
        values = np.full((rows, ends[-1]), np.nan)
        known_at = np.full((rows, len(views)), ABSENT, dtype=np.int64)
        watermarks: dict[str, datetime] = {}
        categories: dict[str, list[str]] = {}
        for view_position, (view, (start, end), (watermark, header, key_types, *facts)) in enumerate(
            zip(views, pairwise(ends), answers, strict=True)
        ):
            if watermark is None:
                raise self._no_snapshot(view)
            _require_key_types(view, json.loads(key_types or b"{}"), keys)
            watermarks[view.name] = instant_of(int(watermark))
            categories |= self._parse_categories(view, header)
            rows_found = [row for row, fact in enumerate(facts) if fact is not None]
            if rows_found:
                read = np.frombuffer(b"".join(facts[row] for row in rows_found), dtype="<i8").reshape(
                    len(rows_found), -1
                )
                known_at[rows_found, view_position] = read[:, 0]
                values[rows_found, start:end] = read[:, 1:].view("<f8")
        return LookupResult(views, values, known_at, watermarks, categories, latest_of(watermarks))

    def _parse_categories(self, view: FeatureView, header: bytes) -> dict[str, list[str]]:
        cached = self._categories.get(view.name)
        if cached is None or cached[0] != header:
            cached = header, {view.column(name): found for name, found in json.loads(header).items()}
            self._categories[view.name] = cached
        return cached[1]

    def _connected(self) -> "Redis":
        if self._client is None:
            from redis import Redis

            timeout = self.timeout_seconds
            # The client accepts only the redis:// schemes.
            url = self.url.replace("valkey", "redis", 1) if self.url.startswith("valkey") else self.url
            self._client = Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout)
        return self._client

    def _key(self, view: FeatureView) -> str:
        return f"{self.prefix}:{view.name}:{view.pinned().code_version}"

    def _no_snapshot(self, view: FeatureView) -> OnlineServerError:
        return OnlineServerError(
            f"Online snapshot of feature view '{view.name}', code version {view.pinned().code_version}",
            expected=f"a hash {self._key(view)}",
            found="none",
            fix=f"Materialize features/{view.name}: its latest partition publishes the snapshot.",
        )

    def _unreachable(self, error: Exception) -> OnlineServerError:
        return OnlineServerError(
            f"Online store at {without_password(self.url)}",
            expected=f"an answer within {self.timeout_seconds} s",
            found=str(error),
            fix="Start the server, or correct the address in the profile.",
        )


def _fields(snapshot: Snapshot, watermark: int) -> Iterator[tuple[Any, Any]]:
    values, categories = snapshot.matrix()
    key_columns = snapshot.keys()
    yield WATERMARK, str(watermark).encode()
    yield HEADER, json.dumps(categories).encode()
    yield KEY_TYPES, json.dumps({keys.name: key_type_of(keys.dtype) for keys in key_columns}).encode()
    entities = pl.DataFrame(key_columns).rows() if key_columns else [()]
    known_at = snapshot.known_at()
    for row in range(snapshot.frame.height):
        fact = known_at[row : row + 1].astype("<i8").tobytes() + values[row].astype("<f8").tobytes()
        yield _entity_field(entities[row]).encode(), fact


def _entity_field(key: Sequence[Any]) -> str:
    """Return the name of the field of an entity; a text too long for any entity is not sent to the server."""
    return json.dumps([None if type(value) is str and len(value) > MAX_KEY_BYTES else value for value in key])


def _require_key_types(view: FeatureView, published: Mapping[str, KeyType], keys: Mapping[str, Sequence[Any]]) -> None:
    for name, key_type in published.items():
        if view.key_types.get(name, key_type) != key_type:
            raise KeyTypeError(
                f"Online snapshot of feature view '{view.name}', key '{name}'",
                expected=f"keys of type {view.key_types[name]}, as declared",
                found=f"keys of type {key_type}",
                fix=f"Materialize features/{view.name} again, or correct its key_types.",
            )
        require_python_types(keys[name], PYTHON_TYPES[key_type], f"Online lookup, key '{name}'")
