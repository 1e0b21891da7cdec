"""The check `quality` of a dataset and its metadata: how far each landed partition is from the usual one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from ml_platform.components.metadata import records_table
from ml_platform.data.quality_settings import CHECK, SEVERITIES, QualitySettings
from ml_platform.errors import listed

if TYPE_CHECKING:
    from ml_platform.data.landing_quality import JudgedPartition
    from ml_platform.data.quality_findings import Finding

DESCRIPTION = "Rows, nulls, categories, numbers, freshness, order and keys are as in comparable partitions."


def quality_result(judged: "Sequence[JudgedPartition]", settings: QualitySettings) -> dg.AssetCheckResult:
    """Return the result of `quality`: it fails for findings of severity warning (WARN) and critical (ERROR).

    Partitions that cannot be judged pass, and the description says how many and why.
    """
    from ml_platform.data.quality_findings import FINDING_COLUMNS

    findings = sorted((finding for each in judged for finding in each.findings), key=_order)
    bad = [each for each in findings if each.severity != "info"]
    critical = any(each.severity == "critical" for each in findings)
    reasons = [each.judgement.not_judged for each in judged if each.judgement.not_judged]
    return dg.AssetCheckResult(
        check_name=CHECK,
        passed=not bad,
        severity=dg.AssetCheckSeverity.ERROR if critical else dg.AssetCheckSeverity.WARN,
        description=_description(judged, bad, reasons, settings),
        metadata={
            "judged_partitions": len(judged) - len(reasons),
            "not_judged_partitions": len(reasons),
            "worst_severity": findings[0].severity if findings else "none",
            "findings": records_table(
                (each.record() for each in findings),
                FINDING_COLUMNS,
            ),
            **({"not_judged": reasons[0]} if reasons else {}),
        },
    )


def quality_metadata(judged: "JudgedPartition") -> dict[str, Any]:
    """Return the state of one partition and the table of its measures, the worst first."""
    rows = [
        {
            "measure": each.kind,
            "column": each.column or "",
            "value": each.value,
            "usual": each.usual,
            "limit": _shown_limit(each.limit),
            "severity": each.severity or "",
        }
        for each in judged.judgement.measures
    ]
    measured = {(each.kind, each.column) for each in judged.judgement.measures}
    rows += [
        {"measure": each.kind, "column": each.column or "", "severity": each.severity, "finding": each.what}
        for each in judged.findings
        if each.identity not in measured
    ]
    rows.sort(key=lambda row: -_rank(str(row["severity"])))
    reason = judged.judgement.not_judged
    return {
        "quality": judged.judgement.state if reason is None else f"{judged.judgement.state}: {reason}",
        **({"quality_measures": records_table(rows, ["measure", "column", "severity"])} if rows else {}),
    }


def fail_when_blocked(judged: "Sequence[JudgedPartition]", settings: QualitySettings) -> None:
    """Raise :class:`dagster.Failure` when a critical finding must keep a partition out of the lake."""
    found = [each for each in judged if each.is_critical] if settings.on_critical == "block" else []
    if not found:
        return
    names = listed(each.audit.partition or "whole" for each in found)
    (first, *more) = [each for one in found for each in one.findings if each.severity == "critical"]
    raise dg.Failure(
        f"Dataset '{found[0].audit.source.name}', partitions {names}: expected no critical finding, found "
        f"{len(more) + 1}: {first.what}. Nothing was published; the last good version stays readable. Fix the landed "
        "file, or declare the partition under quality.accepted with a reason and materialize it.",
        allow_retries=False,
    )


def _description(
    judged: "Sequence[JudgedPartition]", bad: "Sequence[Finding]", reasons: Sequence[str], settings: QualitySettings
) -> str:
    if bad:
        more = f" ({len(bad) - 1} more)" if len(bad) > 1 else ""
        return f"{bad[0].subject}: {bad[0].what}.{more}"
    if reasons:
        return f"Cannot be judged: {len(reasons)} of {len(judged)} partitions. {reasons[0]}"
    return f"As in the last {settings.partitions} comparable partitions."


def _order(finding: "Finding") -> tuple[int, str, str]:
    return -_rank(finding.severity), finding.subject, finding.kind


def _rank(severity: str) -> int:
    return SEVERITIES.index(severity) if severity in SEVERITIES else -1


def _shown_limit(limit: float) -> float | None:
    """Return ``limit``, or None without one: infinity is no JSON number."""
    return limit if limit != float("inf") else None
