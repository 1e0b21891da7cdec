"""The verbs that end a model, a dataset or a table, each with a record, a dry run and a confirmation."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from ml_platform.cli.decisions import By, Reason
from ml_platform.cli.opening import DatasetName, ModelName, open_home

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print the steps.")]
Yes = Annotated[bool, typer.Option("--yes", help="Confirm that something in use ends.")]

model = typer.Typer(help="Rename a model, or end it.", no_args_is_help=True)
dataset = typer.Typer(help="Show the landings of a dataset, change its history, or end it.", no_args_is_help=True)
table = typer.Typer(help="End a table of the lake.", no_args_is_help=True)
domain = typer.Typer(help="End a domain.", no_args_is_help=True)


@model.command("retire")
def retire_model(name: ModelName, by: By, reason: Reason, dry_run: DryRun = False, yes: Yes = False) -> None:
    """End the service and the champion of the model NAME; versions, verdicts and tables stay."""
    from ml_platform.components.stores import open_home_stores
    from ml_platform.console.lifecycle import run_steps
    from ml_platform.steps.lifecycle import LifecycleDecision, retirement_of_model

    decision = LifecycleDecision(by, reason, datetime.now(UTC))
    steps = retirement_of_model(name, open_home_stores(open_home()), decision)
    run_steps(steps, typer.echo, dry_run=dry_run, confirmed=yes, subject=f"Model '{name}'")


@model.command("rename")
def rename_model(
    old: ModelName, new: ModelName, by: By, reason: Reason, dry_run: DryRun = False, yes: Yes = False
) -> None:
    """Give the history and the service of the model OLD to NEW, after its declaration was renamed."""
    from ml_platform.console.lifecycle import run_steps
    from ml_platform.console.model_history import rename_steps
    from ml_platform.steps.lifecycle import LifecycleDecision
    from resources.orchestration import open_instance

    home, decision = open_home(), LifecycleDecision(by, reason, datetime.now(UTC))
    with open_instance(home) as instance:
        steps = rename_steps(old, new, home, instance, decision)
    if not steps:
        typer.echo(f"Nothing to do: the history of model '{old}' has moved to '{new}'.")
        return
    run_steps(steps, typer.echo, dry_run=dry_run, confirmed=yes, subject=f"Model '{old}'")
    typer.echo(
        f"Requests to /v1/{old}/ are answered until `ml-platform model retire {old}`. Events of '{old}' in Dagster "
        f"keep their name."
    )


@dataset.command("drop")
def drop_dataset(name: DatasetName, by: By, reason: Reason, dry_run: DryRun = False, yes: Yes = False) -> None:
    """Drop the table of the dataset NAME, whose declaration was deleted; the landed files stay."""
    from ml_platform.console.lifecycle import declared_names, run_steps
    from ml_platform.registry.audit import AuditLog
    from ml_platform.steps.lifecycle import LifecycleDecision, removal_of_dataset
    from resources.home_lake import open_lake

    lake, decision = open_lake(open_home()), LifecycleDecision(by, reason, datetime.now(UTC))
    steps = removal_of_dataset(name, lake, AuditLog(lake.state), decision, declared_names())
    run_steps(steps, typer.echo, dry_run=dry_run, confirmed=yes, subject=f"Dataset '{name}'")


@dataset.command("quality")
def dataset_quality(
    name: DatasetName,
    last: Annotated[int, typer.Option(min=1, help="Number of landings.")] = 20,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the last landings of the dataset NAME: whether each is as usual, and what is not."""
    import json

    from rich.console import Console

    from ml_platform.console import dataset_quality as work

    found = work.landings(open_home(), name, last)
    if json_output:
        typer.echo(json.dumps([work.json_values(each) for each in found]))
    else:
        work.show(found, name, Console())


