"""The online store with history: one file per view with the facts of the last weeks, read as of the prediction time.

Other stores have the last fact of each entity, so a request about the past reads facts that were not known then. This
one answers as the endpoint would have at the prediction time, by the declared arrival of the sources. It serves a
replay of a past year, in which a partition lands as a whole and its requests follow one another in data time.
"""

import io
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ml_platform.data.atomic import write_bytes
from ml_platform.data.instants import instant_of
from ml_platform.errors import PlatformError
from ml_platform.features.online_store import ABSENT, LookupResult, Publication, Snapshot, latest_of
from ml_platform.features.row_columns import Numbers
from ml_platform.features.snapshot_file import identity_of
from ml_platform.features.view import INSTANT, KNOWN_AT, FeatureView

SCHEME = "history"
SUFFIX = ".history"

HISTORY = timedelta(days=40)
"""Time before the watermark whose facts are published; earlier predictions have no facts."""

_WATERMARK = "watermark"


class HistoryError(PlatformError):
    """Raised for a view without a history, and for a lookup without prediction times."""


class HistoryStore:
    """History files under ``root``: ``<view>/<code version>.history``. Safe to share between threads."""

    remote = False

    def __init__(self, root: Path) -> None:
        self.root = root
        self._open_files: dict[Path, _ViewHistory] = {}

    @property
    def location(self) -> str:
        """The address ``history://`` with the absolute path of the folder."""
        return f"{SCHEME}://{self.root.resolve()}"

    def publish(self, snapshot: Snapshot) -> Publication:
        """Replace the facts of a view, of which an entity may have several; an earlier watermark changes nothing."""
        path = self._path(snapshot.view)
        current = _watermark(path) if path.exists() else None
        if current is not None and current > snapshot.watermark:
            rows = pl.scan_parquet(path).select(pl.len()).collect().item()
            return Publication(snapshot.view.name, False, rows, current, path.stat().st_size)
        keys = snapshot.keys()
        facts = snapshot.frame.with_columns(keys).select(*snapshot.view.entity, KNOWN_AT, *snapshot.view.dtypes)
        mark = pl.lit(snapshot.watermark).cast(INSTANT).alias(_WATERMARK)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, _parquet(facts.with_columns(mark)))
        return Publication(snapshot.view.name, True, facts.height, snapshot.watermark, path.stat().st_size)

    def require(self, views: Sequence[FeatureView]) -> None:
        """Raise :class:`HistoryError` for a view without a history."""
        for view in views:
            self._history(view)

    def lookup(self, views: Sequence[FeatureView], keys: Mapping[str, Sequence[Any]], rows: int) -> LookupResult:
        """Return the last facts of all with the watermarks of the views, as a store without history does."""
        marks = {view.name: self._history(view).watermark for view in views}
        latest = latest_of(marks)
        found = self.lookup_as_of(views, keys, np.full(rows, latest, dtype=np.int64))
        return found._replace(watermarks=marks, latest_watermark=latest)

    def lookup_as_of(
        self, views: Sequence[FeatureView], keys: Mapping[str, Sequence[Any]], predict_at: np.ndarray
    ) -> LookupResult:
        """Return the facts that had arrived at ``predict_at`` (n, microseconds) for the rows of ``keys``.

        The watermarks are those of the prediction times. Rows with different ones for a view have none, so the skew
        check leaves them out: send the rows of one arrival together.
        """
        histories = [self._history(view) for view in views]
        rows = len(predict_at)
        ends = np.cumsum([0, *(each.values.shape[1] for each in histories)]).tolist()
        values = np.full((rows, ends[-1]), np.nan)
        known_at = np.full((rows, len(views)), ABSENT, dtype=np.int64)
        watermarks: dict[str, datetime] = {}
        for place, (view, history) in enumerate(zip(views, histories, strict=True)):
            cuts = _cut_offs(view, predict_at)
            found = history.find(view, keys, cuts)
            has_fact = found >= 0
            values[has_fact, ends[place] : ends[place + 1]] = history.values[found[has_fact]]
            known_at[has_fact, place] = history.known_at[found[has_fact]]
            if rows and (not view.arrivals or cuts.min() == cuts.max()):
                watermarks[view.name] = instant_of(int(cuts.max()))
        return LookupResult(
            views=views,
            values=values,
            known_at=known_at,
            watermarks=watermarks if len(watermarks) == len(views) else {},
            categories={name: found for each in histories for name, found in each.categories.items()},
            # Facts after the prediction are not read, so they belong to the prediction time.
            latest_watermark=ABSENT,
        )

    def _history(self, view: FeatureView) -> "_ViewHistory":
        path = self._path(view)
        try:
            identity = identity_of(path.stat())
        except FileNotFoundError:
            raise HistoryError(
                f"History of feature view '{view.name}', code version {view.pinned().code_version}",
                expected=f"a file {path}",
                found="none",
                fix=f"Materialize features/{view.name}: its latest partition publishes the facts.",
            ) from None
        cached = self._open_files.get(path)
        if cached is None or cached.identity != identity:
            cached = _ViewHistory.open(path, view, identity)
            # Other threads read the dictionary meanwhile, so it is replaced and never changed.
            self._open_files = {**self._open_files, path: cached}
        return cached

    def _path(self, view: FeatureView) -> Path:
        return self.root / view.name / f"{view.pinned().code_version}{SUFFIX}"


