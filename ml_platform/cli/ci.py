"""The verbs for continuous integration."""

from pathlib import Path
from typing import Annotated

import typer

from ml_platform.cli.opening import open_home
from ml_platform.data.names import full_name

ci = typer.Typer(help="Reports for continuous integration.", no_args_is_help=True)


@ci.callback()
def _() -> None:
    """Reports for continuous integration."""


@ci.command()
def report(
    model: Annotated[str, typer.Option(help="Name of the model.", parser=full_name, metavar="TEXT")],
    out: Annotated[Path, typer.Option(help="Folder of report.md, comment.md and images/.")],
    partition: Annotated[str, typer.Option(help="Window of the candidate; without it, the one judged last.")] = "",
    image_address: Annotated[
        str, typer.Option(help="Address of the folder where the images are published; without it, comment.md has none.")
    ] = "",
) -> None:
    """Write the report of the last evaluation as Markdown, for a pull request.

    It has metrics against the champion with intervals, slices, drift, cost, data, and the model card.
    """
    from ml_platform.console.ci.report_files import write_ci_report

    written = write_ci_report(open_home(), model, partition, out, image_address)
    verdict = written.content.verdict
    typer.echo(
        f"{verdict.decision} for version {written.content.version}: {written.report} and {written.comment.name}."
    )
