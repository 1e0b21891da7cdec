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
    """Show what steps have cost by domain, of a DOMAIN by model, or of a MODEL by asset."""
    import json
    from datetime import UTC, datetime

    from ml_platform.console import costs as work
    from ml_platform.console.materialize import declared_components
    from ml_platform.steps.prices import read_prices
    from resources.profiles import REPOSITORY
    from resources.state import open_state

    known: list[str] = []
    if subject:
        from ml_platform.components.model.component import Model

        known = sorted({name for each in declared_components(Model) for name in (each.name, each.domain)})
    state, today = open_state(open_home()), datetime.now(UTC).date()
    report = work.report_of_name(state, subject, days, today, read_prices(REPOSITORY), known)
    if as_json:
        typer.echo(json.dumps(report.json_values(), indent=2))
    else:
        work.show(report, open_console())
