"""Continues the test of the champion's realised loss by the days whose labels have become due, for its policy."""

from datetime import UTC, date, datetime, timedelta

import polars as pl

from ml_platform.monitoring.loss_test import LossTest, read_loss_test, write_loss_test
from ml_platform.monitoring.outcomes import OUTCOME
from ml_platform.monitoring.performance_periods import outcomes_of_period
from ml_platform.monitoring.prediction_days import day_counts
from ml_platform.monitoring.prediction_log import predictions_table
from ml_platform.monitoring.realised_arms import STABLE
from ml_platform.monitoring.sampling_weights import equally_weighted
from ml_platform.registry.champion_history import ChampionRecord, current_champion
from ml_platform.registry.verdict_record import verdict_metrics
from ml_platform.state.store import StateStore
from ml_platform.steps.model import BoundModel
from ml_platform.steps.monitoring import label_clock, performance_settings
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.steps.pseudonyms import hashed_fields_of
from ml_platform.tasks.row_losses import LOSS_METRICS, row_losses

MAXIMUM_DAYS = 62
"""Days that one call reads at most; the next call goes on."""


def continue_loss_test(model: BoundModel, stores: PlatformStores) -> LossTest | None:
    """Add the days whose labels are due to the test of the champion, and return it.

    A day counts once, with the labels that are known when it is due. With another champion, another promise or another
    tolerance, the test begins again on the first day after the window on which the champion was evaluated. None without
    a declared loss rule, a champion with a promised loss, or logged predictions.
    """
    policy, champion = model.declared.retraining.policy, current_champion(stores.audit, model.name)
    if policy is None or policy.loss is None or champion is None or not model.partitions.names_key(champion.partition):
        return None
    promised = promised_loss(model, champion, stores.state)
    if promised is None or not stores.lake.exists(predictions_table(model.name)):
        return None
    metric = LOSS_METRICS[model.declared.task.name]
    fresh = LossTest(version=champion.version, metric=metric, promised=promised, tolerance=policy.loss.tolerance)
    stored = read_loss_test(stores.state, model.name)
    before = stored if stored is not None and stored.has_settings_of(fresh) else fresh
    test = _continued(model, before, _first_day(model, champion, before), stores)
    if test != stored:
        write_loss_test(stores.state, model.name, test)
    return test


def _continued(model: BoundModel, test: LossTest, first: date, stores: PlatformStores) -> LossTest:
    logged_on: dict[str, list[str]] = {}
    for each in day_counts(stores.state, model.name, first=first, last=first + timedelta(days=MAXIMUM_DAYS)):
        logged_on.setdefault(each.predict_day, []).append(each.day)
    clock = label_clock(model, stores.lake)
    delay = timedelta(hours=performance_settings(model).label_delay_hours)
    test = test.model_copy(update={"waiting_for": ""})
    for day in sorted(logged_on):
        if _start(day) + timedelta(days=1) + delay > clock:
            return test.model_copy(update={"waiting_for": day})
        mean, labels = _mean_loss(model, test.version, day, logged_on[day], stores)
        test = test.after(day, mean, labels)
    return test


def _mean_loss(
    model: BoundModel, version: int, day: str, logged_on: list[str], stores: PlatformStores
) -> tuple[float, int]:
    """Return the mean loss of the predictions of ``version`` for ``day`` with known outcomes, and their number."""
    lake = stores.lake
    schema = lake.scan(model.table).collect_schema()
    days = [str(each) for each in lake.digests(predictions_table(model.name), sorted(logged_on))]
    if not days:
        return 0.0, 0
    start = _start(day)
    rows = outcomes_of_period(
        lake,
        model.name,
        {name: schema[name] for name in model.identity},
        start,
        start + timedelta(days=1),
        days,
        model.declared.task.outcome_type,
        hashed_fields_of(model, stores.home),
    )
    own = rows.filter(rows["role"] == STABLE, rows["version"].cast(pl.String) == str(version))
    labelled = equally_weighted(own, ["request_id", "predict_at"]).drop_nulls(OUTCOME)
    if labelled.is_empty():
        return 0.0, 0
    return float(row_losses(model.declared.task, labelled).mean()), labelled.height


def promised_loss(model: BoundModel, champion: ChampionRecord, state: StateStore) -> float | None:
    """Return the upper end of the interval of the champion's loss in its evaluation; None where it has no such loss."""
    metrics, metric = verdict_metrics(state, champion.verdict), LOSS_METRICS[model.declared.task.name]
    found = metrics.get(f"{metric}_high", metrics.get(metric))
    return found if found is not None and found > 0 else None


def _first_day(model: BoundModel, champion: ChampionRecord, test: LossTest) -> date:
    if test.until:
        return date.fromisoformat(test.until) + timedelta(days=1)
    return model.partitions.bounds(champion.partition)[1].astimezone(UTC).date()


def _start(day: str) -> datetime:
    return datetime.fromisoformat(day).replace(tzinfo=UTC)
