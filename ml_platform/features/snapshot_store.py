"""The online store without a server: one memory-mapped file per view, replaced by rename, read without locks.

A reader keeps its open file until it notices a new one, at most ``refresh_seconds`` later. A lookup therefore sees one
whole snapshot of each view, the old one or the new one. A damaged new file is logged, and the open one stays in use, or
after a restart the one before it. `snapshot_file.py` describes the layout of a file.
"""

import logging
import os
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
from filelock import FileLock

from ml_platform.data.atomic import write_bytes
from ml_platform.features.key_types import require_python_types
from ml_platform.features.online_store import ABSENT, LookupResult, Publication, Snapshot, latest_of
from ml_platform.features.snapshot_file import (
    Codes,
    SnapshotError,
    SnapshotFile,
    identity_of,
    pack_snapshot,
    read_header,
)
from ml_platform.features.view import FeatureView

SUFFIX, PREVIOUS = ".snapshot", ".previous"

_log = logging.getLogger(__name__)

FEW_ROWS = 4
"""Up to this many rows, one lookup for each row is faster than one for all of them."""

MAX_PLANS = 16
"""Lists of views whose plans a reader keeps; a service has one per model version that it serves."""


class SnapshotStore:
    """Snapshot files under ``root``: ``<view>/<code version>.snapshot``. Safe to share between threads."""

    remote = False

    def __init__(
        self, root: Path, refresh_seconds: float = 0.5, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.root = root
        self.refresh_seconds = refresh_seconds
        self._monotonic = monotonic
        # Plans keep their files open; a file without a plan is closed.
        self._open_files: WeakValueDictionary[Path, SnapshotFile] = WeakValueDictionary()
        self._plans: dict[int, _FileLookupPlan] = {}
        # The files that could not be read, so that the log names each of them once.
        self._damaged: dict[Path, tuple[int, int, int]] = {}

    @property
    def location(self) -> str:
        """Absolute path of the folder."""
        return str(self.root.resolve())

    def publish(self, snapshot: Snapshot) -> Publication:
        """Replace the snapshot of a view, unless the current one has a later watermark; return the result."""
        path = self._path(snapshot.view)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            current_header = _header_of(path)
            if current_header is not None and datetime.fromisoformat(current_header["watermark"]) > snapshot.watermark:
                current = datetime.fromisoformat(current_header["watermark"])
                return Publication(snapshot.view.name, False, current_header["rows"], current, path.stat().st_size)
            data = pack_snapshot(snapshot)
            if current_header is not None:
                _keep_as_previous(path)
            write_bytes(path, data)
        return Publication(snapshot.view.name, True, snapshot.frame.height, snapshot.watermark, len(data))

    def require(self, views: Sequence[FeatureView]) -> None:
        """Raise :class:`SnapshotError` for a view without a readable snapshot."""
        self._plan(views)

    def lookup(self, views: Sequence[FeatureView], keys: Mapping[str, Sequence[Any]], rows: int) -> LookupResult:
        """Return the last facts for ``rows`` rows of ``keys``; see :class:`.online_store.LookupResult`.

        Raises :class:`SnapshotError` for a view without a snapshot, and :class:`.key_types.KeyTypeError` for a key of
        another type than the published ones.
        """
        plan = self._plan(views)
        for column, types in plan.python_types:
            if rows != 1 or type(keys[column][0]) not in types:
                require_python_types(keys[column], types, f"Online lookup, key '{column}'")
        if rows <= FEW_ROWS:
            values = np.empty((rows, plan.width))
            known_at = np.empty((rows, len(plan.files)), dtype=np.int64)
            for row in range(rows):
                _find_one(plan, {column: found[row] for column, found in keys.items()}, values[row], known_at[row])
        else:
            values = np.full((rows, plan.width), np.nan)
            known_at = np.full((rows, len(plan.files)), ABSENT, dtype=np.int64)
            _find_many(plan, keys, rows, values, known_at)
        return LookupResult(views, values, known_at, plan.watermarks, plan.categories, plan.latest_watermark)

    def _plan(self, views: Sequence[FeatureView]) -> "_FileLookupPlan":
        now = self._monotonic()
        plan = self._plans.get(id(views))
        if plan is not None and plan.views is views and now < plan.check_at:
            return plan
        files = [self._file(view) for view in views]
        if plan is None or plan.views is not views or plan.files != files:
            plan = _FileLookupPlan.of_files(views, files)
            self._keep(plan)
        plan.check_at = now + self.refresh_seconds
        return plan

    def _keep(self, plan: "_FileLookupPlan") -> None:
        """Keep ``plan`` in place of the oldest plan, and drop plans with files that it replaces."""
        current = {file.path: file for file in plan.files}
        kept = [
            each
            for each in self._plans.values()
            if each.views is not plan.views and all(current.get(file.path, file) is file for file in each.files)
        ]
        # Other threads read the dictionary meanwhile, so it is replaced and never changed.
        self._plans = {id(each.views): each for each in [*kept[-(MAX_PLANS - 1) :], plan]}

    def _file(self, view: FeatureView) -> "SnapshotFile":
        path = self._path(view)
        try:
            status = path.stat()
        except FileNotFoundError:
            raise SnapshotError(
                f"Online snapshot of feature view '{view.name}', code version {view.pinned().code_version}",
                expected=f"a file {path}",
                found="none",
                fix=f"Materialize features/{view.name}: its latest partition publishes the snapshot.",
            ) from None
        cached = self._open_files.get(path)
        if cached is None or cached.identity != identity_of(status):
            try:
                cached = SnapshotFile.open(path, view)
            except SnapshotError as error:
                cached = cached or _opened(path.with_suffix(PREVIOUS), view)
                if cached is None:
                    raise
                if self._damaged.get(path) != identity_of(status):
                    self._damaged[path] = identity_of(status)
                    _log.error("The last snapshot stays in use: %s", error)
                return cached
            self._open_files[path] = cached
        return cached

    def _path(self, view: FeatureView) -> Path:
        return self.root / view.name / f"{view.pinned().code_version}{SUFFIX}"


def _header_of(path: Path) -> dict[str, Any] | None:
    """Return the header of the snapshot at ``path``; None without one, and for a damaged one, which is replaced."""
    try:
        return read_header(path)
    except FileNotFoundError:
        return None
    except SnapshotError as error:
        _log.error("A damaged snapshot is replaced: %s", error)
        return None


def _keep_as_previous(path: Path) -> None:
    staged = path.with_suffix(".staged")
    staged.unlink(missing_ok=True)
    os.link(path, staged)
    staged.replace(path.with_suffix(PREVIOUS))


def _opened(path: Path, view: FeatureView) -> SnapshotFile | None:
    try:
        return SnapshotFile.open(path, view)
    except (FileNotFoundError, SnapshotError):
        return None


class _FileSearch(NamedTuple):
    """The arrays of a file in which the fact of one entity is found, and the row of an entity that it does not have."""

    columns: list[tuple[str, Codes, int]]
    keys: memoryview
    known_at: memoryview
    values: np.ndarray
    absent: np.ndarray


@dataclass(eq=False)
class _FileLookupPlan:
    """The snapshot files of a list of views, and the span of each file's columns in the result of a lookup."""

    views: Sequence[FeatureView]
    files: list[SnapshotFile]
    searches: list[_FileSearch]
    spans: list[tuple[int, int]]
    python_types: list[tuple[str, frozenset[type]]]
    width: int
    watermarks: dict[str, datetime]
    latest_watermark: int
    categories: dict[str, list[str]]
    check_at: float = 0.0

    @classmethod
    def of_files(cls, views: Sequence[FeatureView], files: list[SnapshotFile]) -> "_FileLookupPlan":
        ends = np.cumsum([0, *(file.values.shape[1] for file in files)]).tolist()
        watermarks = {view.name: file.watermark for view, file in zip(views, files, strict=True)}
        return cls(
            views=views,
            files=files,
            searches=[_search(file) for file in files],
            spans=list(pairwise(ends)),
            python_types=list(_python_types(files).items()),
            width=ends[-1],
            watermarks=watermarks,
            latest_watermark=latest_of(watermarks),
            categories={name: found for file in files for name, found in file.categories.items()},
        )


def _python_types(files: Sequence[SnapshotFile]) -> dict[str, frozenset[type]]:
    """Return the types of the values of each key column that fit the keys of all ``files``."""
    found: dict[str, frozenset[type]] = {}
    for file in files:
        for column, types in zip(file.entity, file.python_types, strict=True):
            found[column] = found.get(column, types) & types
    return found


def _search(file: SnapshotFile) -> _FileSearch:
    columns = [(column, codes, codes.size) for column, codes in zip(file.entity, file.codes, strict=True)]
    absent = np.full(file.values.shape[1], np.nan)
    return _FileSearch(columns, file.keys_view, memoryview(file.known_at.data), file.values, absent)


def _find_one(plan: _FileLookupPlan, keys: Mapping[str, Any], values: np.ndarray, known_at: np.ndarray) -> None:
    # For a few rows, Python numbers and bisection over the mapped keys are several times faster than array calls.
    found, times = [], []
    for columns, known_keys, file_times, facts, absent in plan.searches:
        key = 0
        for column, codes, size in columns:
            code = codes[keys[column]]
            if code < 0:
                break
            key = key * size + code
        else:
            row = bisect_left(known_keys, key)
            if row < len(known_keys) and known_keys[row] == key:
                found.append(facts[row])
                times.append(file_times[row])
                continue
        found.append(absent)
        times.append(ABSENT)
    if found:
        np.concatenate(found, out=values)
        known_at[:] = times


def _find_many(
    plan: _FileLookupPlan, keys: Mapping[str, Sequence[Any]], rows: int, values: np.ndarray, known_at: np.ndarray
) -> None:
    coded: dict[tuple[str, str], np.ndarray] = {}
    for view_position, (file, (start, end)) in enumerate(zip(plan.files, plan.spans, strict=True)):
        if not file.rows:
            continue
        key = np.zeros(rows, dtype=np.int64)
        found = np.ones(rows, dtype=bool)
        for column, codes, digest in zip(file.entity, file.codes, file.digests, strict=True):
            # Views with equal dictionaries for a column share the codes.
            if (column, digest) not in coded:
                coded[column, digest] = codes.many(keys[column])
            code = coded[column, digest]
            found &= code >= 0
            key = key * codes.size + code
        row = np.minimum(np.searchsorted(file.keys, key), file.rows - 1)
        found &= file.keys[row] == key
        if found.all():
            values[:, start:end] = file.values[row]
            known_at[:, view_position] = file.known_at[row]
        else:
            values[found, start:end] = file.values[row[found]]
            known_at[found, view_position] = file.known_at[row[found]]
