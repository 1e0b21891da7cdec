"""The file format of an online snapshot: the last facts of one view, in a layout for memory mapping and binary search.

A file contains, for one version of a view's code::

    magic, length of the header, header (JSON)
    a dictionary per entity column: its distinct values, sorted
    keys       n × int64, sorted: the positions of the key values in their dictionaries, combined to one number
    known_at   n × int64, microseconds since 1970 in UTC
    values     n × columns, float64, row-major: NaN for null, a category as its position in the header's list
"""

import hashlib
import json
import math
import mmap
import os
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ml_platform.errors import PlatformError
from ml_platform.features.online_store import Snapshot
from ml_platform.features.view import FeatureView

MAGIC = b"MLPSNAP1"
ALIGNMENT = 64
EAGER_ENTRIES = 65_536
"""Dictionaries up to this size become Python dicts when a file is opened; larger ones are searched and cached."""

REMEMBERED_ENTRIES = 1_000_000
"""Size at which the cache of a larger dictionary is emptied."""


class SnapshotError(PlatformError):
    """Raised when a view has no snapshot, or a file is not a snapshot of it."""


@dataclass(frozen=True, eq=False)
class SnapshotFile:
    """One snapshot, mapped into memory.

    ``identity`` tells one file from its replacement. ``keys_view`` is ``keys`` as a memoryview, for bisection.
    """

    identity: tuple[int, int, int]
    rows: int
    entity: list[str]
    codes: list["Codes"]
    digests: list[str]
    keys: np.ndarray
    keys_view: memoryview
    known_at: np.ndarray
    values: np.ndarray
    watermark: datetime
    categories: dict[str, list[str]]

    @classmethod
    def open(cls, path: Path, view: FeatureView) -> "SnapshotFile":
        """Map the file at ``path``. Raises :class:`SnapshotError` when it is not a snapshot of ``view``."""
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        header, body = _parse_file(mapped, path)
        if header["columns"] != list(view.dtypes) or header["entity"] != view.entity:
            raise SnapshotError(
                f"Online snapshot {path}",
                expected=f"entity {view.entity} and columns {list(view.dtypes)}",
                found=f"entity {header['entity']} and columns {header['columns']}",
                fix="Change the view's code_version when its columns change.",
            )
        *dictionaries, keys, known_at, values = (
            np.frombuffer(mapped, dtype=part["dtype"], count=part["count"], offset=body + part["offset"])
            for part in header["arrays"]
        )
        return cls(
            identity=identity_of(status),
            rows=header["rows"],
            entity=header["entity"],
            codes=[Codes(entries) for entries in dictionaries],
            digests=header["digests"],
            keys=keys,
            keys_view=memoryview(keys.data),
            known_at=known_at,
            values=values.reshape(header["rows"], len(header["columns"])),
            watermark=datetime.fromisoformat(header["watermark"]),
            categories={view.column(name): found for name, found in header["categories"].items()},
        )


class Codes(dict[Any, int]):
    """Value → position in a sorted dictionary, or −1 for an unknown value.

    A small dictionary is loaded at once. A large one is searched on the first use of a value, and the result is cached.
    """

    def __init__(self, entries: np.ndarray) -> None:
        super().__init__({None: -1})
        self._entries = entries
        self._text = entries.dtype.kind == "S"
        self.size = len(entries)
        if self.size <= EAGER_ENTRIES:
            values = (value.decode() for value in entries.tolist()) if self._text else entries.tolist()
            self.update((value, code) for code, value in enumerate(values))

    def __missing__(self, value: Any) -> int:
        if len(self) > REMEMBERED_ENTRIES:
            self.clear()
            self[None] = -1
        code = self._search(value)
        self[value] = code
        return code

    def _search(self, value: Any) -> int:
        if self.size <= EAGER_ENTRIES or isinstance(value, str) != self._text:
            return -1
        encoded_value = value.encode() if self._text else value
        position = int(np.searchsorted(self._entries, np.array(encoded_value)))
        return position if position < self.size and self._entries[position] == encoded_value else -1


