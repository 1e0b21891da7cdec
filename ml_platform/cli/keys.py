"""The verbs about the clients of the gateway and their API keys."""

from typing import Annotated

import typer

from ml_platform.cli.decisions import By, Reason
from ml_platform.cli.opening import open_console, open_home

keys = typer.Typer(help="Give, change and end the API keys of the gateway's clients.", no_args_is_help=True)

ClientName = Annotated[str, typer.Argument(help="Name of the client: lower case, in logs and metrics.")]
Rate = Annotated[str, typer.Option(help="Requests per second, like 100/s.", show_default=False)]
Burst = Annotated[
    int | None, typer.Option(min=1, help="Requests at once after a pause; without it, as many as in a second.")
]
Quota = Annotated[str, typer.Option(help="Requests per day in UTC, like 100000/d, or none.", show_default=False)]
Concurrency = Annotated[
    int | None, typer.Option(min=1, help="Requests under way in all services together.", show_default=False)
]
Models = Annotated[
    str, typer.Option(help="Models that it may ask, with commas, or all.", metavar="A,B", show_default=False)
]


@keys.command()
def add(
    client: ClientName,
    by: By,
    reason: Reason,
    rate: Rate = "100/s",
    burst: Burst = None,
    quota: Quota = "none",
    concurrency: Concurrency = 16,
    models: Models = "all",
) -> None:
    """Add CLIENT with its limits, and print its key: once, since only a hash of it is stored."""
    from ml_platform.console import client_keys as work

    limits = work.limits(rate, burst, quota, concurrency, models)
    work.show_key(work.add(open_home(), client, limits, by, reason), typer.echo)


@keys.command("list")
def list_keys(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False) -> None:
    """List the clients with their limits, requests of the day and keys; no secret is shown."""
    import json

    from ml_platform.console import client_keys as work

    found = work.client_entries(open_home())
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        work.show(found, open_console())


@keys.command()
def rotate(
    client: ClientName,
    by: By,
    reason: Reason,
    overlap: Annotated[str, typer.Option(help="How long the old keys stay valid, like 24h, 30m or 0s.")] = "24h",
) -> None:
    """Make another key for CLIENT and print it; its old keys stay valid for the overlap."""
    from ml_platform.console import client_keys as work

    work.show_key(work.rotate(open_home(), client, overlap, by, reason), typer.echo)


@keys.command()
def revoke(
    client: ClientName,
    by: By,
    reason: Reason,
    key: Annotated[str, typer.Option(help="Id of one key; without it, all keys of the client end.")] = "",
) -> None:
    """End the keys of CLIENT: a running gateway refuses them within two seconds."""
    from ml_platform.console import client_keys as work

    ended = work.revoke(open_home(), client, key, by, reason)
    typer.echo(f"Ended {len(ended)} keys of client '{client}': {', '.join(ended)}.")


@keys.command()
def limit(
    client: ClientName,
    by: By,
    reason: Reason,
    rate: Rate = "",
    burst: Burst = None,
    quota: Quota = "",
    concurrency: Concurrency = None,
    models: Models = "",
) -> None:
    """Change limits of CLIENT; those that are not given stay."""
    from ml_platform.console import client_keys as work

    changed = work.limit(open_home(), client, work.limits(rate, burst, quota, concurrency, models), by, reason)
    typer.echo(f"Client '{client}': {work.limits_text(changed)}.")
