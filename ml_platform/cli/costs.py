"""The verb `costs`: what the steps of a domain, a model or an asset have cost."""

from typing import Annotated

import typer

from ml_platform.cli.opening import open_console, open_home
from ml_platform.data.names import full_name


def show_costs(
    subject: Annotated[
        str,
        typer.Argument(parser=full_name, metavar="[DOMAIN|MODEL]", show_default=False, help="Default: all domains."),
    ] = "",
    days: Annotated[int, typer.Option(min=1, help="Number of days (UTC), today included.")] = 30,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what steps have cost by domain, of a DOMAIN by model, or of a MODEL by asset, and what could be saved."""
    import json
    from datetime import UTC, datetime

    from ml_platform.components.project import read_project
    from ml_platform.console import costs as work
    from ml_platform.console import savings as saving_work
    from ml_platform.steps.prices import read_prices
    from resources.profiles import REPOSITORY
    from resources.state import open_state

    home, project, prices = open_home(), read_project(REPOSITORY), read_prices(REPOSITORY)
    declared = saving_work.declared_resources(project)
    known = sorted({name for each in declared.lineage.models.values() for name in (each.name, each.domain)})
    state, today = open_state(home), datetime.now(UTC).date()
    report = work.report_of_name(state, subject, days, today, prices, known)
    settings = saving_work.read_saving_settings(REPOSITORY)
    savings = saving_work.find_savings(state, declared, prices, settings, today, days, home.run, home.prediction_logs)
    savings = saving_work.savings_of(savings, subject)
    if as_json:
        values = {**report.json_values(), "savings": [each.json_values() for each in savings]}
        typer.echo(json.dumps(values, indent=2))
    else:
        console = open_console()
        work.show(report, console)
        saving_work.show(savings, prices.shown_currency, console)
