"""The file format of an online snapshot: the last facts of one view, in a layout for memory mapping and binary search.

A file contains, for one version of a view's code::

    magic, length of the header, header (JSON, with a checksum of all that follows)
    a dictionary per entity column: its distinct values, sorted; text as UTF-8 of fixed width, without NUL
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
import zlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ml_platform.errors import PlatformError
from ml_platform.features.key_types import PYTHON_TYPES, key_type_of
from ml_platform.features.online_store import Snapshot
from ml_platform.features.view import FeatureView

MAGIC = b"MLPSNAP1"
ALIGNMENT = 64
EAGER_ENTRIES = 65_536
"""Dictionaries up to this size become Python dicts when a file is opened; larger ones are searched in the file."""

MANY_VALUES = 16
"""From this many values on, NumPy searches a large dictionary faster than one value at a time."""


class SnapshotError(PlatformError):
    """Raised when a view has no snapshot, or a file is not a snapshot of it."""


@dataclass(frozen=True, eq=False)
class SnapshotFile:
    """One snapshot, mapped into memory.

    ``identity`` tells one file from its replacement. ``keys_view`` is ``keys`` as a memoryview, for bisection.
    ``python_types`` has, for each entity column, the types of the values that a lookup may pass.
    """

    path: Path
    identity: tuple[int, int, int]
    rows: int
    entity: list[str]
    python_types: list[frozenset[type]]
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
        """Map the file at ``path``. Raises :class:`SnapshotError` when it is damaged, or no snapshot of ``view``."""
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not status.st_size:
                raise _damaged(path, "an empty file")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        header, body = _parse_file(mapped, path)
        checksum = header.get("checksum")
        if checksum is not None and zlib.crc32(memoryview(mapped)[body:]) != checksum:
            raise _damaged(path, "other bytes than were written")
        if header["columns"] != list(view.dtypes) or header["entity"] != view.entity:
            raise SnapshotError(
                f"Online snapshot {path}",
                expected=f"entity {view.entity} and columns {list(view.dtypes)}",
                found=f"entity {header['entity']} and columns {header['columns']}",
                fix="Change the view's code_version when its columns change.",
            )
        key_types = header.get("key_types", {})
        wrong = {name: found for name, found in key_types.items() if view.key_types.get(name, found) != found}
        if wrong:
            raise SnapshotError(
                f"Online snapshot {path}",
                expected=f"keys of the types {view.key_types}",
                found=f"{wrong}",
                fix=f"Materialize features/{view.name} again, or correct its key_types.",
            )
        try:
            *dictionaries, keys, known_at, values = (
                np.frombuffer(mapped, dtype=part["dtype"], count=part["count"], offset=body + part["offset"])
                for part in header["arrays"]
            )
        except ValueError as error:
            raise _damaged(path, "a part of one") from error
        return cls(
            path=path,
            identity=identity_of(status),
            rows=header["rows"],
            entity=header["entity"],
            python_types=[
                PYTHON_TYPES[key_types[name]] if name in key_types else _types_before_0_3(entries)
                for name, entries in zip(header["entity"], dictionaries, strict=True)
            ],
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
    """Value → position in a sorted dictionary, or −1 for an unknown value or None.

    A small dictionary is loaded when the file is opened. A large one is searched in the mapped file for every value.
    Nothing is remembered, so lookups change neither the memory of the process nor the answers to other lookups.
    """

    def __init__(self, entries: np.ndarray) -> None:
        super().__init__({None: -1})
        self._entries = entries
        self._text = entries.dtype.kind == "S"
        self._values: Any = entries if self._text else memoryview(entries.data)
        self.size = len(entries)
        self._loaded = self.size <= EAGER_ENTRIES
        if self._loaded:
            values = (value.decode() for value in entries.tolist()) if self._text else entries.tolist()
            self.update((value, code) for code, value in enumerate(values))

    def __missing__(self, value: Any) -> int:
        if self._loaded or isinstance(value, str) != self._text:
            return -1
        if self._text:
            value = self._encoded(value)
            if value is None:
                return -1
        position = bisect_left(self._values, value)
        return position if position < self.size and self._values[position] == value else -1

    def many(self, values: Sequence[Any]) -> np.ndarray:
        """Return the codes of ``values`` (n,), as int64."""
        if self._loaded or len(values) < MANY_VALUES:
            return np.fromiter(map(self.__getitem__, values), dtype=np.int64, count=len(values))
        plain = [self._encoded(value) for value in values] if self._text else values
        absent = b"" if self._text else 0
        requested = np.array([absent if value is None else value for value in plain], dtype=self._entries.dtype)
        position = np.minimum(np.searchsorted(self._entries, requested), self.size - 1)
        known = (self._entries[position] == requested) & np.array([value is not None for value in plain])
        return np.where(known, position, -1)

    def _encoded(self, value: str | None) -> bytes | None:
        """Return UTF-8, or None for a text that cannot be an entry: fixed width drops NUL at the end and cuts."""
        encoded = None if value is None else value.encode(errors="surrogatepass")
        return None if encoded is None or len(encoded) > self._entries.itemsize or b"\0" in encoded else encoded


def pack_snapshot(snapshot: Snapshot) -> bytes:
    """Return the bytes of the snapshot's file.

    Raises :class:`.key_types.KeyTypeError` when a key column is not text, integer or boolean, when it is not of the
    view's declared type, or when a key cannot be kept exactly. Raises :class:`SnapshotError` when the combinations of
    key values do not fit into an int64, and :class:`.view.ViewError` for a value that float64 does not represent.
    """
    view, frame = snapshot.view, snapshot.frame
    key_columns = snapshot.keys()
    dictionaries = [np.unique(_key_values(keys)) for keys in key_columns]
    sizes = [len(entries) for entries in dictionaries]
    if math.prod(sizes) >= np.iinfo(np.int64).max:
        raise SnapshotError(
            f"Feature view '{view.name}'",
            expected="fewer than 2⁶³ combinations of key values",
            found=" × ".join(f"{size} of '{name}'" for size, name in zip(sizes, view.entity, strict=True)),
            fix="Combine some of the entity's columns into one.",
        )
    key = np.zeros(frame.height, dtype=np.int64)
    for keys, entries in zip(key_columns, dictionaries, strict=True):
        key = key * len(entries) + np.searchsorted(entries, _key_values(keys))
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
        "key_types": {keys.name: key_type_of(keys.dtype) for keys in key_columns},
        "columns": list(view.dtypes),
        "categories": categories,
        "digests": [hashlib.sha256(entries.tobytes()).hexdigest() for entries in dictionaries],
        "arrays": [
            {"dtype": array.dtype.str, "count": len(array), "offset": offset}
            for array, offset in zip(arrays, offsets, strict=False)
        ],
    }
    body = b"".join(array.tobytes().ljust(_aligned(array.nbytes), b"\0") for array in arrays)
    encoded = json.dumps({**header, "checksum": zlib.crc32(body)}).encode()
    start = MAGIC + struct.pack("<Q", len(encoded)) + encoded
    return start.ljust(_aligned(len(start)), b"\0") + body


def _key_values(values: pl.Series) -> np.ndarray:
    """Return keys as fixed-width UTF-8 bytes or int64."""
    if values.dtype == pl.String:
        encoded = [value.encode() for value in values.to_list()]
        return np.array(encoded, dtype=f"S{max(map(len, encoded), default=1) or 1}")
    return values.to_numpy().astype(np.int64)


def _types_before_0_3(entries: np.ndarray) -> frozenset[type]:
    # Snapshots of earlier versions do not name their key types, and store flags like whole numbers.
    return PYTHON_TYPES["string"] if entries.dtype.kind == "S" else PYTHON_TYPES["int"] | PYTHON_TYPES["bool"]


def read_header(path: Path) -> dict[str, Any]:
    """Return the header of the snapshot file at ``path``."""
    with path.open("rb") as file:
        return _parse_file(file.read(), path)[0]


def _parse_file(data: bytes | mmap.mmap, path: Path) -> tuple[dict[str, Any], int]:
    """Return the header, and the position at which the arrays begin."""
    prefix = len(MAGIC) + struct.calcsize("<Q")
    if data[: len(MAGIC)] != MAGIC:
        raise _damaged(path, repr(bytes(data[: len(MAGIC)])))
    try:
        (length,) = struct.unpack("<Q", data[len(MAGIC) : prefix])
        return json.loads(bytes(data[prefix : prefix + length])), _aligned(prefix + length)
    except (struct.error, ValueError) as error:
        raise _damaged(path, "a damaged header") from error


def _damaged(path: Path, found: str) -> SnapshotError:
    return SnapshotError(f"File {path}", expected="an online snapshot", found=found, fix="Publish the view again.")


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def identity_of(status: os.stat_result) -> tuple[int, int, int]:
    """Return inode, modification time and size: they change when another file replaces this one."""
    return status.st_ino, status.st_mtime_ns, status.st_size
