"""The files of the compliance report, for `ml-platform compliance`: one page, and the same content as JSON."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter

from ml_platform.console.governance.compliance import (
    ComplianceError,
    ComplianceReport,
    compliance_report,
    report_period,
)
from ml_platform.console.governance.inventory import InventoryEntry, inventory
from ml_platform.console.lineage import declared_lineage
from ml_platform.console.site.pages import render
from ml_platform.data.atomic import write_bytes, write_text
from ml_platform.errors import did_you_mean, listed
from ml_platform.registry.audit import AuditLog
from resources.home import Home
from resources.home_lake import open_lake
from resources.profiles import REPOSITORY

HTML_FILE, JSON_FILE = "report.html", "report.json"


@dataclass(frozen=True)
class ReportFiles:
    """The written report and its files."""

    report: ComplianceReport
    html: Path
    json: Path


def write_compliance_report(
    home: Home, model: str, domain: str, first: datetime | None, last: datetime | None, folder: Path
) -> ReportFiles:
    """Write the report on ``model``, or on all models of ``domain``, from ``first`` until ``last`` to ``folder``.

    Raises :class:`~ml_platform.console.governance.compliance.ComplianceError` for an unknown name or an empty period.
    """
    from ml_platform.components.project import read_project

    now = datetime.now(UTC)
    period = report_period(first, last, now)
    lake, project = open_lake(home), read_project(REPOSITORY)
    chosen = selected(inventory(AuditLog(lake.state), project), model, domain)
    report = compliance_report(model or domain, chosen, declared_lineage(project), lake, period, now)
    html, values = folder / HTML_FILE, folder / JSON_FILE
    write_bytes(values, TypeAdapter(ComplianceReport).dump_json(report, indent=2) + b"\n")
    write_text(html, compliance_page(report))
    return ReportFiles(report, html, values)


def compliance_page(report: ComplianceReport) -> str:
    """Return the report as HTML, complete in itself."""
    return render("compliance.html.j2", links={}, report=report)


def selected(entries: list[InventoryEntry], model: str, domain: str) -> list[InventoryEntry]:
    """Return the entry of ``model``, or those of ``domain``; raises :class:`ComplianceError` for an unknown name."""
    domains = {each.name: each.declared.domain for each in entries if each.declared is not None}
    known = sorted({each.name for each in entries} if model else set(domains.values()))
    chosen = [each for each in entries if (each.name == model if model else domains.get(each.name) == domain)]
    if not chosen or (model and domain):
        kind = "Model" if model else "Domain"
        raise ComplianceError(
            f"{kind} '{model or domain}'",
            expected="the name of a model, or --domain and that of a domain",
            found="both" if model and domain else f"none of this name; there are {listed(known, 20)}",
            fix=f"Correct the name.{did_you_mean(model or domain, known)}",
        )
    return chosen
