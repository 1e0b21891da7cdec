"""The rows of a judgement with the feature values that a version itself reads, whatever the code of its views is today.

A training set has the values of today's views. A version of other code or settings learned from other values under the
same names, and serves with them. Its predictions from foreign values would say nothing about it.
"""

import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast

import polars as pl
import polars.selectors as cs

from ml_platform.data.lake import Lake
from ml_platform.data.source_hash import source_hash
from ml_platform.errors import PlatformError, listed
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.key_types import KeyTypeError
from ml_platform.features.request_values import run_request_view
from ml_platform.features.view import AS_OF, INSTANT, PREDICT_AT, FeatureView, ViewError
from ml_platform.registry.manifest import Manifest
from ml_platform.registry.models import ModelVersion
from ml_platform.serving.bento_digest import ChangedBentoError, require_unchanged
from ml_platform.serving.bento_features import views_by_bento
from ml_platform.serving.bento_signing import SigningKeys
from ml_platform.serving.bento_sources import BentoError
from ml_platform.serving.verified_bentos import verified_bento_of
from ml_platform.state.store import StateStore
from ml_platform.steps.model import BoundModel
from ml_platform.training.model_directory import StoredModel
from ml_platform.training.training_set import EXAMPLE_ID
from ml_platform.training.untimed_set import AFTER_ALL_FACTS

if TYPE_CHECKING:
    from resources.home import Home

CODE_HASH = re.compile(r"[0-9a-f]{12}")
"""Form of a version of code that is a hash of it; another one was written by hand and says nothing about the code."""

_ROW = "__row"


class OwnFeaturesError(PlatformError):
    """Raised when the feature values that a version itself reads cannot be had for the rows of a judgement."""


@dataclass(frozen=True)
class VersionFiles:
    """A version to score: its manifest, its model, and the folder of its verified files.

    ``find_bento`` returns the folder of its verified bento, and None if there is none.
    """

    manifest: Manifest
    stored: StoredModel
    directory: Path
    find_bento: Callable[[], Path | None]

    @property
    def features(self) -> FeatureSet:
        """The views with which the version was fitted, without their transformers."""
        return stored_views(self.directory)


@dataclass(frozen=True)
class GivenRows:
    """Rows of the training set ``table``, with the values of the views ``features``."""

    rows: pl.DataFrame
    table: str
    features: FeatureSet


@dataclass(frozen=True)
class OwnRows:
    """Rows with the values that a version reads; ``notes`` say where those come from that the given rows lack.

    Without notes, the version reads the given rows as they stand.
    """

    rows: pl.DataFrame
    notes: list[str]


def stored_views(directory: Path) -> FeatureSet:
    """Return the views of the model in ``directory``, without their transformers."""
    return FeatureSet.from_dict(json.loads((directory / "features.json").read_text()))


def bento_finder(version: ModelVersion, home: "Home", state: StateStore) -> Callable[[], Path | None]:
    """Return the function that finds the verified bento of ``version``; it raises for a bento that was changed."""

    def find() -> Path | None:
        record = verified_bento_of(state, version.name, str(version.version))
        if record is None or record.model_digest != version.content_digest:
            return None
        bento = home.bentos / record.folder
        if not bento.is_dir():
            return None
        require_unchanged(bento, SigningKeys(home.signing_keys).trusted)
        return bento

    return find