def pack_snapshot(snapshot: Snapshot) -> bytes:
    """Return the bytes of the snapshot's file.

    Raises :class:`SnapshotError` when a key column is not text, integer or boolean, or when the combinations of key
    values do not fit into an int64.
    """
    view, frame = snapshot.view, snapshot.frame
    dictionaries = [_dictionary(view, column, frame[column]) for column in view.entity]
    sizes = [len(entries) for entries in dictionaries]
    if math.prod(sizes) >= np.iinfo(np.int64).max:
        raise SnapshotError(
            f"Feature view '{view.name}'",
            expected="fewer than 2⁶³ combinations of key values",
            found=" × ".join(f"{size} of '{name}'" for size, name in zip(sizes, view.entity, strict=True)),
            fix="Combine some of the entity's columns into one.",
        )
    key = np.zeros(frame.height, dtype=np.int64)
    for column, entries in zip(view.entity, dictionaries, strict=True):
        key = key * len(entries) + np.searchsorted(entries, _key_values(frame[column]))
    order = np.argsort(key)
    values, categories = snapshot.matrix()
    known_at = snapshot.known_at()
    arrays = [*dictionaries, key[order], known_at[order], values[order].reshape(-1)]
    offsets = np.cumsum([0, *(_aligned(array.nbytes) for array in arrays)]).tolist()
    header = {
        "view": view.name,
        "code_version": view.pinned().code_version,
        "watermark": snapshot.watermark.astimezone(UTC).isoformat(),
        "rows": frame.height,
        "entity": view.entity,
        "columns": list(view.dtypes),
        "categories": categories,
        "digests": [hashlib.sha256(entries.tobytes()).hexdigest() for entries in dictionaries],
        "arrays": [
            {"dtype": array.dtype.str, "count": len(array), "offset": offset}
            for array, offset in zip(arrays, offsets, strict=False)
        ],
    }
    encoded = json.dumps(header).encode()
    start = MAGIC + struct.pack("<Q", len(encoded)) + encoded
    parts = [start.ljust(_aligned(len(start)), b"\0"), *(a.tobytes().ljust(_aligned(a.nbytes), b"\0") for a in arrays)]
    return b"".join(parts)


def _dictionary(view: FeatureView, column: str, values: pl.Series) -> np.ndarray:
    stored = _key_values(values)
    if stored.dtype.kind not in "Si":
        raise SnapshotError(
            f"Feature view '{view.name}', entity column '{column}'",
            expected="text, whole numbers or flags",
            found=str(values.dtype),
            fix="Derive a key of such a type, for example the hour as a number.",
        )
    return np.unique(stored)


def _key_values(values: pl.Series) -> np.ndarray:
    """Return key values as fixed-width UTF-8 bytes or int64."""
    if values.dtype == pl.String or isinstance(values.dtype, pl.Categorical | pl.Enum):
        encoded = [value.encode() for value in values.cast(pl.String).to_list()]
        return np.array(encoded, dtype=f"S{max(map(len, encoded), default=1) or 1}")
    return (
        values.to_numpy().astype(np.int64)
        if values.dtype.is_integer() or values.dtype == pl.Boolean
        else values.to_numpy()
    )


def read_header(path: Path) -> dict[str, Any]:
    """Return the header of the snapshot file at ``path``."""
    with path.open("rb") as file:
        return _parse_file(file.read(), path)[0]


def _parse_file(data: bytes | mmap.mmap, path: Path) -> tuple[dict[str, Any], int]:
    """Return the header, and the position at which the arrays begin."""
    prefix = len(MAGIC) + struct.calcsize("<Q")
    if data[: len(MAGIC)] != MAGIC:
        raise SnapshotError(
            f"File {path}", expected="an online snapshot", found=repr(bytes(data[:8])), fix="Publish the view again."
        )
    (length,) = struct.unpack("<Q", data[len(MAGIC) : prefix])
    return json.loads(bytes(data[prefix : prefix + length])), _aligned(prefix + length)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def identity_of(status: os.stat_result) -> tuple[int, int, int]:
    """Return inode, modification time and size: they change when another file replaces this one."""
    return status.st_ino, status.st_mtime_ns, status.st_size
