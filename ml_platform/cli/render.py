"""The verb that writes the desired state as files for another system."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ml_platform.cli.opening import open_home

render = typer.Typer(help="Write the desired state as files for another system.", no_args_is_help=True)


class FormName(StrEnum):
    """How the cluster serves models."""

    envoy = "envoy"
    kserve = "kserve"


@render.command()
def kubernetes(
    out: Annotated[Path, typer.Option(help="Folder of the release.")] = Path("releases/kubernetes"),
    form: Annotated[FormName, typer.Option(help="Gateway API with a Deployment for each version, or KServe.")] = (
        FormName.envoy
    ),
    repository: Annotated[
        str, typer.Option(help="Address of the Git repository; writes applications of Argo CD.", show_default=False)
    ] = "",
    revision: Annotated[str, typer.Option(help="Branch that Argo CD watches.")] = "main",
    folder: Annotated[str, typer.Option(help="Folder of the release in that repository.")] = "releases/kubernetes",
    manifests: Annotated[bool, typer.Option("--manifests", help="Also write the objects, by helm.")] = False,
    commit: Annotated[bool, typer.Option("--commit", help="Commit the folder to the current branch.")] = False,
) -> None:
    """Write which versions the cluster should serve, from the desired state; a commit of it is a promotion."""
    import time

    from ml_platform.console import kubernetes as work
    from ml_platform.serving.kubernetes_release import GitSource

    source = GitSource(repository, revision, folder) if repository else None
    found = work.render(open_home(), out, form=form.value, now=time.time(), source=source, manifests=manifests)
    for line in found.changes:
        typer.echo(line)
    typer.echo(f"{len(found.written)} files written, {len(found.removed)} removed in {out}.")
    if commit:
        committed = work.commit(out, found)
        typer.echo(f"Committed as {committed[:12]}." if committed else "Nothing to commit.")
