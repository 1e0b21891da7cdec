"""The choice of the requests that a prediction log keeps when it keeps a share of them.

A hash of the id and the rows of a request decides, so stable, candidate and shadow keep the same requests, and a
smaller share keeps a part of those that a larger one keeps. By the id alone, a client that always sends the same id
would be kept always or never.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

_VALUES = 2**64


def is_kept(request_id: str, rows: Sequence[Mapping[str, Any]], share: float) -> bool:
    """Return whether a log that keeps the ``share`` of all requests keeps this one."""
    if share >= 1:
        return True
    digest = hashlib.blake2b(request_id.encode() + b"\0" + orjson.dumps(rows, default=str), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * _VALUES
