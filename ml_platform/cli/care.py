"""The verbs that keep a project and its home in order: check, clean, upgrade, back up, restore, verify, repair."""

from typing import Annotated

import typer

from ml_platform.cli.opening import open_console, open_home, writable
from ml_platform.data.names import full_name
from resources.home import Home


def check() -> None:
    """Check every declaration of every domain, with the modules that it names; exit code 1 if one is wrong."""
    from ml_platform.components.project import load_project
    from resources.profiles import REPOSITORY

    project = load_project(REPOSITORY)
    for domain, text in project.not_loaded.items():
        for line in text.splitlines():
            typer.echo(f"{domain}: {line}")
    loaded = [name for name in project.tree.domains if name != "__init__"]
    typer.echo(f"{len(loaded)} domains load, {len(project.not_loaded)} do not.")
    if project.not_loaded:
        raise typer.Exit(1)


def clean(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Remove what the home no longer needs, by the retention in params.yaml and defs.yaml."""
    import json

    from ml_platform.console import clean as work

    report = work.clean_home(open_home(), dry_run=dry_run)
    if as_json:
        typer.echo(json.dumps(work.json_values(report), indent=2))
    else:
        work.show(report, open_console())
    if report.problems:
        raise typer.Exit(1)


def upgrade(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change; change nothing.")] = False,
) -> None:
    """Migrate the home to the version of this release; exit code 1 if something could not be taken over."""
    from ml_platform.console import upgrade as work

    # Without open_home(), which would migrate the home.
    home, console = Home.from_environment(), open_console()
    with writable(home):
        found = work.upgrade(home, dry_run=dry_run)
    work.show(found, home, console, dry_run=dry_run)
    if found.left_out:
        raise typer.Exit(1)


def backup(
    target: Annotated[str, typer.Argument(help="Folder, or s3://bucket/prefix.")],
    keep: Annotated[int | None, typer.Option(min=1, help="Number of backups that stay there; without it, all.")] = None,
) -> None:
    """Copy the home to TARGET while everything runs; only what changed since the last backup is copied."""
    from datetime import UTC, datetime

    from ml_platform.console import home_care

    typer.echo(home_care.backup_line(home_care.back_up(open_home(), target, keep, datetime.now(UTC))))


def restore(
    target: Annotated[str, typer.Argument(help="Folder or address with backups.")],
    backup: Annotated[str, typer.Option("--backup", help="Id of a backup; without it, the latest.")] = "",
) -> None:
    """Restore a backup into the folder of ML_PLATFORM_HOME, which must be new or empty."""
    from ml_platform.console import home_care

    # Without open_home(), which would create the home.
    home = Home.from_environment()
    typer.echo(home_care.restore_line(home_care.restore(home, target, backup or None), home))


def verify(
    model: Annotated[
        str, typer.Argument(help="Model whose bentos are verified; without it, everything.", show_default=False)
    ] = "",
    rows: Annotated[bool, typer.Option("--rows", help="Also read the rows of every partition.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare everything that the home stores with its recorded digests; exit code 1 if something differs."""
    import json

    from ml_platform.console import home_care

    found = home_care.verify(open_home(), rows=rows, model=full_name(model) if model else "")
    if as_json:
        typer.echo(json.dumps(home_care.verification_json(found), indent=2))
    else:
        home_care.show_verification(found, open_console())
    if found.problems:
        raise typer.Exit(1)


def repair() -> None:
    """Rebuild what can be derived from other records, and say what cannot; exit code 1 if something is left."""
    from ml_platform.console import home_care

    repairs = home_care.repair(open_home())
    home_care.show_repairs(repairs, open_console())
    if not all(each.repaired for each in repairs):
        raise typer.Exit(1)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    profile: Annotated[str, typer.Option("--profile", help="Profile to check: local or cluster.")] = "",
) -> None:
    """Check machine, installation, home and services; each problem with its fix; exit code 1 if a check failed."""
    import json
    import os
    from datetime import UTC, datetime

    from ml_platform.console.doctor import diagnosis
    from ml_platform.console.doctor.finding import Subject
    from resources.profile import PROFILE_VARIABLE
    from resources.profiles import REPOSITORY

    if profile:
        os.environ[PROFILE_VARIABLE] = profile
    # Without open_home(), which would create or migrate the home.
    findings = diagnosis.diagnose(Subject(Home.from_environment(), REPOSITORY, datetime.now(UTC)))
    if as_json:
        typer.echo(json.dumps(diagnosis.as_json(findings), indent=2))
    else:
        diagnosis.show(findings, open_console())
    if diagnosis.has_failed(findings):
        raise typer.Exit(1)
