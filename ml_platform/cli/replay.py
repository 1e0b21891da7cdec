"""`ml-platform replay`: past windows land one after another in a fresh home, and the platform runs by itself."""

from pathlib import Path
from typing import Annotated

import typer

from ml_platform.cli.opening import open_console


def replay(
    domain: str,
    first: Annotated[str, typer.Option("--from", help="First window, such as 2013-04.")],
    last: Annotated[str, typer.Option("--to", help="Last window, such as 2013-12.")],
    home: Annotated[
        Path | None, typer.Option(help="Folder of the replay; default: replay/DOMAIN in the home.", show_default=False)
    ] = None,
    every_window: Annotated[
        bool,
        typer.Option(
            "--every-window", "--monthly", help="Also replay with a training on each window, to compare with it."
        ),
    ] = False,
    planted: Annotated[
        list[str] | None,
        typer.Option("--plant", help="Incident of the domain as NAME=WINDOW; repeatable.", show_default=False),
    ] = None,
    headless: Annotated[bool, typer.Option(help="Start no webserver, MLflow server and reports.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON; progress on stderr.")] = False,
) -> None:
    """Replay past windows of DOMAIN through the real platform; an interrupted replay goes on where it was.

    Each window lands, its rows are sent to the endpoint, and sensors, gates and rollouts act as in production.
    """
    import json
    import signal

    from ml_platform.console.replay.driver import replay as run_replay
    from ml_platform.console.replay.incidents import parsed_incidents
    from ml_platform.console.replay.report import write_report
    from ml_platform.console.replay.steps import Policy
    from resources.home import Home

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the platform is stopped, as after Ctrl-C

    console = open_console(2 if as_json else 1)

    def echo(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    root = (home or Home.from_environment().root / "replay" / domain).resolve()
    policies: list[Policy] = ["policy", "every_window"] if every_window else ["policy"]
    homes = run_replay(
        domain, first, last, root, policies, echo, headless=headless, incidents=parsed_incidents(planted or [])
    )
    found = write_report(root / "reports", homes)
    echo(f"Report written to {root / 'reports' / 'replay.html'}.")
    if as_json:
        typer.echo(json.dumps(found, indent=2))