def own_rows(model: BoundModel, version: VersionFiles, given: GivenRows, lake: Lake) -> OwnRows:
    """Return the rows of ``given`` with the values that ``version`` reads of its own views.

    Views that are the same in both keep the given values; nothing is computed for them. The values of each other view
    come from the version's own training set if that has the rows with the same request. Otherwise they are read from
    the version's own change logs as its endpoint reads them, and request views are computed by their own code: here
    where it is the same, else by the code in the version's bento.

    Raises :class:`OwnFeaturesError` when a value cannot be had, and the errors of the lake for damaged tables.
    """
    own = version.features
    changed = changed_views(own, given.features)
    foreign = [view for view in own.fitted if not code_is_here(view, model.feature_set)]
    required = version.stored.required_columns
    columns = [name for view in own.views if view.name in changed for name in view.columns if name in required]
    columns += [name for view in foreign for name in view.columns]
    if not columns:
        return OwnRows(given.rows, [])
    rows = given.rows
    if PREDICT_AT not in rows.columns:
        rows = rows.with_columns(pl.lit(AFTER_ALL_FACTS, INSTANT).alias(PREDICT_AT))
    reading = _Reading(model, version, own, given, changed, lake)
    stored = None if foreign else reading.from_training_set(rows, columns)
    found, notes = stored or reading.computed(rows, columns, foreign)
    return OwnRows(given.rows.drop(columns, strict=False).hstack(found), notes)


def changed_views(own: FeatureSet, given: FeatureSet) -> set[str]:
    """Return the views of ``own`` whose values may differ from those of the view of the same name in ``given``.

    A view differs by its code, settings or arrivals, and by those of the views that give its inputs or its keys. Fitted
    views are left out: their transformers belong to the version.
    """
    known, changed = {view.name: view for view in given.views}, set[str]()
    for view in (each for each in own.read_order if each.fitted is None):
        same = known.get(view.name)
        is_same = same is not None and view.code_version == same.code_version and _timing(view) == _timing(same)
        key_views = _key_views(own, view)
        if not is_same or {*view.inputs, *key_views} & changed or key_views != _key_views(given, view):
            changed.add(view.name)
    return changed


