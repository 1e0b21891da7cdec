"""The verbs by which a person decides: approve, reject, roll back, retire, restore, resume retraining."""

import os
from typing import Annotated, Literal

import typer

from ml_platform.cli.opening import ModelName, open_console, open_home
from resources.home import HOME_VARIABLE, Home

By = Annotated[str, typer.Option(help="Name of the person who decides.")]
Reason = Annotated[str, typer.Option(help="Reason of the decision, for the record.")]
EvidenceDigest = Annotated[
    str, typer.Option("--evidence", help="First digits of the evidence digest on the model card that the person read.")
]


def show_in_dagster(home: Home) -> None:
    """Write the Dagster events of the decision that was just recorded, in a process of its own.

    The decision does not depend on it. If Dagster's storage does not answer, the sensor `decisions` writes them later.
    """
    import subprocess
    import sys

    command = [sys.executable, "-m", "resources.decision_events"]
    done = subprocess.run(command, check=False, capture_output=True, env={**os.environ, HOME_VARIABLE: str(home.root)})
    if done.returncode:
        typer.echo("The Dagster UI does not show it yet; its sensor `decisions` will, when it runs.", err=True)


def approve(model: ModelName, version: int, by: By, reason: Reason, evidence: EvidenceDigest = "") -> None:
    """Approve VERSION of MODEL on its latest verdict; it becomes champion at once if all other conditions are met."""
    _decide("approve", model, version, by, reason, evidence)


def reject(model: ModelName, version: int, by: By, reason: Reason, evidence: EvidenceDigest = "") -> None:
    """Reject VERSION of MODEL on its latest verdict; a rejected version is no longer challenger."""
    _decide("reject", model, version, by, reason, evidence)


def rollback(model: ModelName, by: By, reason: Reason) -> None:
    """Make the previous champion of MODEL the champion again, and the stable version of its endpoint."""
    from datetime import UTC, datetime

    from ml_platform.steps.rollback import roll_back_champion
    from resources.state import open_state

    home = open_home()
    back, state = roll_back_champion(model, home, open_state(home), decided_by=by, reason=reason, at=datetime.now(UTC))
    typer.echo(f"Version {back.version} is champion again; the desired state is generation {state.generation}.")
    typer.echo("MLflow's aliases follow, by Dagster or the next command that opens the registry.")
    typer.echo("Update its model card and its release folder with:")
    assets = f'key:"{model}/champion" or key:"{model}/model_card"'
    typer.echo(f"  ml-platform materialize --select '{assets}' --partitions {back.partition} --force")
    show_in_dagster(home)


def retire(model: ModelName, by: By, reason: Reason) -> None:
    """End the champion of MODEL without a successor, also when its version was deleted in MLflow."""
    from datetime import UTC, datetime

    from ml_platform.components.stores import open_home_stores
    from ml_platform.registry.missing_champion import retire_champion

    home = open_home()
    stores = open_home_stores(home)
    ended = retire_champion(stores.registry, stores.audit, model, decided_by=by, reason=reason, at=datetime.now(UTC))
    typer.echo(f"Version {ended.version} is champion of '{model}' no longer; its endpoint serves until a rollout.")
    show_in_dagster(home)


def restore_version(model: ModelName, by: By, reason: Reason) -> None:
    """Register the champion of MODEL again after its version was deleted in MLflow, from its release or bento."""
    from datetime import UTC, datetime

    from ml_platform.components.stores import open_home_stores
    from ml_platform.steps.missing_champion import restore_deleted_champion

    home = open_home()
    stores = open_home_stores(home)
    record = restore_deleted_champion(model, stores, by=by, reason=reason, now=datetime.now(UTC))
    typer.echo(f"The champion of '{model}' is version {record.version} in MLflow. Package it and roll it out with:")
    assets = f'key:"{model}/bento" or key:"{model}/rollout"'
    typer.echo(f"  ml-platform materialize --select '{assets}' --partitions {record.partition} --force")
    show_in_dagster(home)


def resume_retraining(model: ModelName, by: By, reason: Reason) -> None:
    """Let the retraining of MODEL start again that stopped after failed runs."""
    from datetime import UTC, datetime

    from ml_platform.registry.audit import AuditLog
    from ml_platform.steps.retraining import resume_training
    from resources.state import open_state

    audit = AuditLog(open_state(open_home()))
    resumed = resume_training(model, audit, by=by, reason=reason, now=datetime.now(UTC))
    further = resumed.attempts - resumed.runs
    typer.echo(f"The sensor trains '{model}' on {resumed.window} again, with at most {further} further runs.")


def show_decisions(
    model: ModelName,
    last: Annotated[int, typer.Option(min=1, help="Number of decisions, latest first.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """Show why MODEL was retrained or not, window by window; `history` shows the decisions on its versions."""
    import json

    from ml_platform.console import retraining_decisions as work

    found = work.retraining_decisions(open_home(), model, last)
    if as_json:
        typer.echo(json.dumps([work.json_values(each) for each in found], indent=2))
    else:
        work.show(found, model, open_console())


def _decide(
    decision: Literal["approve", "reject"], model: str, version: int, by: str, reason: str, evidence: str
) -> None:
    from datetime import UTC, datetime

    from ml_platform.components.loading import bound_model
    from ml_platform.components.stores import open_home_stores
    from ml_platform.steps.promotion import ApprovalDecision, NotPromoted, record_decision

    home = open_home()
    outcome = record_decision(
        bound_model(model),
        version,
        ApprovalDecision(decision, by, reason, evidence),
        open_home_stores(home),
        now=datetime.now(UTC),
    )
    if isinstance(outcome, NotPromoted):
        typer.echo(f"The decision is recorded. Version {version} of '{model}' is not champion: {outcome.reason}")
    else:
        typer.echo(f"The decision is recorded. Version {version} is champion of '{model}'. Roll it out with:")
        assets = " or ".join(f'key:"{model}/{name}"' for name in ("champion", "bento", "rollout"))
        typer.echo(f"  ml-platform materialize --select '{assets}' --partitions {outcome.partition} --force")
    show_in_dagster(home)
