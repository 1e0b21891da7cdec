"""The verbs for auditors and risk teams: the inventory of models and the compliance report."""

from pathlib import Path
from typing import Annotated

import typer

from ml_platform.cli.opening import open_console, open_home
from ml_platform.data.names import full_name


def models(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False) -> None:
    """List all models: owner, purpose, risk, champion and since when, and their data."""
    from pydantic import TypeAdapter

    from ml_platform.components.project import read_project
    from ml_platform.console.governance import inventory as work
    from ml_platform.registry.audit import AuditLog
    from resources.profiles import REPOSITORY
    from resources.state import open_state

    found = work.inventory(AuditLog(open_state(open_home())), read_project(REPOSITORY))
    if as_json:
        typer.echo(TypeAdapter(list[work.InventoryEntry]).dump_json(found, indent=2).decode())
    else:
        work.show(found, open_console())


def compliance(
    model: Annotated[
        str, typer.Argument(parser=full_name, metavar="[MODEL]", help="Without it, --domain.", show_default=False)
    ] = "",
    domain: Annotated[str, typer.Option(help="All models of this domain.")] = "",
    out: Annotated[Path, typer.Option(help="Folder of report.html and report.json.")] = Path("compliance"),
    first: Annotated[
        str, typer.Option("--from", help="First instant, ISO 8601 with offset; by default a year before the end.")
    ] = "",
    last: Annotated[str, typer.Option("--to", help="End, ISO 8601 with offset; by default now.")] = "",
) -> None:
    """Write the compliance report of MODEL from the records; exit code 1 if the log of decisions was changed.

    It has lineage, data, approvals, tests, quality, drift, incidents and access, as a page and as JSON.
    """
    from ml_platform.console.arguments import parse_instant
    from ml_platform.console.governance.report_files import write_compliance_report

    begin, end = (parse_instant(text) if text else None for text in (first, last))
    written = write_compliance_report(open_home(), model, domain, begin, end, out)
    count, problem = len(written.report.models), written.report.chain.problem
    typer.echo(f"Report on {count} model{'s' * (count != 1)} written to {written.html} and {written.json.name}.")
    if problem:
        typer.echo(problem, err=True)
        raise typer.Exit(1)
