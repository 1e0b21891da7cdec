"""The verbs about the rollout of a new champion: its state, the approval of a step, and its end by hand."""

from typing import Annotated

import typer

from ml_platform.cli.decisions import By, Reason, show_in_dagster
from ml_platform.cli.opening import ModelName, open_home

rollout = typer.Typer(help="See, approve or abort the rollout of a new champion.", no_args_is_help=True)


@rollout.command()
def status(
    model: ModelName, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False
) -> None:
    """Show the last rollout of MODEL: step, answers so far, evidence against the candidate, and what is needed."""
    import json
    from datetime import UTC, datetime

    from ml_platform.steps.rollouts import describe_rollout
    from resources.state import open_state

    found = describe_rollout(open_state(open_home()), model, datetime.now(UTC))
    if as_json:
        typer.echo(json.dumps(found))
        return
    for name, value in found.items():
        typer.echo(f"{name}: {value}")


@rollout.command()
def approve(model: ModelName, by: By, reason: Reason) -> None:
    """Let the rollout of MODEL go on after its current step, which declares an approval."""
    from datetime import UTC, datetime

    from ml_platform.steps.rollouts import approve_step
    from resources.state import open_state

    home = open_home()
    approved = approve_step(open_state(home), model, by=by, reason=reason, at=datetime.now(UTC))
    typer.echo(f"Step {approved.step + 1} of version {approved.candidate.version} is approved.")
    show_in_dagster(home)


@rollout.command()
def abort(model: ModelName, by: By, reason: Reason) -> None:
    """Take all requests from the candidate of MODEL; the stable version answers all of them."""
    from datetime import UTC, datetime

    from ml_platform.steps.rollouts import abort_rollout
    from resources.state import open_state

    home = open_home()
    state = abort_rollout(open_state(home), model, by=by, reason=reason, at=datetime.now(UTC))
    typer.echo(f"The stable version answers all requests; the desired state is generation {state.generation}.")
    show_in_dagster(home)


@rollout.command()
def retry(model: ModelName, by: By, reason: Reason) -> None:
    """Begin the rollout of MODEL's last candidate again after it was rolled back."""
    from datetime import UTC, datetime

    from ml_platform.steps.rollouts import retry_rollout
    from resources.state import open_state

    home = open_home()
    state = retry_rollout(open_state(home), model, by=by, reason=reason, at=datetime.now(UTC))
    typer.echo(f"The rollout begins again; the desired state is generation {state.generation}.")
    show_in_dagster(home)
