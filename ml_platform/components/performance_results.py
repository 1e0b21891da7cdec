"""Realised and estimated performance of a model as metadata and check result: numbers, tables, a plot, a reason."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from ml_platform.components.check_results import WARN, table_cells
from ml_platform.components.metadata import inline_image, records_table
from ml_platform.monitoring.concept_drift import concept_drift
from ml_platform.monitoring.performance import ExpectedInterval, PerformanceReport, Period
from ml_platform.monitoring.track_record import TrackRecord, track_records

PLOTTED = ("log_loss", "auc", "accuracy", "mae", "rmse", "pinball", "ndcg")
"""Metrics that the plot shows, the first of those that a model has."""

PANELS, PERIODS_PLOTTED = 2, 24


def performance_metadata(report: PerformanceReport, not_estimated: str = "") -> dict[str, Any]:
    """Return the metrics of the latest evaluated period as numbers, and all periods as a table and a plot.

    The estimates are those of the latest period, whose labels need not be known. ``not_estimated`` is the reason why
    there are none.
    """
    latest = report.latest
    counts = {
        "periods": len(report.periods),
        "predictions": sum(period.predictions for period in report.periods),
        "labelled": sum(period.labelled for period in report.periods),
    }
    if not report.periods:
        return {**counts, "reason": "Nothing was predicted yet."}
    metadata = {
        **counts,
        "by_period": records_table(table_cells(row) for row in report.table().to_dicts()),
        **_estimate_metadata(report, not_estimated),
        **_plot_metadata(report),
    }
    if latest is None:
        newest = report.periods[-1]
        reason = " ".join(["No period has enough known labels yet.", *(each.text for each in newest.doubts)])
        return {**metadata, "maturity": newest.maturity, "reason": reason}
    return {
        **metadata,
        "version": latest.version,
        "period": f"{latest.start:%Y-%m-%d}",
        "maturity": latest.maturity,
        "label_state": latest.label_state,
        "doubts": [each.text for each in latest.doubts],
        **_slice_metadata(latest),
        **_arm_metadata(latest),
        **_fairness_metadata(latest),
        **latest.metrics,
        **{f"{name}_low": each.low for name, each in latest.intervals.items()},
        **{f"{name}_high": each.high for name, each in latest.intervals.items()},
    }


def performance_regression_result(report: PerformanceReport) -> dg.AssetCheckResult:
    """Return the result of `performance_regression`, which warns for a worse period than expected.

    It warns too when labels that are due are missing in a way that may hide a worse period.
    """
    latest, doubtful = report.latest, report.latest_doubtful
    if latest is None and doubtful is None:
        description = "Nothing was predicted yet." if not report.periods else "No period has enough known labels yet."
        return dg.AssetCheckResult(
            check_name="performance_regression", passed=True, description=f"Not evaluated: {description}"
        )
    description = "" if latest is None else _comparison(latest)
    regressed = [] if latest is None else latest.regressed_metrics
    if doubtful is not None and not (regressed and doubtful is latest):
        texts = " ".join(each.text for each in doubtful.doubts)
        where = f"version {doubtful.version} in the period from {doubtful.start:%Y-%m-%d}"
        description = f"Not judged as good, because labels are missing: {where}. {texts} {description}".strip()
    return dg.AssetCheckResult(
        check_name="performance_regression",
        passed=not regressed and doubtful is None,
        severity=WARN,
        description=description,
        metadata={
            **({} if latest is None else {f"shortfall_{name}": gap for name, gap in latest.shortfalls.items()}),
            **({} if doubtful is None else {"doubts": [each.text for each in doubtful.doubts]}),
        },
    )


def fairness_result(report: PerformanceReport) -> dg.AssetCheckResult:
    """Return the result of `fairness`, which warns when groups are proven to be beyond a declared limit."""
    latest = report.latest
    if latest is None or not latest.fairness:
        return dg.AssetCheckResult(
            check_name="fairness", passed=True, description="Not evaluated: no period has enough known labels yet."
        )
    where = f"Version {latest.version} in the period from {latest.start:%Y-%m-%d}."
    return dg.AssetCheckResult(
        check_name="fairness",
        passed=not any(each.state == "beyond" for each in latest.fairness),
        severity=WARN,
        description=" ".join([where, *(each.text for each in latest.fairness)]),
    )


def concept_drift_result(report: PerformanceReport) -> dg.AssetCheckResult:
    """Return the result of `concept_drift`, which warns when the loss rises and the predictions do not explain it."""
    found = concept_drift(report.periods)
    if not found.changes:
        return dg.AssetCheckResult(
            check_name="concept_drift",
            passed=True,
            description="Not evaluated: no period with all its labels has an estimate of its loss yet.",
        )
    latest = found.changes[-1]
    verdict = (
        "The same predictions have other outcomes than in the evaluation"
        if found.is_found
        else "The outcomes do not depend on the predictions in another way than in the evaluation"
    )
    counted = f"{found.unexplained} of the last {len(found.changes)} periods are worse than their estimate."
    return dg.AssetCheckResult(
        check_name="concept_drift",
        passed=not found.is_found,
        severity=WARN,
        description=f"{verdict}: {counted} {latest.text}",
        metadata={
            "metric": latest.metric,
            "by_inputs": latest.by_inputs,
            "by_relation": latest.by_relation,
            "unexplained_periods": found.unexplained,
        },
    )


def _estimate_metadata(report: PerformanceReport, not_estimated: str) -> dict[str, Any]:
    estimated, records = [each for each in report.periods if each.estimates], track_records(report.periods)
    if not estimated:
        return {"not_estimated": not_estimated} if not_estimated else {}
    newest = estimated[-1]
    return {
        "estimated_period": f"{newest.start:%Y-%m-%d}",
        **{f"estimated_{name}": each.value for name, each in newest.estimates.items()},
        **{f"estimated_{name}_low": each.low for name, each in newest.estimates.items()},
        **{f"estimated_{name}_high": each.high for name, each in newest.estimates.items()},
        "estimates_unreliable": [name for name, each in records.items() if each.is_reliable is False],
        "track_record": records_table(_record_row(each) for each in records.values()),
    }


def _slice_metadata(period: Period) -> dict[str, Any]:
    """Return the metrics of the slices of ``period`` as a table; empty without a slice that has enough labels."""
    if not period.slices:
        return {}
    rows = [each.model_dump(exclude={"metrics"}) | each.metrics for each in period.slices]
    return {"by_slice": records_table(table_cells(row) for row in rows)}


def _fairness_metadata(period: Period) -> dict[str, Any]:
    """Return the rates of the declared groups of ``period`` as a table; empty without a declared rate."""
    rows = [{"metric": each.metric} | rate.model_dump() for each in period.fairness for rate in each.rates]
    return {"by_group": records_table(table_cells(row) for row in rows)} if rows else {}


def _arm_metadata(period: Period) -> dict[str, Any]:
    """Return the metrics of candidates and shadows of ``period`` as a table, those of the stable arm in it too."""
    if not period.arms:
        return {}
    rows = [
        each.model_dump(exclude={"metrics", "stable_metrics"})
        | each.metrics
        | {f"stable_{name}": value for name, value in each.stable_metrics.items()}
        for each in period.arms
    ]
    return {"by_arm": records_table(table_cells(row) for row in rows)}


def _record_row(record: TrackRecord) -> Mapping[str, Any]:
    verdict = {True: "reliable", False: "not reliable", None: "too few periods"}[record.is_reliable]
    return {
        "metric": record.metric,
        "periods": len(record.past),
        "within_interval": record.within,
        "mean_error": round(record.mean_error, 4),
        "probability_of_misses": round(record.probability, 4),
        "judgement": verdict,
    }


def _plot_metadata(report: PerformanceReport) -> dict[str, Any]:
    """Return the plot of promised, estimated and realised values by period; empty before the first value."""
    from ml_platform.evaluation.performance_plot import PeriodValues, performance_plot

    periods = report.periods[-PERIODS_PLOTTED:]
    names = [name for name in PLOTTED if any(name in each.metrics or name in each.estimates for each in periods)]
    if not names:
        return {}
    panels = {
        name: [
            PeriodValues(
                label=f"{each.start:%Y-%m-%d}\nv{each.version}",
                realised=each.metrics.get(name),
                realised_interval=_ends(each.intervals.get(name)),
                estimated=each.estimates[name].value if name in each.estimates else None,
                estimated_interval=_ends(each.estimates.get(name)),
                promised=_ends(each.promised.get(name)),
                is_doubtful=bool(each.doubts),
            )
            for each in periods
        ]
        for name in names[:PANELS]
    }
    return {"quality_over_time": inline_image(performance_plot(panels))}


def _ends(interval: ExpectedInterval | None) -> tuple[float, float] | None:
    return None if interval is None else (interval.low, interval.high)


def _comparison(latest: Period) -> str:
    """Return in words how the evaluated period ``latest`` compares with the evaluation of its version."""
    where = f"version {latest.version} in the period from {latest.start:%Y-%m-%d}"
    if not latest.has_expectation:
        return f"Not evaluated: no evaluation of {where} is on record."
    text = f"Not worse than the evaluation: {where}."
    if latest.regressed_metrics:
        worse = ", ".join(
            f"{name} is {latest.metrics[name]:.3f}, which is {latest.shortfalls[name]:.3f} worse"
            for name in latest.regressed_metrics
        )
        text = f"Worse than the evaluation: {where}: {worse}."
    if latest.doubts:
        shown = {"marked": "The labels leave doubts", "corrected": "Corrected for its labels"}
        text += f" {shown[latest.label_state]}: " + " ".join(each.text for each in latest.doubts)
    return text
