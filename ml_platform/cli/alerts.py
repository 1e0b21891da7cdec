"""The verbs about alerts."""

from typing import Annotated

import typer

from ml_platform.cli.opening import open_console, open_home

alerts = typer.Typer(help="List, acknowledge and silence alerts, and test their routes.", no_args_is_help=True)

Kind = Annotated[str, typer.Argument(help="Kind of the alert, as `alerts list` shows it.")]
Subject = Annotated[str, typer.Argument(help="Subject of the alert, as `alerts list` shows it.")]
By = Annotated[str, typer.Option(help="Name of the person.")]
Reason = Annotated[str, typer.Option(help="Reason, for others.")]


@alerts.command("list")
def list_alerts(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False) -> None:
    """List the open alerts: what, how bad, since when, the link and the runbook."""
    import json

    from ml_platform.console import alerts as work

    found = work.open_alert_entries(open_home())
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        work.show(found, open_console())


@alerts.command()
def evaluate() -> None:
    """Evaluate all sources once and send what is due, as the sensor does; exit code 1 if a receiver is down."""
    from ml_platform.console import alerts as work

    if not work.evaluate(open_home(), typer.echo):
        raise typer.Exit(1)


@alerts.command()
def ack(kind: Kind, subject: Subject, by: By, reason: Reason) -> None:
    """Take care of an open alert: it is neither repeated nor escalated; its recovery is still sent."""
    from ml_platform.console import alerts as work

    found = work.acknowledge_alert(open_home(), kind, subject, by, reason)
    typer.echo(f"Acknowledged by {by}: {found.title}.")


@alerts.command()
def silence(
    kind: Annotated[str, typer.Argument(help="Kind of the alerts, or * for all.")],
    subject: Annotated[str, typer.Argument(help="Subject, with * for any characters.")],
    until: Annotated[str, typer.Option(help="End, ISO 8601 with offset.")],
    by: By,
    reason: Reason,
) -> None:
    """Send no messages about alerts of KIND on SUBJECT until then; the home page still shows them."""
    from ml_platform.console import alerts as work

    made = work.silence(open_home(), kind, subject, until, by, reason)
    typer.echo(f"Silent until {made.until.isoformat()}: {kind} on '{subject}'.")


@alerts.command()
def unsilence(kind: Kind, subject: Subject) -> None:
    """End the silence that was made for exactly KIND and SUBJECT."""
    from ml_platform.console import alerts as work

    ended = work.end_silence(open_home(), kind, subject)
    typer.echo(f"Ended {ended} silences of {kind} on '{subject}'.")
    if not ended:
        raise typer.Exit(1)


@alerts.command()
def test(route: Annotated[str, typer.Argument(help="Name of a route in alerts.yaml.")]) -> None:
    """Send a test alert and its recovery to each receiver of ROUTE; exit code 1 if one did not take it."""
    from ml_platform.console import alerts as work

    failed = False
    for receiver, problem in work.try_route(open_home(), route):
        typer.echo(f"{receiver}: {problem or 'taken'}")
        failed = failed or bool(problem)
    if failed:
        raise typer.Exit(1)


@alerts.command()
def check() -> None:
    """Check alerts.yaml and the environment variables that it names; exit code 1 if one is wrong."""
    from ml_platform.console import alerts as work

    settings, problems = work.check_settings()
    for problem in problems:
        typer.echo(problem)
    typer.echo(f"{len(settings.receivers)} receivers, {len(settings.routes)} routes, {len(problems)} problems.")
    if problems:
        raise typer.Exit(1)