@dataclass(frozen=True, eq=False)
class _ViewHistory:
    """The facts of one view, sorted by entity and time; ``spans`` has the rows of each entity."""

    identity: tuple[int, int, int]
    watermark: datetime
    spans: Mapping[tuple[Any, ...], tuple[int, int]]
    known_at: np.ndarray
    times: memoryview
    values: Numbers
    categories: Mapping[str, list[str]]

    @classmethod
    def open(cls, path: Path, view: FeatureView, identity: tuple[int, int, int]) -> "_ViewHistory":
        watermark = _watermark(path)
        facts = pl.read_parquet(path).drop(_WATERMARK).sort(*view.entity, KNOWN_AT, maintain_order=True)
        snapshot = Snapshot(view, facts, watermark)
        values, categories = snapshot.matrix()
        known_at = np.ascontiguousarray(snapshot.known_at())
        if view.entity:
            counted = facts.group_by(view.entity, maintain_order=True).len("_rows")
            lengths = counted["_rows"].to_list()
            entities = counted.select(view.entity).rows()
        else:
            lengths, entities = [facts.height], [()]
        ends = np.cumsum([0, *lengths]).tolist()
        spans = dict(zip(entities, pairwise(ends), strict=True))
        named = {view.column(name): found for name, found in categories.items()}
        return cls(identity, watermark, spans, known_at, memoryview(known_at.data), values, named)

    def find(self, view: FeatureView, keys: Mapping[str, Sequence[Any]], cuts: np.ndarray) -> np.ndarray:
        """Return the row of the last fact known before each of ``cuts`` (n, int64), −1 without one."""
        found = np.full(len(cuts), -1, dtype=np.int64)
        columns = [keys[name] for name in view.entity]
        spans, times = self.spans, self.times
        for row, cut in enumerate(cuts.tolist()):
            span = spans.get(tuple(column[row] for column in columns))
            if span is not None:
                place = bisect_left(times, cut, *span) - 1
                if place >= span[0]:
                    found[row] = place
        return found


def _cut_offs(view: FeatureView, predict_at: np.ndarray) -> np.ndarray:
    """Return the instant before which a fact of ``view`` must be known, as the point-in-time join reads it."""
    if not view.arrivals:
        return predict_at + 1
    return np.asarray(np.minimum.reduce([each.cut_offs(predict_at) for each in view.arrivals]))


def _watermark(path: Path) -> datetime:
    # A view without facts has no row that could tell; its facts end at the epoch.
    found: datetime | None = pl.scan_parquet(path).select(pl.col(_WATERMARK).max()).collect().item()
    return instant_of(0) if found is None else found


def _parquet(facts: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    facts.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()
