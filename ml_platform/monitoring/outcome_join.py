"""The incremental join of logged predictions with labels: only new predictions and changed labels are read.

Each step of the join commits its facts and its progress in one transaction of the state store, so a killed join goes on
where it was. A label belongs to a prediction when their identity is equal and the prediction time lies within the times
of the label's partition, widened by :data:`MARGIN`. So the result does not depend on the order of arrival.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import polars as pl
import sqlalchemy as sa

from ml_platform.data.canonical import value_digest
from ml_platform.data.digest import content_hash
from ml_platform.data.lake import Lake, StagedRows
from ml_platform.data.lake_catalog import Segment
from ml_platform.errors import listed
from ml_platform.monitoring.fact_tables import writing_facts
from ml_platform.monitoring.hashed_fields import HashedFields
from ml_platform.monitoring.known_ids import PREDICTION_ID
from ml_platform.monitoring.logged_fields import identity_column, with_identity
from ml_platform.monitoring.outcomes import (
    FACT_SCHEMA,
    OUTCOME,
    OUTCOME_KNOWN_AT,
    RECORDED_AT,
    OutcomeError,
    latest_facts,
    match_labels,
    outcomes_table,
)
from ml_platform.monitoring.prediction_days import add_outcomes, day_counts, day_name
from ml_platform.monitoring.prediction_log import predictions_table
from ml_platform.state.cursors import read_cursor, write_cursor
from ml_platform.state.schema import WHOLE, joined_labels

MARGIN = timedelta(days=7)
"""Time by which a prediction may lie outside the prediction times of the label's partition."""

ANY_TIME = (datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC))
"""Times of the predictions to which labels without a time may belong."""

_BATCH_ROWS = 200_000
_GROUP_SPAN = timedelta(days=31)
_PARTITIONS_IN_MEMORY = 8
_LABELLED = "labelled"

_Interval = tuple[datetime, datetime]
_NO_INTERVAL: _Interval = (datetime.min.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC))


@dataclass(frozen=True)
class LabelSource:
    """The table with the columns ``label``, ``label_known_at`` and ``predict_at``, and the fields ``identity``.

    ``outcome_type`` is the type of outcomes: numbers, or text for classes.
    Values of the ``pii_columns`` among these fields are shown in no message, and the ``hashed`` fields join by their
    pseudonyms. A table without time has neither
    ``label_known_at`` nor ``predict_at``: its labels are known since ``written_at``, for predictions of any time.
    """

    table: str
    identity: Sequence[str]
    pii_columns: Collection[str] = ()
    outcome_type: pl.DataType = field(default_factory=pl.Float64)
    written_at: datetime | None = None
    hashed: HashedFields | None = None


def record_outcomes(lake: Lake, model: str, labels: LabelSource, *, known_by: datetime, now: datetime) -> int:
    """Add the facts about outcomes that are not recorded yet and return their number.

    A label counts from ``known_by`` on; a ``known_by`` before that of an earlier call has no effect. ``now`` is the
    time of recording. Raises :class:`~ml_platform.monitoring.outcomes.OutcomeError` when two labels have the identity
    of one prediction, and :class:`~ml_platform.monitoring.logged_fields.PredictionLogError` when a request cannot be
    read in the types of the labels.
    """
    with writing_facts(lake, outcomes_table(model)):
        join = _Join(lake, model, labels, known_by, now)
        added = sum(join.read_again(group) for group in join.changed_labels())
        added += sum(join.read_new(batch) for batch in join.new_predictions())
        lake.publish(outcomes_table(model))
        return added


@dataclass(frozen=True)
class _JoinedPartition:
    """The part of one partition of the labels that the outcomes contain, as stored in the table ``joined_labels``."""

    digest: str
    labels_digest: str
    first_predict_at: str | None
    last_predict_at: str | None
    next_known_at: str | None

    @property
    def interval(self) -> _Interval | None:
        """Return the times of the predictions to which its labels may belong."""
        if self.first_predict_at is None or self.last_predict_at is None:
            return None
        first, last = (datetime.fromisoformat(text) for text in (self.first_predict_at, self.last_predict_at))
        return first - MARGIN, last + MARGIN


@dataclass(frozen=True)
class _Change:
    """A partition of the labels that is not joined as it is now; ``now`` is None if the partition was removed."""

    partition: str
    before: _JoinedPartition | None
    now: _JoinedPartition | None
    is_due: bool

    @property
    def intervals(self) -> list[_Interval]:
        if self.before and self.now and self.before.labels_digest == self.now.labels_digest and not self.is_due:
            return []
        return [each.interval for each in (self.before, self.now) if each is not None and each.interval is not None]