@dataset.command("evolve")
def evolve_dataset(
    name: DatasetName,
    by: By,
    reason: Reason,
    rename: Annotated[list[str] | None, typer.Option(help="A renamed column as old=new; repeatable.")] = None,
    fill: Annotated[list[str] | None, typer.Option(help="The value of an added column as column=value.")] = None,
    drop: Annotated[list[str] | None, typer.Option(help="A column to leave out from now on; repeatable.")] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Bring the stored rows of the dataset NAME to the columns of its contract; earlier versions stay."""
    from ml_platform.components.loading import declared_dataset
    from ml_platform.console import dataset_history as work
    from ml_platform.console.lifecycle import run_steps
    from ml_platform.console.materialize import load_definitions
    from ml_platform.errors import listed
    from ml_platform.steps.lifecycle import LifecycleDecision
    from resources.home_lake import open_lake
    from resources.orchestration import open_instance

    home, decision = open_home(), LifecycleDecision(by, reason, datetime.now(UTC))
    declared = declared_dataset(name)
    request = work.parsed_request(rename or [], fill or [], drop or [])
    with open_instance(home) as instance:
        steps = work.evolution_steps(declared, request, open_lake(home), instance, decision, check=dry_run)
        if steps:
            run_steps(steps, typer.echo, dry_run=dry_run, confirmed=yes, subject=f"Dataset '{name}'")
    if not steps:
        typer.echo(f"Nothing to do: the rows of dataset '{name}' have the columns of its contract.")
    else:
        stale = [key.to_user_string() for key in work.downstream_of(load_definitions(), declared.key)]
        typer.echo(f"Stale afterwards: {listed(stale, 20) or 'nothing'}.")


@dataset.command("rename")
def rename_dataset(
    old: DatasetName, new: DatasetName, by: By, reason: Reason, dry_run: DryRun = False, yes: Yes = False
) -> None:
    """Move the history of the dataset OLD to NEW, after its declaration was renamed."""
    from ml_platform.components.loading import declared_dataset
    from ml_platform.console import dataset_history as work
    from ml_platform.console.lifecycle import run_steps
    from ml_platform.data.landing import Landing
    from ml_platform.steps.lifecycle import LifecycleDecision
    from resources.home_lake import open_lake
    from resources.orchestration import open_instance

    home, decision = open_home(), LifecycleDecision(by, reason, datetime.now(UTC))
    declared = declared_dataset(new)
    with open_instance(home) as instance:
        steps = work.rename_steps(old, declared, open_lake(home), Landing(home.landing), instance, decision)
        if steps:
            run_steps(steps, typer.echo, dry_run=dry_run, confirmed=yes, subject=f"Dataset '{old}'")
    if not steps:
        typer.echo(f"Nothing to do: the history of dataset '{old}' has moved to '{new}'.")
    else:
        typer.echo(
            f"Events of '{old}' in Dagster keep their name. The assets downstream of '{new}' are stale afterwards."
        )


@table.command("drop")
def drop_table(name: str, by: By, reason: Reason, dry_run: DryRun = False, yes: Yes = False) -> None:
    """Drop the tables below NAME (features/…, online/…, models/…) of a view or model without a declaration."""
    from ml_platform.console.lifecycle import declared_names, run_steps
    from ml_platform.registry.audit import AuditLog
    from ml_platform.steps.lifecycle import LifecycleDecision, removal_of_tables
    from resources.home_lake import open_lake

    lake, decision = open_lake(open_home()), LifecycleDecision(by, reason, datetime.now(UTC))
    steps = removal_of_tables(name, lake, AuditLog(lake.state), decision, declared_names())
    run_steps(steps, typer.echo, dry_run=dry_run, confirmed=yes, subject=f"Table '{name}'")


@domain.command("remove")
def remove_domain(
    name: str,
    by: By,
    reason: Reason,
    also: Annotated[
        list[str] | None,
        typer.Option(help="A further orphan of the domain, like features/shops; repeatable."),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """End all that the domain NAME, whose folder was deleted, has left: services, champions, tables and datasets."""
    from ml_platform.components.project import read_project
    from ml_platform.components.stores import open_home_stores
    from ml_platform.console.lifecycle import declared_names, run_steps
    from ml_platform.steps.domain_removal import removal_of_domain
    from ml_platform.steps.lifecycle import LifecycleDecision
    from resources.profiles import REPOSITORY

    project, decision = read_project(REPOSITORY), LifecycleDecision(by, reason, datetime.now(UTC))
    declared, stores = declared_names(project), open_home_stores(open_home())
    steps = removal_of_domain(name, stores, decision, declared, list(project.tree.domains), also or ())
    run_steps(steps, typer.echo, dry_run=dry_run, confirmed=yes, subject=f"Domain '{name}'")