class _Reading:
    """The ways to the values of one version."""

    def __init__(
        self,
        model: BoundModel,
        version: VersionFiles,
        own: FeatureSet,
        given: GivenRows,
        changed: Collection[str],
        lake: Lake,
    ) -> None:
        self.model, self.version, self.own, self.given = model, version, own, given
        self.changed, self.lake = changed, lake
        self.views = {view.name: view for view in own.views}

    def from_training_set(self, rows: pl.DataFrame, columns: Sequence[str]) -> tuple[pl.DataFrame, list[str]] | None:
        """Return ``columns`` of ``rows`` from the version's training set; None if it lacks a row or its request."""
        table, _ = self.model.pinned_training_set(self.version.manifest.tables)
        ids = rows[EXAMPLE_ID]
        if table == self.given.table or not self.lake.exists(table) or not ids.is_unique().all():
            return None
        partitions = None
        if self.model.has_time:
            # Only the partitions of the rows, or the cost would grow with the age of the table.
            first, last = (cast("datetime", found) for found in (rows[PREDICT_AT].min(), rows[PREDICT_AT].max()))
            end = last + self.model.prediction_lead + timedelta(microseconds=1)
            stored = set(self.lake.partitions(table))
            partitions = [key for key in self.model.partitions.covering(first, end) if key in stored]
            if not partitions:
                return None
        scanned = self.lake.scan(table, partitions=partitions)
        known = scanned.collect_schema()
        request = [name for name in self.own.fields if name in rows.columns]
        request += [PREDICT_AT] if self.model.has_time else []
        if any(name not in known for name in [*columns, *request]):
            return None
        kept = [EXAMPLE_ID, *dict.fromkeys([*request, *columns])]
        stored_rows = scanned.filter(pl.col(EXAMPLE_ID).is_in(ids.implode())).select(kept).collect()
        if stored_rows.height != rows.height:
            return None
        stored_rows = rows.select(EXAMPLE_ID).join(stored_rows, on=EXAMPLE_ID, how="left", maintain_order="left")
        if not stored_rows.select(request).equals(rows.select(request)):
            return None  # the data of these rows were corrected since
        return stored_rows.select(columns), [f"{self._named(self.changed)} from the training set of the version"]

    def computed(
        self, rows: pl.DataFrame, columns: Sequence[str], foreign: Sequence[FeatureView]
    ) -> tuple[pl.DataFrame, list[str]]:
        """Return ``columns`` of ``rows``, read from the version's logs and computed by its code."""
        wanted = self._wanted(rows, columns, foreign)
        order = [view for view in self.own.read_order if view.name in wanted]
        absent = sorted({field for view in order for field in view.fields if field not in rows.columns})
        if absent:
            raise self._error(f"the request fields {listed(absent)} in the rows", f"only {listed(rows.columns, 20)}")
        table = rows.with_columns(pl.col(PREDICT_AT).alias(AS_OF))
        notes: list[str] = []
        stored = [view for view in order if view.kind == "stored"]
        before = [view for view in order if view.kind == "request" and not view.inputs and view.fitted is None]
        after = [view for view in order if view not in stored and view not in before]
        try:
            table = self._requested(before, table, notes)
            if stored:
                table = _with_columns(table, self._looked_up(stored, table))
                notes += [self._log_note(view, rows) for view in stored if view.name in self.changed]
            table = self._requested(after, table, notes)
        except (ViewError, KeyTypeError, BentoError, ChangedBentoError) as error:
            raise self._error("values of its own views for the rows", str(error)) from error
        # A training set stores fractions in this type.
        return table.select(columns).with_columns(cs.float().cast(pl.Float32)), notes

    def _wanted(self, rows: pl.DataFrame, columns: Sequence[str], foreign: Sequence[FeatureView]) -> set[str]:
        """Return the views to compute: those of ``columns``, and those that they read and the rows do not have."""
        wanted = {view.name for view in self.own.views if set(view.columns) & set(columns)}
        wanted |= {view.name for view in foreign}
        for view in reversed(self.own.read_order):
            if view.name not in wanted:
                continue
            for name in {*view.inputs, *_key_views(self.own, view)}:
                source = self.views[name]
                needed = view.entity if view.kind == "stored" else source.dtypes
                read = {source.column(each) for each in needed if each in source.dtypes}
                ages = {source.age_column} if source.kind == "stored" and view.fitted is None else set()
                if name in self.changed or not (read | ages) <= set(rows.columns):
                    wanted.add(name)
        return wanted

    def _requested(self, views: Sequence[FeatureView], table: pl.DataFrame, notes: list[str]) -> pl.DataFrame:
        """Return ``table`` with the columns of the request ``views``, by the code of the version."""
        if not views:
            return table
        others = [view for view in views if not code_is_here(view, self.model.feature_set)]
        if others:
            bento = self.version.find_bento()
            if bento is None:
                raise self._error(
                    f"the code {_code(others[0])} of the view '{others[0].name}', here or in its bento",
                    "other code here, and no bento of the version",
                )
            names = [view.name for view in views]
            notes.append(f"{self._named(names)} by the code in the bento of the version")
            inputs = {name for view in views for name in view.inputs}
            computed = {column for view in views for column in view.columns}
            read = {column for name in inputs for column in self.views[name].columns}
            fields = {field for view in views for field in view.fields}
            seen = [name for name in table.columns if name in {*fields, *(read - computed), PREDICT_AT, AS_OF}]
            return _with_columns(table, views_by_bento(bento, names, table.select(seen)))
        for view in views:
            inputs_of = [column for name in view.inputs for column in self.views[name].columns]
            clock = [PREDICT_AT, *([AS_OF] if view.inputs else [])]
            table = _with_columns(table, run_request_view(view, table.select(*view.fields, *clock, *inputs_of)))
        shown = [view.name for view in views if view.name in self.changed]
        if shown:
            notes.append(f"{self._named(shown)} by its code here, with the settings of the version")
        return table

    def _looked_up(self, views: Sequence[FeatureView], table: pl.DataFrame) -> pl.DataFrame:
        """Return all columns of the stored ``views``, also hidden ones and ages, for the rows of ``table``."""
        gone = [view for view in views if not self.lake.exists(view.table)]
        if gone:
            raise self._error(
                f"facts of the view '{gone[0].name}' by the code {_code(gone[0])}", "none: they were removed"
            )
        shown = [
            view.model_copy(
                update={"age": True, "features": [each.model_copy(update={"hidden": False}) for each in view.features]}
            )
            for view in views
        ]
        reads = FeatureSet(shown)
        derived = {
            key: self.views[name].column(key)
            for view in views
            for name in _key_views(self.own, view)
            for key in view.entity
            if key in self.views[name].dtypes
        }
        keys = [table[derived.get(key, key)].alias(key) for key in reads.key_fields]
        rows_read = pl.DataFrame([*keys, table[PREDICT_AT]]).with_row_index(_ROW)
        return (
            reads.as_of(rows_read.lazy(), reads.logs(self.lake))
            .collect()
            .sort(_ROW)
            .drop(_ROW, PREDICT_AT, *reads.key_fields)
        )

    def _log_note(self, view: FeatureView, rows: pl.DataFrame) -> str:
        """Return where the facts of ``view`` come from, and when they end; raises if there are none before the rows."""
        scheme = self.model.view_scheme(view)
        note = f"'{view.name}' from its facts by the code {_code(view)}"
        if scheme is None or not scheme.is_timed:
            return note
        last = cast("datetime", rows[PREDICT_AT].max())
        bounds = [scheme.bounds(key) for key in self.lake.partitions(view.table) if scheme.names_key(key)]
        ends = [end for start, end in bounds if start <= last]
        if not ends:
            raise self._error(
                f"facts of the view '{view.name}' by the code {_code(view)} before {last:%Y-%m-%d}", "none"
            )
        if max(ends) > last:
            return note
        return f"{note}, which end on {max(ends):%Y-%m-%d %H:%M} UTC; as its endpoint reads them"

    def _named(self, names: Collection[str]) -> str:
        return listed([view.name for view in self.own.views if view.name in names])

    def _error(self, expected: str, found: str) -> OwnFeaturesError:
        manifest = self.version.manifest
        return OwnFeaturesError(
            f"Features of a version of '{self.model.name}' of {manifest.partition or 'no partition'}",
            expected=expected,
            found=found,
            fix="Check out the commit of the version to judge it, or restore its tables and bento from a backup.",
        )


