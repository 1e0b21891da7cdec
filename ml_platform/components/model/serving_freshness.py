"""The checks of `<model>/predictions` about freshness: gaps in the log, the online store, and the age of features."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from ml_platform.components.check_results import not_evaluated
from ml_platform.components.metadata import records_table
from ml_platform.components.model.model_assets import ModelAssets

if TYPE_CHECKING:
    from ml_platform.data.quality_findings import Finding
    from ml_platform.monitoring.prediction_gaps import GapReport
    from ml_platform.steps.feature_checks import NotEvaluated
    from ml_platform.steps.platform_stores import PlatformStores
    from ml_platform.steps.serving_freshness import ViewAge

PREDICTION_GAPS, STORE_STALENESS, FEATURE_AGE = "prediction_gaps", "store_staleness", "feature_age"

FRESHNESS_CHECKS: Mapping[str, str] = {
    PREDICTION_GAPS: "No hour lacks predictions where the usual traffic says that there should be some.",
    STORE_STALENESS: "The online store knows the facts of the newest partitions of the lake.",
    FEATURE_AGE: "Features at serving are no older than in training.",
}


def freshness_results(model: ModelAssets, stores: "PlatformStores", now: datetime) -> Iterator[dg.AssetCheckResult]:
    """Yield the result of each check of :data:`FRESHNESS_CHECKS`; a failure is a warning."""
    from ml_platform.steps.serving_freshness import (
        check_feature_age,
        check_prediction_gaps,
        check_store_staleness,
    )

    yield prediction_gaps_result(model.name, check_prediction_gaps(model, stores, now))
    yield view_ages_result(model.name, STORE_STALENESS, check_store_staleness(model, stores))
    yield view_ages_result(model.name, FEATURE_AGE, check_feature_age(model, stores))


def prediction_gaps_result(name: str, found: "GapReport | NotEvaluated") -> dg.AssetCheckResult:
    """Return the result of `prediction_gaps`, with a finding for each gap."""
    from ml_platform.steps.feature_checks import NotEvaluated

    if isinstance(found, NotEvaluated):
        return not_evaluated(PREDICTION_GAPS, found)
    findings = [
        _finding(
            name,
            PREDICTION_GAPS,
            f"no prediction from {_shown(each.start)} to {_shown(each.end)}, usual are {each.usual:.0f}",
            each.hours,
            each.start,
        )
        for each in found.gaps
    ]
    return _result(PREDICTION_GAPS, findings, metadata={"judged_hours": found.judged_hours})


def view_ages_result(name: str, check: str, found: "list[ViewAge] | NotEvaluated") -> dg.AssetCheckResult:
    """Return the result of `store_staleness` or `feature_age`, with a finding for each view beyond its limit."""
    from ml_platform.steps.feature_checks import NotEvaluated

    if isinstance(found, NotEvaluated):
        return not_evaluated(check, found)
    behind = "the newest partitions of its sources" if check == STORE_STALENESS else "the facts that training reads"
    findings = [
        _finding(
            name,
            check,
            f"view '{each.view}' is {_hours(each.behind)} h behind {behind}; the limit is {_hours(each.limit)} h",
            _hours(each.behind),
            each.since,
        )
        for each in found
        if each.is_stale
    ]
    views = [
        {"view": each.view, "behind_hours": _hours(each.behind), "limit_hours": _hours(each.limit)} for each in found
    ]
    return _result(check, findings, metadata={"views": records_table(views)})


def _result(check: str, findings: "list[Finding]", metadata: dict[str, Any]) -> dg.AssetCheckResult:
    from ml_platform.data.quality_findings import FINDING_COLUMNS

    more = f" ({len(findings) - 1} more)" if len(findings) > 1 else ""
    return dg.AssetCheckResult(
        check_name=check,
        passed=not findings,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{findings[0].what}{more}." if findings else FRESHNESS_CHECKS[check],
        metadata={"findings": records_table((each.record() for each in findings), FINDING_COLUMNS), **metadata},
    )


def _finding(name: str, kind: str, what: str, how_bad: float, since: datetime) -> "Finding":
    from ml_platform.data.quality_findings import Finding

    at = since.astimezone(UTC).isoformat()
    return Finding(f"Model '{name}'", kind, "warning", what, how_bad=float(how_bad), since=at)


def _hours(length: timedelta) -> float:
    return round(length.total_seconds() / 3600, 2)


def _shown(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