class _Join:
    def __init__(self, lake: Lake, model: str, labels: LabelSource, known_by: datetime, now: datetime) -> None:
        self.lake, self.model, self.source = lake, model, labels
        progress = read_cursor(lake.state, f"outcomes/{model}") or {}
        self.after = int(progress.get("segment", 0))
        # Neither clock goes back: a known label stays known, and the latest fact is the one recorded last.
        self.known_by = max(known_by, _time(progress.get("known_by")) or known_by)
        earliest = (_time(progress.get("recorded_at")) or now) + timedelta(microseconds=1)
        self.recorded_at = max(now, earliest)
        schema = lake.scan(labels.table).collect_schema()
        self.types = {name: schema[name] for name in labels.identity}
        self.keys = [identity_column(name) for name in labels.identity]
        self.pii_columns = [identity_column(name) for name in labels.pii_columns]
        self.joined = self._stored_partitions()
        self._frames: OrderedDict[str, pl.DataFrame] = OrderedDict()
        self._keyed: OrderedDict[str, pl.DataFrame] = OrderedDict()

    def changed_labels(self) -> Iterator[list[_Change]]:
        """Yield the changed partitions of the labels, those of about one month together."""
        # Read the digests before the rows: rows that are written meanwhile are then joined again.
        digests = self.lake.digests(self.source.table)
        current = {WHOLE if name is None else name: self._digest(digest) for name, digest in digests.items()}
        changes = [
            change
            for partition in sorted({*current, *self.joined})
            if (change := self._change(partition, current.get(partition))) is not None
        ]
        for change in changes:
            if change.now is None:
                del self.joined[change.partition]
            else:
                self.joined[change.partition] = change.now
        group: list[_Change] = []
        for change in sorted(changes, key=lambda each: min(each.intervals, default=_NO_INTERVAL)):
            span = [time for each in [*group, change] for interval in each.intervals for time in interval]
            if group and span and max(span) - min(span) > _GROUP_SPAN + 2 * MARGIN:
                yield group
                group = []
            group.append(change)
        if group:
            yield group

    def read_again(self, changes: Sequence[_Change]) -> int:
        """Join the predictions that the labels of ``changes`` may belong to, and that were joined before."""
        intervals = _merged(interval for change in changes for interval in change.intervals)
        days = {
            counts.day
            for first, last in intervals
            for counts in day_counts(self.lake.state, self.model, first.date(), last.date())
        }
        commit = _Commit()
        if intervals:
            within = pl.any_horizontal(pl.col("predict_at").is_between(first, last) for first, last in intervals)
            seen = [each for each in self._segments(partitions=sorted(days)) if not self._is_new(each)]
            for batch in _batches(seen):
                self._stage(self._new_facts(self._rows(batch).filter(within)), commit)
        return self._write(commit, changes=changes, after=self.after)

    def new_predictions(self) -> Iterator[list[Segment]]:
        """Yield the segments of predictions that were not joined yet, oldest first."""
        added = sorted(self._segments(added_after=self.after), key=lambda each: each.id)
        yield from _batches(added)

    def read_new(self, segments: Sequence[Segment]) -> int:
        """Join the predictions of new ``segments`` with all labels."""
        new = [each for each in segments if self._is_new(each)]
        commit = _Commit()
        if new:
            are_new = not any(self._sources(each) for each in new)
            self._stage(self._new_facts(self._rows(new), are_new=are_new), commit)
        return self._write(commit, changes=[], after=segments[-1].id)

    def _stored_partitions(self) -> dict[str, _JoinedPartition]:
        query = sa.select(joined_labels).where(joined_labels.c.model == self.model)
        with self.lake.state.read() as connection:
            return {
                row.partition: _JoinedPartition(
                    row.digest, row.labels_digest, row.first_predict_at, row.last_predict_at, row.next_known_at
                )
                for row in connection.execute(query)
            }

    def _digest(self, partition_digest: str) -> str:
        return value_digest([partition_digest, {name: str(dtype) for name, dtype in self.types.items()}])

    def _change(self, partition: str, digest: str | None) -> _Change | None:
        before = self.joined.get(partition)
        if digest is None:
            return _Change(partition, before, None, is_due=False)
        next_known_at = _time(before.next_known_at) if before else None
        is_due = next_known_at is not None and next_known_at <= self.known_by
        if before is not None and before.digest == digest and not is_due:
            return None
        labels = self._labels(partition)
        times = labels["predict_at"]
        first, last = ANY_TIME if self.source.written_at is not None else (times.min(), times.max())
        later = labels.filter(pl.col("label").is_not_null(), pl.col("label_known_at") > self.known_by)
        now = _JoinedPartition(
            digest,
            content_hash(labels),
            _text(first),
            _text(last),
            _text(later["label_known_at"].min()),
        )
        return _Change(partition, before, now, is_due)

    def _labels(self, partition: str) -> pl.DataFrame:
        if partition not in self._frames:
            rows = self.lake.scan(self.source.table, partitions=None if partition == WHOLE else [partition])
            if self.source.written_at is not None:
                known = pl.lit(self.source.written_at, FACT_SCHEMA[OUTCOME_KNOWN_AT])
                rows = rows.with_columns(label_known_at=known, predict_at=known)
            identity = [pl.col(name).alias(identity_column(name)) for name in self.source.identity]
            self._frames[partition] = rows.select(*identity, "label", "label_known_at", "predict_at").collect()
            if len(self._frames) > _PARTITIONS_IN_MEMORY:
                self._frames.popitem(last=False)
        self._frames.move_to_end(partition)
        return self._frames[partition]

    def _segments(self, *, partitions: Sequence[str] | None = None, added_after: int | None = None) -> list[Segment]:
        return self.lake.catalog.segments(predictions_table(self.model), partitions=partitions, added_after=added_after)

    def _sources(self, segment: Segment) -> list[Segment]:
        """Return the segments that ``segment`` replaced, by compaction or by a new write of the partition."""
        return self.lake.catalog.replaced_by(predictions_table(self.model), segment.version, segment.partition)

    def _is_new(self, segment: Segment) -> bool:
        """Return whether ``segment`` has rows that were not joined; compaction gives joined rows a later segment."""
        if segment.id <= self.after:
            return False
        is_merged = segment.digest != segment.sha256
        return not is_merged or any(self._is_new(each) for each in self._sources(segment))

    def _rows(self, segments: Sequence[Segment]) -> pl.LazyFrame:
        # Retention removes the requests of old predictions; their facts then stay as they are.
        needed = [name for name in FACT_SCHEMA if name not in (OUTCOME, OUTCOME_KNOWN_AT, RECORDED_AT)]
        return (
            self.lake.scan_segments(predictions_table(self.model), segments)
            .select(*needed, "request")
            .filter(pl.col("request").is_not_null())
        )

    def _new_facts(self, rows: pl.LazyFrame, *, are_new: bool = False) -> pl.DataFrame:
        """Return the facts about ``rows`` that are not stored, with the column ``labelled`` (1, 0 or -1)."""
        predictions = self._with_keys(rows.collect()).drop("request")
        matched = predictions.drop(self.keys).join(
            self._matches(predictions), on=PREDICTION_ID, how="left", maintain_order="left"
        )
        days = [] if are_new else matched.select(day_name("logged_at")).to_series().unique().to_list()
        stored = latest_facts(self.lake, self.model, days, self.source.outcome_type).select(
            PREDICTION_ID, was=OUTCOME, was_known_at=OUTCOME_KNOWN_AT
        )
        return (
            matched.join(stored, on=PREDICTION_ID, how="left", maintain_order="left")
            .filter(
                pl.col(OUTCOME).ne_missing(pl.col("was")) | pl.col(OUTCOME_KNOWN_AT).ne_missing(pl.col("was_known_at"))
            )
            .with_columns(
                (pl.col(OUTCOME).is_not_null().cast(pl.Int64) - pl.col("was").is_not_null()).alias(_LABELLED),
                pl.lit(self.recorded_at, FACT_SCHEMA[RECORDED_AT]).alias(RECORDED_AT),
            )
            .select(*FACT_SCHEMA, _LABELLED)
        )

    def _with_keys(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return ``rows`` with their keys; those with pseudonyms of another key stay as they were joined before it."""
        hashed = self.source.hashed
        found = with_identity(rows, self.types, hashed)
        if hashed is None:
            return found
        others = [hashed.has_other_key(found[identity_column(name)]) for name in self._hashed_names]
        return found.filter(~pl.any_horizontal(others)) if others else found

    @property
    def _hashed_names(self) -> list[str]:
        hashed = self.source.hashed
        return [] if hashed is None else [name for name in self.source.identity if name in hashed.dtypes]

    def _keyed_labels(self, partition: str) -> pl.DataFrame:
        """Return the labels of ``partition`` with pseudonyms in place of the keys that the log hides."""
        hashed = self.source.hashed
        if hashed is None or not self._hashed_names:
            return self._labels(partition)
        if partition not in self._keyed:
            labels = self._labels(partition)
            self._keyed[partition] = labels.with_columns(
                hashed.of_column(name, labels[identity_column(name)]) for name in self._hashed_names
            )
            if len(self._keyed) > _PARTITIONS_IN_MEMORY:
                self._keyed.popitem(last=False)
        self._keyed.move_to_end(partition)
        return self._keyed[partition]

    def _matches(self, predictions: pl.DataFrame) -> pl.DataFrame:
        """Return id, outcome and its time for the ``predictions`` of which the label is known."""
        found = [
            predictions.select(PREDICTION_ID)
            .clear()
            .with_columns(
                pl.lit(None, self.source.outcome_type).alias(OUTCOME),
                pl.lit(None, FACT_SCHEMA[OUTCOME_KNOWN_AT]).alias(OUTCOME_KNOWN_AT),
            )
        ]
        times = predictions["predict_at"]
        for partition, joined in sorted(self.joined.items()):
            interval = joined.interval
            if interval is None or not (inside := times.is_between(*interval)).any():
                continue
            labels = self._keyed_labels(partition).drop("predict_at")
            matched = match_labels(
                predictions.filter(inside),
                labels,
                keys=self.keys,
                known_by=self.known_by,
                pii_columns=self.pii_columns,
                outcome_type=self.source.outcome_type,
            )
            found.append(matched.select(PREDICTION_ID, OUTCOME, OUTCOME_KNOWN_AT).drop_nulls(OUTCOME))
        matches = pl.concat(found)
        repeated = matches.filter(matches[PREDICTION_ID].is_duplicated())
        if repeated.height:
            raise OutcomeError(
                f"Outcomes of '{self.model}'",
                expected=f"one label per {listed(self.source.identity)}",
                found=f"{repeated[PREDICTION_ID].n_unique()} predictions with labels in two partitions "
                f"(first: {repeated[PREDICTION_ID][0]})",
                fix="Add a field to the identity that distinguishes these examples, or remove the duplicates.",
            )
        return matches

    def _stage(self, facts: pl.DataFrame, commit: "_Commit") -> None:
        """Write ``facts`` to files that :meth:`_write` records, so that only their counts stay in memory."""
        if facts.is_empty():
            return
        commit.counts.append(facts.select("logged_at", "predict_at", _LABELLED))
        for (day,), rows in facts.drop(_LABELLED).group_by(day_name("logged_at"), maintain_order=True):
            commit.staged.append(self.lake.stage(outcomes_table(self.model), rows, str(day)))

    def _write(self, commit: "_Commit", *, changes: Iterable[_Change], after: int) -> int:
        """Record the staged facts and the progress in one transaction; return the number of facts."""
        state = self.lake.state
        with state.write() as connection:
            for each in commit.staged:
                self.lake.record(each, replace=False)
            for rows in commit.counts:
                add_outcomes(state, self.model, rows)
            for change in changes:
                row = {"model": self.model, "partition": change.partition}
                connection.execute(sa.delete(joined_labels).filter_by(**row))
                if change.now is not None:
                    connection.execute(sa.insert(joined_labels).values(**row, **vars(change.now)))
            progress = {
                "segment": after,
                "known_by": self.known_by.isoformat(),
                "recorded_at": self.recorded_at.isoformat(),
            }
            write_cursor(state, f"outcomes/{self.model}", progress)
        self.after = after
        return sum(rows.height for rows in commit.counts)


@dataclass
class _Commit:
    """Facts that are staged and not yet recorded; ``counts`` has one row per fact."""

    staged: list[StagedRows] = field(default_factory=list)
    counts: list[pl.DataFrame] = field(default_factory=list)


def _batches(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    batch: list[Segment] = []
    for each in segments:
        if batch and sum(one.rows for one in batch) + each.rows > _BATCH_ROWS:
            yield batch
            batch = []
        batch.append(each)
    if batch:
        yield batch


def _merged(intervals: Iterable[_Interval]) -> list[_Interval]:
    """Return intervals that cover the same times and do not overlap."""
    merged: list[_Interval] = []
    for first, last in sorted(intervals):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _text(time: object) -> str | None:
    return time.isoformat() if isinstance(time, datetime) else None