def code_is_here(view: FeatureView, declared: FeatureSet) -> bool:
    """Return whether the code of ``view``, which a version carries, is the code of its function in this process.

    A code version that was written by hand is compared with that of the view of the same name in ``declared``.
    """
    code = _code(view)
    if CODE_HASH.fullmatch(code) is None:
        return any(each.name == view.name and _code(each) == code for each in declared.views)
    try:
        return source_hash(view.code) == code
    except (PlatformError, ImportError):
        return False  # the function or its module is gone


def computable_here(features: FeatureSet, declared: FeatureSet) -> FeatureSet:
    """Return the part of ``features`` whose request views have the code of this process; see :func:`code_is_here`.

    Views that read others of other code are left out too.
    """
    lost: set[str] = set()
    for view in features.read_order:
        is_foreign = view.kind == "request" and not code_is_here(view, declared)
        if is_foreign or {*view.inputs, *_key_views(features, view)} & lost:
            lost.add(view.name)
    if not lost:
        return features
    views = [view for view in features.views if view.name not in lost]
    names = {name for view in views for name in view.feature_names}
    transformers = {name: each for name, each in features.transformers.items() if name not in lost}
    return FeatureSet(views, [name for name in features.leave_out if name in names], transformers)


def _code(view: FeatureView) -> str:
    return view.code_version.rpartition("-")[0] or view.code_version


def _timing(view: FeatureView) -> list[object]:
    return [each.timing for each in view.arrivals]


def _key_views(features: FeatureSet, view: FeatureView) -> list[str]:
    """Return the request views of ``features`` that give keys of the stored ``view``."""
    if view.kind != "stored":
        return []
    early = [each for each in features.views if each.kind == "request" and each.fitted is None and not each.inputs]
    return [each.name for each in early if set(each.dtypes) & set(view.entity)]


def _with_columns(table: pl.DataFrame, columns: pl.DataFrame) -> pl.DataFrame:
    return table.drop(columns.columns, strict=False).hstack(columns)
