"""Check results and metadata of the monitors: numbers under stable names, tables, and a reason for each result.

The engine does not import Dagster, so this module translates its reports.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from ml_platform.components.metadata import records_table
from ml_platform.errors import listed
from ml_platform.features.late_fields import LateField
from ml_platform.features.leakage_screen import LeakageScreenReport
from ml_platform.features.skew import SkewReport
from ml_platform.monitoring.drift_report import ColumnDrift, DriftReport
from ml_platform.monitoring.own_monitor import MonitorResult
from ml_platform.steps.feature_checks import NotEvaluated
from ml_platform.steps.monitoring import DriftResult

WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


def late_fields_result(found: list[LateField] | NotEvaluated) -> dg.AssetCheckResult:
    """Return the result of `known_in_time`, which fails for late fields.

    Its table has one row per late field and example, with the number of affected rows.
    """
    if isinstance(found, NotEvaluated):
        return not_evaluated("known_in_time", found)
    lines = [
        {"field": each.field, "rows": str(each.rows), **{name: str(value) for name, value in example.items()}}
        for each in found
        for example in each.examples
    ]
    description = "Every request field is known at the prediction time."
    if found:
        description = (
            f"Known only after the prediction: {listed(each.field for each in found)}. No app can send them in time. "
            "Remove them from the request, or predict later."
        )
    return dg.AssetCheckResult(
        check_name="known_in_time",
        passed=not found,
        severity=ERROR,
        description=description,
        metadata={"late_fields": len(found), **({"examples": records_table(lines)} if lines else {})},
    )


def leakage_screen_result(found: LeakageScreenReport | NotEvaluated) -> dg.AssetCheckResult:
    """Return the result of `leakage_screen`, which warns beyond the declared limits.

    Its table has one row per feature, with the AUC of the feature alone.
    """
    if isinstance(found, NotEvaluated):
        return not_evaluated("leakage_screen", found)
    alone = sorted(found.auc_alone.items(), key=lambda each: -each[1])
    best, value = alone[0]
    description = (
        f"Best feature alone: {best}, AUC {value:.3f}. AUC of a small model: {found.auc_random:.3f} on a random split, "
        f"{found.auc_by_time:.3f} on a split by time."
    )
    return dg.AssetCheckResult(
        check_name="leakage_screen",
        passed=not found.warnings,
        severity=WARN,
        description="; ".join(found.warnings) or description,
        metadata={
            "auc_random_split": found.auc_random,
            "auc_time_split": found.auc_by_time,
            "auc_gap": found.gap,
            "best_feature_alone": best,
            "best_auc_alone": value,
            "rows": found.rows,
            "auc_alone": records_table({"feature": name, "auc": round(auc, 4)} for name, auc in alone),
        },
    )


def skew_result(found: SkewReport | NotEvaluated) -> dg.AssetCheckResult:
    """Return the result of `skew`, which fails for features with another value than logged.

    Its table names feature, prediction, logged value and recomputed value.
    """
    if isinstance(found, NotEvaluated):
        return not_evaluated("skew", found)
    differing = list(dict.fromkeys(each.feature for each in found.mismatches))
    description = (
        f"{found.features} features of {found.rows} predictions are equal when recomputed from the change logs."
    )
    if differing:
        description = (
            f"{len(differing)} of {found.features} features differ when recomputed from the change logs: "
            f"{listed(differing)}. "
            "Check for a rewritten change log, a wrong snapshot, or a request that was parsed differently."
        )
    return dg.AssetCheckResult(
        check_name="skew",
        passed=found.passed,
        severity=ERROR,
        description=description,
        metadata={
            "predictions_compared": found.rows,
            "features_compared": found.features,
            "features_differing": len(differing),
            **({"mismatches": records_table(found.records())} if differing else {}),
        },
    )


def drift_metadata(result: DriftResult) -> dict[str, Any]:
    """Return the numbers of a drift report under stable names, and a table with one row per column."""
    report = result.report
    scores = [column for column in report.columns if column.role == "score"]
    optional = {
        "expected_rows": report.expected_rows,
        "largest_effect": max((column.effect or 0.0 for column in report.columns), default=None),
        "score_effect": scores[0].effect if scores else None,
        "score_limit": scores[0].limit if scores else None,
        "scored_by_version": result.scored_by,
        "not_scored": result.not_scored or None,
    }
    return {
        "decision": report.decision,
        "reason": report.reason,
        "features": len(report.columns) - len(scores),
        "drifted_features": len([name for name in report.drifted if name not in {each.name for each in scores}]),
        "drifted": report.drifted,
        "gradual": report.gradual,
        "not_judged": report.not_judged,
        "nulls_changed": sum(column.nulls_changed for column in report.columns),
        "unseen_appeared": sum(column.unseen_appeared for column in report.columns),
        "volume_changed": report.volume_changed,
        "rows_reference": report.rows_reference,
        "rows_current": report.rows_current,
        "compared_reference": report.compared_reference,
        "compared_current": report.compared_current,
        "logged_rows": report.logged_rows,
        "logged_nulls": [each.name for each in report.logged_nulls],
        **{name: value for name, value in optional.items() if value is not None},
        **({"columns": records_table(_column(each) for each in report.columns)} if report.columns else {}),
    }


def drift_result(report: DriftReport) -> dg.AssetCheckResult:
    """Return the result of `no_drift`: an alert fails; a notice passes, because notices occur in most windows."""
    return dg.AssetCheckResult(
        check_name="no_drift",
        passed=report.decision != "alert",
        severity=WARN,
        description=report.reason,
        metadata={"decision": report.decision, "drifted": len(report.drifted)},
    )


def own_monitor_result(name: str, result: MonitorResult) -> dg.AssetCheckResult:
    """Return the result of a monitor of a team's own; a failure is a warning."""
    return dg.AssetCheckResult(
        check_name=name, passed=result.passed, severity=WARN, description=result.reason, metadata=dict(result.numbers)
    )


def _column(column: ColumnDrift) -> dict[str, Any]:
    return table_cells(
        {
            "column": column.name,
            "statistic": "Kolmogorov-Smirnov" if column.kind == "number" else "total variation",
            "distance": column.effect,
            "threshold": column.limit,
            "p_value": column.p_value,
            "reference": column.reference,
            "windows": f"{column.windows_flagged} of {column.windows_evaluated}",
            "drifted": column.drifted,
            "gradual": column.gradual,
            "not_judged": column.not_judged,
            "null_share_before": column.null_rate_reference,
            "null_share_now": column.null_rate_current,
            "unseen_share": column.unseen_share,
        }
    )


def not_evaluated(check: str, found: NotEvaluated) -> dg.AssetCheckResult:
    """Return the passed result of a check that could not be evaluated, with the reason."""
    return dg.AssetCheckResult(check_name=check, passed=True, description=f"Not evaluated: {found.reason}")


def table_cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``row`` for a table of the UI: floats rounded to 4 digits, other types as text, nulls left out."""
    return {
        name: round(value, 4) if isinstance(value, float) else value if isinstance(value, bool | int) else str(value)
        for name, value in row.items()
        if value is not None
    }
