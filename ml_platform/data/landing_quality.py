"""Compares each partition that lands with the usual one before it is published: its profile, order and clock."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import polars as pl

from ml_platform.data.arrival import Arrival
from ml_platform.data.comparable_partitions import comparable_names
from ml_platform.data.contract_record import record_failed
from ml_platform.data.dataset import DatasetSource, PartitionAudit
from ml_platform.data.lake import Lake, TableVersion
from ml_platform.data.partition_profile import PartitionProfile, profile_partition, repeated_keys
from ml_platform.data.partitions import WHOLE as WHOLE_NAME
from ml_platform.data.partitions import PartitionScheme
from ml_platform.data.quality_findings import Finding, Judgement, compare, lateness
from ml_platform.data.quality_record import (
    LandingRecord,
    has_landed,
    last_contents,
    last_landings,
    published_landings,
    record_landing,
)
from ml_platform.data.quality_settings import CHECK, EventSeverity, QualitySettings
from ml_platform.data.usual_values import usual_of
from ml_platform.state.store import StateStore

CLOCK_TOLERANCE = timedelta(minutes=5)
"""Difference of two clocks that is no finding."""

CACHED_PROFILES = 5_000
"""Profiles that one run keeps in memory: the comparable partitions of an hour reach back 4,032 hours."""

MIN_SAME_ROWS = 20
"""Rows below which equal content of two partitions may be chance."""


@dataclass(frozen=True)
class JudgedPartition:
    """One audited partition with its profile and its judgement."""

    audit: PartitionAudit
    profile: PartitionProfile
    judgement: Judgement

    @property
    def findings(self) -> tuple[Finding, ...]:
        return self.judgement.findings

    @property
    def is_critical(self) -> bool:
        return self.judgement.state == "critical"


def judge_landed(
    audits: Sequence[PartitionAudit],
    settings: QualitySettings,
    lake: Lake,
    now: datetime,
    arrival: Arrival | None = None,
) -> list[JudgedPartition]:
    """Return the judgement of each of ``audits`` of one dataset, which passed their contract; nothing is recorded.

    Partitions are judged in their order, so that those of one run are compared with each other. Only profiles are
    read, and of the partition before also the keys.
    """
    scheme = audits[0].source.partitions if audits else None
    ordered = list(audits)
    if scheme is not None:
        ordered.sort(key=lambda each: scheme.number(each.partition or ""))
    judge = _Judge(settings, lake, now, arrival)
    found = {each.partition: judge.judged(each) for each in ordered}
    return [found[each.partition] for each in audits]


def record_judged(judged: JudgedPartition, lake: Lake, written: TableVersion | None) -> None:
    """Record the landing in the current transaction; ``written`` is None for rows that were not published."""
    record_landing(
        lake.state,
        judged.audit.source.name,
        judged.audit.partition,
        judged.profile,
        content=None if written is None else written.sha256,
        judged=judged.judgement.state,
        reason=judged.judgement.not_judged,
        findings=[each.record() for each in judged.findings],
    )


def record_blocked(judged: Sequence[JudgedPartition], lake: Lake) -> None:
    """Record the partitions with a critical finding, which stay out of the lake, as failed."""
    for each in judged:
        if each.is_critical:
            landed = each.audit.landed
            with lake.state.write():
                record_judged(each, lake, None)
                digest = None if landed is None else landed.sha256
                record_failed(
                    lake.state, each.audit.source.name, each.audit.partition, check=CHECK, landed_sha256=digest
                )


class _Judge:
    """Judges the partitions of one run, in their order, and keeps the profiles that it has read."""

    def __init__(self, settings: QualitySettings, lake: Lake, now: datetime, arrival: Arrival | None) -> None:
        self.settings, self.lake, self.now, self.arrival = settings, lake, now, arrival
        self.earlier = _EarlierLandings(lake.state)
        self.before: PartitionAudit | None = None

    def judged(self, audit: PartitionAudit) -> JudgedPartition:
        assert audit.staged is not None
        source, partition, scheme = audit.source, audit.partition, audit.source.partitions
        frame = pl.read_parquet(audit.staged)
        clock = self._clock(source)
        profile = profile_partition(
            frame, self.now, clock, source.contract.pii_columns, clock_tolerance=CLOCK_TOLERANCE
        )
        if partition is not None and scheme is not None and scheme.is_timed:
            profile, judgement = self._timed(audit, frame, profile, partition, scheme)
        else:
            usual = last_contents(self.lake.state, source.name, partition, self.settings.partitions + 1)
            # The same content again is no comparison.
            usual = [each for each in usual if each.profile.content != profile.content][: self.settings.partitions]
            profiles = [each.profile for each in usual]
            judgement = compare(str(source.subject(partition)), profile, profiles, self.settings)
            judgement = self._with(judgement, source, partition, self._clock_findings(audit, profile), usual[:1])
        self.earlier.remember(source.name, partition, profile, judgement)
        self.before = audit
        return JudgedPartition(audit, profile, judgement)

    def _timed(
        self,
        audit: PartitionAudit,
        frame: pl.DataFrame,
        profile: PartitionProfile,
        partition: str,
        scheme: PartitionScheme,
    ) -> tuple[PartitionProfile, Judgement]:
        source, settings = audit.source, self.settings
        start, end = scheme.bounds(partition)
        seconds = (end - start).total_seconds()
        names = comparable_names(scheme, partition, settings.partitions * 2)
        names = [[each for each in group if self._is_usual(each, scheme)] for group in names]
        before = scheme.shift(partition, -1)
        landed = self.earlier.of(source.name, [*{name for group in names for name in group}, before, partition])
        usual = self._usual(names, landed)
        lags = [
            (scheme.bounds(each.partition)[1] - each.profile.newest).total_seconds()
            for each in usual
            if each.profile.newest is not None
        ]
        is_latest = not has_landed(self.lake.state, source.name, after=partition)
        until = self._part_until(profile, start, end, lags, is_latest)
        profile = profile.model_copy(
            update={"part_until": until, "repeated_keys": self._repeated(source, frame, before)}
        )
        subject = str(source.subject(partition))
        judgement = compare(
            subject, profile, [each.profile for each in usual], settings, seconds, end.timestamp(), lags
        )
        own = landed.get(partition)
        found = [
            *self._clock_findings(audit, profile),
            *self._order_findings(audit, profile, own, landed.get(before), scheme, is_latest),
            *self._content_findings(audit, profile, usual),
        ]
        if own is None and until is None:
            late = [(each.profile.landed_at - scheme.bounds(each.partition)[1]).total_seconds() for each in usual]
            finding = lateness(subject, (self.now - end).total_seconds(), late, seconds, settings)
            found += [finding] if finding is not None else []
        previous = [landed[before]] if before in landed else []
        return profile, self._with(judgement, source, partition, found, previous)

    def _clock(self, source: DatasetSource) -> Sequence[str]:
        if self.arrival is not None and self.arrival.clock:
            return self.arrival.clock
        return [source.event_time] if source.event_time else []

    def _is_usual(self, name: str, scheme: PartitionScheme) -> bool:
        first = self.settings.usual_from
        return first is None or not scheme.precedes(name, first)

    def _usual(self, names: Sequence[Sequence[str]], landed: Mapping[str, LandingRecord]) -> list[LandingRecord]:
        """Return the comparable landings: those of the best list with enough whole ones, else of the last list."""
        usual: list[LandingRecord] = []
        for group in names:
            found = [landed[name] for name in group if name in landed and landed[name].profile.part_until is None]
            usual = found[: self.settings.partitions]
            if len(usual) >= self.settings.minimum_partitions:
                break
        return usual

    def _part_until(
        self, profile: PartitionProfile, start: datetime, end: datetime, lags: Sequence[float], is_latest: bool
    ) -> datetime | None:
        """Return the time until which a partition has arrived that is not over; None for a whole one.

        The latest partition of a dataset that declares its arrival may be a part: later rows land with the next file.
        """
        arrived = end
        if self.arrival is not None and profile.newest is not None:
            arrived = min(end, max(start, self.arrival.arrived_with(profile.newest)))
        if self.now < end:
            return min(arrived, self.now)
        if self.arrival is None or not is_latest or profile.newest is None:
            return None
        seconds = (end - start).total_seconds()
        gap = (end - profile.newest).total_seconds() / seconds
        limit = self.settings.newest_event.lowest or 0.0
        if len(lags) >= self.settings.minimum_partitions:
            usual = usual_of([each / seconds for each in lags])
            limit = usual.center + max(limit, usual.reach(self.settings.spread_factor, 1 / (profile.rows + 1)))
        return arrived if gap > limit and arrived < end else None

    def _repeated(self, source: DatasetSource, frame: pl.DataFrame, before: str) -> float | None:
        """Return the share of keys that the partition before has; None where keys contain the time or it is absent."""
        keys = list(source.keys)
        if not keys or source.event_time in keys:
            return None
        if self.before is not None and self.before.partition == before and self.before.staged is not None:
            earlier = pl.read_parquet(self.before.staged, columns=keys)
        elif before in self.lake.digests(source.table, [before]):
            earlier = self.lake.scan(source.table, partitions=[before]).select(keys).collect()
        else:
            return None
        return round(repeated_keys(frame.select(keys), earlier), 9)

    def _clock_findings(self, audit: PartitionAudit, profile: PartitionProfile) -> Iterator[Finding]:
        if profile.after_landing:
            text = f"{profile.after_landing} events after the landing, the last at {profile.newest:%Y-%m-%d %H:%M} UTC"
            yield from self._event(audit, "clock", self.settings.clock, text, profile.after_landing)
        for last in last_landings(self.lake.state, audit.source.name):
            back = datetime.fromisoformat(last.landed_at) - self.now
            if back > CLOCK_TOLERANCE:
                text = f"landed {back.total_seconds():.0f} s before the last recorded landing: a clock went back"
                yield from self._event(audit, "clock", self.settings.clock, text, back.total_seconds())

    def _order_findings(
        self,
        audit: PartitionAudit,
        profile: PartitionProfile,
        own: LandingRecord | None,
        before: LandingRecord | None,
        scheme: PartitionScheme,
        is_latest: bool,
    ) -> Iterator[Finding]:
        partition, state, dataset = audit.partition or "", self.lake.state, audit.source.name
        name = scheme.shift(partition, -1)
        if own is None and not is_latest:
            text = "landed after a later partition"
            yield from self._event(audit, "out_of_order", self.settings.out_of_order, text)
        elif own is None and before is None and has_landed(state, dataset, before=partition):
            text = f"landed while the partition before, {name}, is absent"
            yield from self._event(audit, "out_of_order", self.settings.out_of_order, text)
        if before is not None and before.profile.part_until is not None:
            until = f"{before.profile.part_until:%Y-%m-%d %H:%M} UTC"
            text = f"the partition before, {name}, has arrived until {until} only"
            yield from self._event(audit, "incomplete_before", self.settings.incomplete_before, text)
        if own is not None and own.profile.part_until is None and own.profile.content != profile.content:
            text = f"landed again with other content: {own.profile.rows} rows before, {profile.rows} now"
            yield from self._event(audit, "landed_again", self.settings.landed_again, text)

    def _content_findings(
        self, audit: PartitionAudit, profile: PartitionProfile, usual: Sequence[LandingRecord]
    ) -> Iterator[Finding]:
        contents = [each.profile.content for each in usual]
        same = [each.partition for each in usual if each.profile.content == profile.content]
        if same and profile.rows >= MIN_SAME_ROWS and len(set(contents)) == len(contents):
            text = f"has the content of partition {same[0]}"
            yield from self._event(audit, "same_content", self.settings.same_content, text)

    def _event(
        self, audit: PartitionAudit, kind: str, severity: EventSeverity, text: str, how_bad: float | None = None
    ) -> Iterator[Finding]:
        if severity != "off":
            yield Finding(str(audit.source.subject(audit.partition)), kind, severity, text, how_bad)

    def _with(
        self,
        judgement: Judgement,
        source: DatasetSource,
        partition: str | None,
        found: "Sequence[Finding] | Iterator[Finding]",
        previous: Sequence[LandingRecord],
    ) -> Judgement:
        """Return ``judgement`` with further findings, each with its first partition, and accepted ones as info."""
        name = partition or WHOLE_NAME
        begun = {
            (each["kind"], each["column"] or None): each["since"] for record in previous for each in record.findings
        }
        reason = self.settings.accepted.get(name)
        findings = []
        for each in (*judgement.findings, *found):
            dated = replace(each, since=begun.get(each.identity) or name)
            if reason is not None:
                dated = replace(dated, severity="info", what=f"{each.what} (accepted: {reason})")
            findings.append(dated)
        return replace(judgement, findings=tuple(findings))


class _EarlierLandings:
    """The published landings by partition, those of this run included; a bounded number stays in memory."""

    def __init__(self, state: StateStore) -> None:
        self._state = state
        self._known: OrderedDict[str, LandingRecord | None] = OrderedDict()

    def of(self, dataset: str, partitions: Sequence[str]) -> dict[str, LandingRecord]:
        unknown = [name for name in partitions if name not in self._known]
        read = published_landings(self._state, dataset, unknown)
        for name in unknown:
            self._known[name] = read.get(name)
        found = {name: each for name in partitions if (each := self._known[name]) is not None}
        while len(self._known) > CACHED_PROFILES:
            self._known.popitem(last=False)
        return found

    def remember(self, dataset: str, partition: str | None, profile: PartitionProfile, judgement: Judgement) -> None:
        if partition is not None:
            findings = [each.record() for each in judgement.findings]
            at = profile.landed_at.isoformat()
            state, reason = judgement.state, judgement.not_judged
            self._known[partition] = LandingRecord(dataset, partition, "", at, state, reason, profile, findings)
            self._known.move_to_end(partition)
