"""Measures the fairness gates of a model on predictions whose outcomes are known."""

import polars as pl

from ml_platform.evaluation.bootstrap import ROW_UNIT, TIME_UNITS, BootstrapSettings
from ml_platform.evaluation.evidence import bootstrap_blocks
from ml_platform.evaluation.fairness import FairnessSettings, compare_groups
from ml_platform.monitoring.outcomes import OUTCOME
from ml_platform.monitoring.realised_fairness import RealisedFairness, RealisedRate, State
from ml_platform.monitoring.realised_slices import slice_column
from ml_platform.steps.model import BoundModel

SHOWN = 5
"""Comparisons that a finding names."""


def realised_fairness(model: BoundModel, outcomes: pl.DataFrame) -> list[RealisedFairness]:
    """Return the result of each fairness gate of ``model`` on the rows of ``outcomes`` with a known outcome.

    ``outcomes`` has ``predict_at``, ``score``, ``label`` (the answer of a binary task), ``outcome``, and one column by
    :func:`~ml_platform.monitoring.realised_slices.slice_column` for each group. Groups of a field that identifies a
    person are left out, because the log has no values of it.
    """
    known = outcomes.drop_nulls(OUTCOME)
    found = []
    for gate in model.fairness_gates:
        groups = [name for name in gate.groups if slice_column(name) in known.columns]
        if groups:
            found.append(_measured(model, known, gate.model_copy(update={"groups": groups})))
    return found


def _measured(model: BoundModel, known: pl.DataFrame, gate: FairnessSettings) -> RealisedFairness:
    rows = known if gate.metric == "mean_error" else known.drop_nulls("label")
    declared = model.declared.evaluation.bootstrap
    unit = declared.unit if declared.unit in (*TIME_UNITS, ROW_UNIT) else "day"
    zone = "UTC" if model.declared.partitions is None else model.declared.partitions.time_zone
    block = bootstrap_blocks(rows, unit, time="predict_at", time_zone=zone)
    if len(set(block.tolist())) < 2:
        return RealisedFairness(metric=gate.metric, state="too few rows", rates=[], beyond=[])
    result = compare_groups(
        rows[OUTCOME].cast(pl.Float64).to_numpy(),
        rows["score" if gate.metric == "mean_error" else "label"].cast(pl.Float64).to_numpy(),
        rows.select(pl.col(slice_column(name)).alias(name) for name in gate.groups),
        block,
        gate,
        BootstrapSettings.model_validate(declared.model_dump() | {"unit": unit}),
    )
    state: State = "beyond" if result.proven else "suspected" if result.suspected else "within"
    return RealisedFairness(
        metric=gate.metric,
        state=state if result.differences else "too few rows",
        rates=[
            RealisedRate(
                group=f"{each.column}={each.value}", rows=each.rows, rate=each.rate, low=each.low, high=each.high
            )
            for each in result.rates
        ],
        beyond=list(dict.fromkeys(each.text for each in (result.proven or result.suspected)[:SHOWN])),
        too_small=list(result.too_small),
    )
