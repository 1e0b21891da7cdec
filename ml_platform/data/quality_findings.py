"""Judges a partition by its profile and those of comparable partitions: findings with severities, without a clock.

A measure becomes a finding when it is far from the usual value by the spread of earlier ones, and by its declared
limit. The first condition alone finds trifles in tables with many rows; the second alone finds the noise of small ones.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ml_platform.data.partition_profile import QUANTILES, ColumnProfile, PartitionProfile
from ml_platform.data.quality_settings import SEVERITIES, Limits, QualitySettings, Severity
from ml_platform.data.usual_values import Usual, share_error, usual_of
from ml_platform.errors import listed

State = Literal["as usual", "not judged", "info", "warning", "critical"]

PARTITION_KINDS = ("volume", "newest_event", "late", "repeated_keys")
"""Kinds of measures of a whole partition."""

MIN_CONSTANT_ROWS = 20
"""Values below which a constant column says nothing."""

CHANCE_ROWS = 2
"""Further nulls that are chance in a table with few rows, where their distribution is skewed."""

_LOWER, _MEDIAN, _UPPER = (QUANTILES.index(at) for at in (0.25, 0.5, 0.75))
_NORMAL_IQR, _MEDIAN_ERROR = 1.349, 1.2533


@dataclass(frozen=True)
class Finding:
    """One difference from the usual: ``what`` is a sentence, ``how_bad`` the difference in the unit of its limit.

    ``subject`` names the dataset and partition, ``since`` the first of the consecutive partitions with this finding.
    """

    subject: str
    kind: str
    severity: Severity
    what: str
    how_bad: float | None = None
    column: str | None = None
    since: str | None = None

    @property
    def identity(self) -> tuple[str, str | None]:
        """Findings of the same kind and column in consecutive partitions are one."""
        return self.kind, self.column

    def record(self) -> dict[str, Any]:
        """Return the finding as a plain record for tables and alerts."""
        return {
            "subject": self.subject,
            "kind": self.kind,
            "column": self.column or "",
            "severity": self.severity,
            "what": self.what,
            "how_bad": self.how_bad,
            "since": self.since or "",
        }


FINDING_COLUMNS = ("subject", "kind", "column", "severity", "what", "how_bad", "since")
"""Columns of a table of findings, as :meth:`Finding.record` has them."""


@dataclass(frozen=True)
class Measure:
    """One measured value beside the usual one; ``limit`` is the largest usual difference."""

    kind: str
    column: str | None
    value: float
    usual: float
    limit: float
    severity: Severity | None


@dataclass(frozen=True)
class Judgement:
    """The result for one partition: its measures and findings, and why it could not be judged, if it could not."""

    measures: tuple[Measure, ...]
    findings: tuple[Finding, ...]
    not_judged: str | None = None

    @property
    def state(self) -> State:
        """The highest severity; without a finding, whether the partition was judged."""
        worst = worst_severity(self.findings)
        if worst in ("warning", "critical"):
            return worst
        return "not judged" if self.not_judged else worst or "as usual"


def worst_severity(findings: Sequence[Finding]) -> Severity | None:
    """Return the highest severity of ``findings``; None without one."""
    return max((each.severity for each in findings), key=SEVERITIES.index, default=None)


def compare(
    subject: str,
    profile: PartitionProfile,
    usual: Sequence[PartitionProfile],
    settings: QualitySettings,
    seconds: float | None = None,
    end: float | None = None,
    lags: Sequence[float] = (),
) -> Judgement:
    """Return the measures of ``profile`` beside those of the comparable partitions ``usual``, and the findings.

    ``seconds`` is the length of the partition and ``end`` its end as POSIX time, None without time; ``lags`` are
    the lengths of time from the end of the comparable partitions to the newest event in each. With fewer than
    ``settings.minimum_partitions`` comparable partitions, and for a partition that is not over, nothing is compared
    and the reason is given.
    """
    if profile.part_until is not None:
        until = f"{profile.part_until:%Y-%m-%d %H:%M} UTC"
        return Judgement((), (), f"The partition has arrived until {until} and is not over.")
    if len(usual) < settings.minimum_partitions:
        return Judgement(
            (), (), f"Comparable partitions: {len(usual)}; at least {settings.minimum_partitions} are needed."
        )
    found = [*_partition_measures(profile, usual, settings, seconds, end, lags)]
    for name, column in profile.columns.items():
        earlier = [(each.rows, each.columns[name]) for each in usual if name in each.columns and each.rows]
        if name in settings.expected_to_change or len(earlier) < settings.minimum_partitions or not profile.rows:
            continue
        found += _column_measures(name, profile.rows, column, earlier, settings)
    findings = [
        Finding(subject, each.kind, each.severity, text, round(how_bad, 4), each.column)
        for each, text, how_bad in found
        if each.severity is not None
    ]
    return Judgement(tuple(each for each, _, _ in found), tuple(findings))


_Found = tuple[Measure, str, float]


def _partition_measures(
    profile: PartitionProfile,
    usual: Sequence[PartitionProfile],
    settings: QualitySettings,
    seconds: float | None,
    end: float | None,
    lags: Sequence[float],
) -> Iterator[_Found]:
    yield _volume(profile.rows, [each.rows for each in usual], settings)
    if seconds and end is not None and profile.newest is not None and len(lags) >= settings.minimum_partitions:
        gap = (end - profile.newest.timestamp()) / seconds
        earlier = usual_of([each / seconds for each in lags])
        text = f"the newest event is {gap:.0%} of the partition before its end, usual are {earlier.center:.0%}"
        yield _above("newest_event", None, gap, earlier, 1 / (profile.rows + 1), settings.newest_event, settings, text)
    shares = [each.repeated_keys for each in usual if each.repeated_keys is not None]
    if profile.repeated_keys is not None and len(shares) >= settings.minimum_partitions:
        known = usual_of(shares)
        share = profile.repeated_keys
        text = f"{share:.1%} of the keys are those of the partition before, usual are {known.center:.1%}"
        error = share_error(shares, profile.rows)
        yield _above("repeated_keys", None, share, known, error, settings.repeated_keys, settings, text)


def lateness(
    subject: str, lag: float, lags: Sequence[float], seconds: float, settings: QualitySettings
) -> Finding | None:
    """Return the finding of a landing ``lag`` seconds after the end of the partition, where ``lags`` are usual."""
    if len(lags) < settings.minimum_partitions:
        return None
    usual = usual_of([each / seconds for each in lags])
    late = lag / seconds
    text = f"landed {late:.2f} partitions after its end, usual are {usual.center:.2f}"
    measure, _, how_bad = _above("late", None, late, usual, 0.0, settings.late, settings, text)
    return measure.severity and Finding(subject, "late", measure.severity, text, round(how_bad, 4))


def _volume(rows: int, earlier: Sequence[int], settings: QualitySettings) -> _Found:
    usual = usual_of(np.log1p(earlier).tolist())
    value = float(np.log1p(rows))
    expected = float(np.expm1(usual.center))
    difference = abs(value - usual.center)
    reach = usual.reach(settings.spread_factor, 1 / np.sqrt(expected + 1))
    ratio = float(np.exp(difference))
    severity = settings.volume.severity(ratio) if difference > reach else None
    limit = max(float(np.exp(reach)), settings.volume.lowest or np.inf)
    text = f"{rows} rows, usual are {expected:.0f}: {'more' if value > usual.center else 'fewer'} by {ratio:.2f} times"
    return Measure("volume", None, rows, round(expected, 1), round(limit, 4), severity), text, ratio


def _above(
    kind: str,
    column: str | None,
    value: float,
    usual: Usual,
    error: float,
    limits: Limits,
    settings: QualitySettings,
    text: str,
) -> _Found:
    """Return the measure of a value that is bad when it is far above the usual one."""
    reach = usual.reach(settings.spread_factor, error)
    difference = value - usual.center
    severity = limits.severity(difference) if difference > reach else None
    lowest = limits.lowest
    limit = usual.center + max(reach, lowest if lowest is not None else np.inf)
    return Measure(kind, column, round(value, 6), round(usual.center, 6), round(limit, 6), severity), text, difference


def _column_measures(
    name: str, rows: int, column: ColumnProfile, earlier: Sequence[tuple[int, ColumnProfile]], settings: QualitySettings
) -> Iterator[_Found]:
    yield _nulls(name, rows, column, [each for _, each in earlier], settings)
    present = round(rows * (1 - column.null_share))
    if column.categories is not None and all(each.categories is not None for _, each in earlier):
        yield from _category_measures(name, present, column, [each for _, each in earlier], settings)
    counted = [each for _, each in earlier if each.quantiles and each.top_share is not None]
    if column.quantiles and column.top_share is not None and len(counted) >= settings.minimum_partitions:
        yield from _number_measures(name, present, column, counted, settings)


def _nulls(
    name: str, rows: int, column: ColumnProfile, earlier: Sequence[ColumnProfile], settings: QualitySettings
) -> _Found:
    shares = [each.null_share for each in earlier]
    usual = usual_of(shares)
    reach = usual.reach(settings.spread_factor, share_error(shares, rows)) + CHANCE_ROWS / rows
    difference = abs(column.null_share - usual.center)
    severity = settings.nulls.severity(difference) if difference > reach else None
    text = f"{column.null_share:.1%} of '{name}' are null, usual are {usual.center:.1%}"
    lowest = settings.nulls.lowest
    limit = max(reach, lowest if lowest is not None else np.inf)
    measure = Measure("nulls", name, column.null_share, round(usual.center, 6), round(limit, 6), severity)
    return measure, text, difference


def _category_measures(
    name: str, present: int, column: ColumnProfile, earlier: Sequence[ColumnProfile], settings: QualitySettings
) -> Iterator[_Found]:
    # Text with many values has no categories: new values are the rule.
    if not present or not all(each.has_all_categories for each in earlier):
        return
    counts = [each.categories or {} for each in earlier]
    seen = _partitions_with(counts)
    now = column.categories or {}
    new = {value: count for value, count in now.items() if value not in seen}
    share = sum(new.values()) / present
    # Of each comparable partition: the share of rows whose category no other one has.
    alone = [_share_alone(each, seen) for each in counts]
    usual, error = usual_of(alone), share_error(alone, present)
    examples = listed(sorted(new, key=lambda value: -new[value]), 3)
    text = f"{share:.1%} of '{name}' are categories that no comparable partition has: {examples}"
    yield _above("new_categories", name, share, usual, error, settings.new_categories, settings, text)
    if column.has_all_categories:
        yield from _missing(name, present, now, counts, seen, settings)


def _partitions_with(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Return the number of partitions that have each category."""
    seen: dict[str, int] = {}
    for each in counts:
        for value in each:
            seen[value] = seen.get(value, 0) + 1
    return seen


