"""`ml-platform …`: what `dg` has no verb for. Each verb reads like a sentence; the work is done below."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ml_platform.errors import PlatformError
from resources import environment
from resources.home import Home
from resources.orchestration import prepare

app = typer.Typer(
    name="ml-platform",
    help="Land data, run the loop, look at what serves and why. Assets themselves: `dg --help`, or the Dagster UI.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Partitions = Annotated[
    str, typer.Option("--partitions", "-p", help="One month (2013-06) or a range (2013-01...2013-06).")
]


def main() -> None:
    """Run the command line; a refusal of the platform ends with its message and exit code 1, not with a traceback."""
    environment.apply()
    try:
        app()
    except PlatformError as error:
        Console(stderr=True).print(f"[red]✗[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(1)


def _home() -> Home:
    home = Home.from_environment()
    prepare(home)
    return home


if __name__ == "__main__":
    main()
