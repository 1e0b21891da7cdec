"""Realised performance of a model by period: only periods about which something changed are measured again.

The results are stored in the state store. A period has changed when predictions or facts about outcomes were added to
it, when a label of it became overdue, or when a setting of the measurement changed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import polars as pl
import sqlalchemy as sa

from ml_platform.data.canonical import value_digest
from ml_platform.data.lake import Lake
from ml_platform.monitoring.hashed_fields import HashedFields
from ml_platform.monitoring.known_ids import PREDICTION_ID
from ml_platform.monitoring.label_maturity import MaturityCurve
from ml_platform.monitoring.log_lines import DETAILS
from ml_platform.monitoring.logged_fields import identity_column, with_identity, with_slices
from ml_platform.monitoring.outcomes import OUTCOME, current_outcomes, latest_per_example
from ml_platform.monitoring.performance import (
    NOTHING_KNOWN,
    LabelKnowledge,
    MetricFunction,
    PerformanceSettings,
    Period,
    measure_period,
)
from ml_platform.monitoring.prediction_days import DayCounts, day_counts, day_name
from ml_platform.monitoring.prediction_log import predictions_table, with_details
from ml_platform.monitoring.realised_arms import EXAMPLE, STABLE, arm_metrics
from ml_platform.monitoring.realised_fairness import RealisedFairness
from ml_platform.monitoring.realised_slices import slice_column
from ml_platform.monitoring.sampling_weights import WEIGHT, with_weights
from ml_platform.state.schema import performance_periods
from ml_platform.state.store import StateStore

_MEASURED_BY = (
    "period",
    "minimum_labels",
    "minimum_slice_labels",
    "minimum_days",
    "minimum_coverage",
    "label_delay_hours",
    "immature_labels",
    "minimum_maturity",
)
"""Settings that change a measurement; the others only change its comparison with the evaluation."""


_MEASURED = ("request_id", "predict_at", "score", "label", DETAILS, WEIGHT, OUTCOME)


@dataclass(frozen=True)
class PerformanceMeasure:
    """How a model is measured: its ``identity`` fields with their types, its metrics, and the settings.

    The log has pseudonyms of the ``hashed`` fields. ``slices`` are the fields of requests, with their types, in whose
    values a period is measured too. ``fairness`` returns the declared rates of groups; None: none is declared.

    ``metrics_name`` identifies ``compute_metrics`` and ``knowledge_of``: another name measures all periods again.
    ``curve`` says how soon labels become known; a later one counts for periods with labels that are not due.
    ``knowledge_of`` returns what was known of a version before it served, which never changes.
    """

    identity: Mapping[str, pl.DataType]
    compute_metrics: MetricFunction
    metrics_name: str
    settings: PerformanceSettings
    outcome_type: pl.DataType = field(default_factory=pl.Float64)
    hashed: HashedFields | None = None
    curve: MaturityCurve | None = None
    knowledge_of: Callable[[str], LabelKnowledge] = lambda version: NOTHING_KNOWN
    slices: Mapping[str, pl.DataType] = field(default_factory=dict)
    fairness: Callable[[pl.DataFrame], list[RealisedFairness]] | None = None


def measured_periods(lake: Lake, model: str, measure: PerformanceMeasure, *, known_by: datetime) -> list[Period]:
    """Return the counts and metrics of each period and version in which ``model`` predicted in the role ``stable``.

    A period whose predictions were removed by retention keeps its last result. The result equals that of measuring all
    periods with :func:`~ml_platform.monitoring.performance.measure_period`.
    """
    stored = _stored_results(lake, model)
    found: list[Period] = []
    kept: set[str] = set()
    for start, counts in _counts_by_period(day_counts(lake.state, model), measure.settings.period).items():
        digest = _digest(start, counts, measure, known_by)
        before = stored.get(start.isoformat())
        kept.add(start.isoformat())
        if before is not None and (before[0] == digest or not _are_stored(lake, model, counts)):
            found += before[1]
            continue
        periods = _measure(lake, model, start, counts, measure, known_by)
        _store(lake, model, start, digest, periods)
        found += periods
    _forget(lake, model, stored.keys() - kept)
    return found


def last_periods(state: StateStore, model: str, limit: int) -> list[Period]:
    """Return the measured periods of ``model`` in the last ``limit`` rows of period and version, oldest first."""
    query = (
        sa.select(performance_periods.c.result)
        .where(performance_periods.c.model == model, performance_periods.c.version != "")
        .order_by(performance_periods.c.start.desc(), performance_periods.c.version.desc())
        .limit(limit)
    )
    with state.read() as connection:
        results = connection.scalars(query).all()
    return [Period.model_validate_json(result) for result in reversed(results)]


def periods_between(state: StateStore, model: str, start: datetime, end: datetime) -> list[Period]:
    """Return the measured periods of ``model`` that began from ``start`` until before ``end``, oldest first."""
    columns = performance_periods.c
    first, last = (instant.astimezone(UTC).isoformat() for instant in (start, end))
    query = (
        sa.select(columns.result)
        .where(columns.model == model, columns.version != "", columns.start >= first, columns.start < last)
        .order_by(columns.start, columns.version)
    )
    with state.read() as connection:
        return [Period.model_validate_json(result) for result in connection.scalars(query)]


def outcomes_of_period(
    lake: Lake,
    model: str,
    identity: Mapping[str, pl.DataType],
    start: datetime,
    end: datetime,
    days: Sequence[str],
    outcome_type: pl.DataType | None = None,
    hashed: HashedFields | None = None,
    slices: Mapping[str, pl.DataType] | None = None,
) -> pl.DataFrame:
    """Return the predictions of all roles from ``start`` until before ``end`` that were logged on ``days``.

    The columns are ``example``, ``role``, ``version``, ``request_id``, ``predict_at``, ``score``, ``label``,
    ``details``, ``weight`` and ``outcome`` (null: unknown), and one by
    :func:`~ml_platform.monitoring.realised_slices.slice_column` for each of ``slices``. Of several predictions of one
    example by one version in one role only the one logged last counts.
    """
    sliced = slices or {}
    keys = [EXAMPLE, "role", "version"]
    # Later days come last, so the last row of an example is the one logged last.
    parts = [
        _outcomes_of_day(lake, model, identity, start, end, day, outcome_type, hashed, sliced) for day in sorted(days)
    ]
    rows = pl.concat(parts).unique(keys, keep="last", maintain_order=True)
    return rows.select(*keys, *_MEASURED, *map(slice_column, sliced))


def _outcomes_of_day(
    lake: Lake,
    model: str,
    identity: Mapping[str, pl.DataType],
    start: datetime,
    end: datetime,
    day: str,
    outcome_type: pl.DataType | None,
    hashed: HashedFields | None,
    slices: Mapping[str, pl.DataType],
) -> pl.DataFrame:
    wanted = (pl.col("predict_at") >= start, pl.col("predict_at") < end)
    columns = (PREDICTION_ID, "request_id", "row", "model", "version", "role", "predict_at", "logged_at", "score")
    stored = with_weights(with_details(lake.scan(predictions_table(model), partitions=[day])))
    rows = stored.filter(*wanted).select(*columns, "label", DETAILS, WEIGHT, "request").collect()
    keys = [identity_column(name) for name in identity]
    latest = latest_per_example(with_identity(rows.drop_nulls("request"), identity, hashed), keys)
    latest = with_slices(latest, slices)
    outcomes = current_outcomes(lake, model, [day], outcome_type).select(PREDICTION_ID, OUTCOME)
    joined = latest.join(outcomes, on=PREDICTION_ID, how="left", maintain_order="left")
    # The hash takes eight bytes where the identity may be long text.
    return joined.select(
        pl.struct(keys).hash(seed=0).alias(EXAMPLE),
        *("role", "version", *_MEASURED, *map(slice_column, slices)),
    )


def _counts_by_period(counts: Iterable[DayCounts], period: str) -> dict[datetime, list[DayCounts]]:
    """Return the counts by the first instant of their period (UTC), oldest first."""
    listed = list(counts)
    days = pl.Series("day", [each.predict_day for each in listed], pl.String).str.to_datetime(
        "%Y-%m-%d", time_zone="UTC"
    )
    by_period: dict[datetime, list[DayCounts]] = {}
    for start, each in sorted(zip(days.dt.truncate(period), listed, strict=True), key=lambda pair: pair[0]):
        by_period.setdefault(start, []).append(each)
    return by_period


def _period_end(start: datetime, period: str) -> datetime:
    end: datetime = pl.Series([start]).dt.offset_by(period)[0]
    return end


def _digest(start: datetime, counts: Sequence[DayCounts], measure: PerformanceMeasure, known_by: datetime) -> str:
    settings = measure.settings
    # Once all labels of the period are due, a later time changes nothing.
    last_due = _period_end(start, settings.period) + timedelta(hours=settings.label_delay_hours)
    curve = None if measure.curve is None or known_by >= last_due else measure.curve.model_dump(mode="json")
    return value_digest(
        {
            # Facts are only added, so equal counts mean equal facts.
            "counts": [[each.day, each.predict_day, each.predictions, each.outcomes] for each in counts],
            "settings": settings.model_dump(mode="json", include=set(_MEASURED_BY)),
            "metrics": measure.metrics_name,
            "identity": {name: str(dtype) for name, dtype in measure.identity.items()},
            "known_by": min(known_by, last_due).isoformat(),
            **({} if curve is None else {"curve": curve}),
            **({"slices": {name: str(dtype) for name, dtype in measure.slices.items()}} if measure.slices else {}),
        }
    )


def _are_stored(lake: Lake, model: str, counts: Sequence[DayCounts]) -> bool:
    """Return whether retention removed neither predictions of the period nor their requests."""
    days = sorted({each.day for each in counts})
    table = predictions_table(model)
    if len(days) != len(lake.digests(table, days)):
        return False
    wanted = (pl.col("role") == STABLE, day_name("predict_at").is_in(sorted({each.predict_day for each in counts})))
    without = lake.scan(table, partitions=days).filter(*wanted, pl.col("request").is_null()).select(pl.len())
    return not without.collect(engine="streaming").item()


def _measure(
    lake: Lake,
    model: str,
    start: datetime,
    counts: Sequence[DayCounts],
    measure: PerformanceMeasure,
    known_by: datetime,
) -> list[Period]:
    existing = lake.digests(predictions_table(model), sorted({each.day for each in counts}))
    days = [str(day) for day in existing]
    if not days:
        return []
    end = _period_end(start, measure.settings.period)
    rows = outcomes_of_period(
        lake, model, measure.identity, start, end, days, measure.outcome_type, measure.hashed, measure.slices
    )
    stable = rows.filter(pl.col("role") == STABLE)
    groups = [(str(version), group) for (version,), group in stable.group_by("version", maintain_order=True)]
    periods = [
        measure_period(
            start,
            version,
            group,
            measure.compute_metrics,
            measure.settings,
            known_by,
            replace(measure.knowledge_of(version), curve=measure.curve),
        )
        for version, group in groups
    ]
    if measure.fairness is not None:
        periods = [
            each.model_copy(update={"fairness": measure.fairness(group)}) if each.evaluated else each
            for each, (_, group) in zip(periods, groups, strict=True)
        ]
    arms = arm_metrics(rows, measure.compute_metrics, measure.settings.minimum_slice_labels)
    if not periods or not arms:
        return periods
    most = max(periods, key=lambda each: each.predictions)
    return [each.model_copy(update={"arms": arms}) if each is most else each for each in periods]


def _stored_results(lake: Lake, model: str) -> dict[str, tuple[str, list[Period]]]:
    """Return digest and results by the start of their period."""
    query = sa.select(performance_periods).where(performance_periods.c.model == model)
    found: dict[str, tuple[str, list[Period]]] = {}
    with lake.state.read() as connection:
        for row in connection.execute(query):
            _, periods = found.setdefault(row.start, (row.digest, []))
            if row.version:
                periods.append(Period.model_validate_json(row.result))
    return found


def _store(lake: Lake, model: str, start: datetime, digest: str, periods: Sequence[Period]) -> None:
    key = {"model": model, "start": start.isoformat()}
    # A row without a version says that the period has no prediction of the stable role.
    results = {period.version: period.model_dump_json() for period in periods} or {"": "null"}
    with lake.state.write() as connection:
        connection.execute(sa.delete(performance_periods).filter_by(**key))
        for version, result in results.items():
            connection.execute(
                sa.insert(performance_periods).values(**key, version=version, digest=digest, result=result)
            )


def _forget(lake: Lake, model: str, starts: Iterable[str]) -> None:
    """Delete the results of periods that no longer exist, for example after a change of their length."""
    for start in sorted(starts):
        with lake.state.write() as connection:
            connection.execute(sa.delete(performance_periods).filter_by(model=model, start=start))