def _share_alone(counts: Mapping[str, int], seen: Mapping[str, int]) -> float:
    return sum(count for value, count in counts.items() if seen[value] == 1) / max(sum(counts.values()), 1)


def _missing(
    name: str,
    present: int,
    now: Mapping[str, int],
    counts: Sequence[Mapping[str, int]],
    seen: Mapping[str, int],
    settings: QualitySettings,
) -> Iterator[_Found]:
    """Yield the most frequent category that every comparable partition has and this one lacks."""
    absent = [value for value, partitions in seen.items() if partitions == len(counts) and value not in now]
    shares = {value: [each[value] / sum(each.values()) for each in counts] for value in absent}
    found = sorted(absent, key=lambda value: -float(np.median(shares[value])))
    for value in found[:1]:
        usual = usual_of(shares[value])
        reach = usual.reach(settings.spread_factor, share_error(shares[value], present))
        severity = settings.missing_category.severity(usual.center) if usual.center > reach else None
        text = f"category '{value}' of '{name}' is absent, its usual share is {usual.center:.1%}"
        limit = round(max(reach, settings.missing_category.lowest or 0.0), 6)
        yield Measure("missing_category", name, 0.0, round(usual.center, 6), limit, severity), text, usual.center


def _number_measures(
    name: str, present: int, column: ColumnProfile, earlier: Sequence[ColumnProfile], settings: QualitySettings
) -> Iterator[_Found]:
    assert column.quantiles is not None
    tops = [each.top_share or 0.0 for each in earlier]
    top = usual_of(tops)
    share = column.top_share or 0.0
    if present >= MIN_CONSTANT_ROWS:
        text = f"{share:.1%} of '{name}' have one value, usual are {top.center:.1%}"
        yield _above("constant", name, share, top, share_error(tops, present), settings.constant, settings, text)
    quantiles = [each.quantiles for each in earlier if each.quantiles is not None]
    usual = usual_of([each[_MEDIAN] for each in quantiles])
    width = float(np.median([each[_UPPER] - each[_LOWER] for each in quantiles]))
    if not width:
        return
    # Of skewed numbers, the median varies more on the longer side.
    wider = float(
        np.median([2 * max(each[_UPPER] - each[_MEDIAN], each[_MEDIAN] - each[_LOWER]) for each in quantiles])
    )
    error = _MEDIAN_ERROR * wider / _NORMAL_IQR / np.sqrt(present)
    value = column.quantiles[_MEDIAN]
    difference = abs(value - usual.center) / width
    reach = usual.reach(settings.spread_factor, error) / width
    severity = settings.level.severity(difference) if difference > reach else None
    text = f"the median of '{name}' is {value:.6g}, usual is {usual.center:.6g}"
    lowest = settings.level.lowest
    limit = max(reach, lowest if lowest is not None else np.inf)
    yield Measure("level", name, value, usual.center, round(limit, 6), severity), text, difference
