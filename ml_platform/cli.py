"""The command line `ml-platform`: the commands that `dg` does not have, each backed by `ml_platform.console`."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from ml_platform.errors import PlatformError
from resources import environment
from resources.home import Home
from resources.orchestration import prepare

app = typer.Typer(
    name="ml-platform",
    help="Land data, run the whole loop, and inspect champions and services. See `dg --help` for other commands.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

features = typer.Typer(help="Inspect features.", no_args_is_help=True)
app.add_typer(features, name="features")

audit = typer.Typer(help="Check, anchor and export the log of all decisions.", no_args_is_help=True)
app.add_typer(audit, name="audit")


class HomeError(PlatformError):
    """Raised when the home cannot be created or written."""


Partitions = Annotated[
    str, typer.Option("--partitions", "-p", help="One partition (2013-06) or a range (2013-01...2013-06).")
]
By = Annotated[str, typer.Option(help="Name of the person who decides.")]
Reason = Annotated[str, typer.Option(help="Reason of the decision, for the record.")]
EvidenceDigest = Annotated[
    str, typer.Option("--evidence", help="First digits of the evidence digest on the model card that the person read.")
]


@app.command()
def land(domain: str, through: Annotated[str, typer.Option(help="Last partition to land, such as 2013-06.")]) -> None:
    """Write the raw files of DOMAIN into the landing zone, partition by partition."""
    from ml_platform.console.arguments import domain_module
    from ml_platform.data.landing import Landing

    landed = domain_module(domain, "landing").land(Landing(_home().landing), through)
    _console().print(f"{len(landed)} files have landed through {through}.")


@app.command()
def materialize(
    select: Annotated[str, typer.Option(help="Assets, in Dagster's selection syntax.")],
    partitions: Partitions,
    force: Annotated[bool, typer.Option(help="Also materialize assets that are up to date.")] = False,
) -> None:
    """Materialize the stale assets of a selection, with live progress."""
    from ml_platform.console import materialize as work
    from ml_platform.console.progress import live_progress
    from resources.orchestration import open_instance

    home, console, loaded = _home(), _console(), work.load_definitions()
    with open_instance(home) as instance, live_progress(console) as listener:
        keys = work.resolve_selection(loaded, select)
        runs = work.bring_up_to_date(loaded, instance, home, keys, partitions, listener=listener, force=force)
    materialized = sum(len(run.steps) for run in runs)
    console.print(f"{materialized} of {len(keys)} assets materialized; the others were up to date.")


@app.command()
def runs(
    end_dead: Annotated[bool, typer.Option("--end-dead", help="End every run whose process is gone.")] = False,
    end: Annotated[str, typer.Option(help="End this run (id or its start) if its process does not run here.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """List the runs that have not ended with their processes, or end those whose process is gone."""
    import json

    from ml_platform.console import open_runs as work
    from resources.orchestration import open_instance
    from resources.run_monitoring import end_run, recover_from_killed_processes

    home, console = _home(), _console()
    with open_instance(home) as instance:
        if end_dead or end:
            ended = recover_from_killed_processes(home, instance) if end_dead else []
            work.show_ended([*ended, *([end_run(instance, end)] if end else [])], console)
        elif as_json:
            typer.echo(json.dumps(work.open_run_entries(instance), indent=2))
        else:
            work.show(work.open_run_entries(instance), console)


@app.command()
def clean(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Remove what the home no longer needs, by the retention in params.yaml and defs.yaml."""
    import json

    from ml_platform.console import clean as work

    report = work.clean_home(_home(), dry_run=dry_run)
    if as_json:
        typer.echo(json.dumps(work.json_values(report), indent=2))
    else:
        work.show(report, _console())
    if report.problems:
        raise typer.Exit(1)


@app.command()
def demo(
    domain: Annotated[
        str | None, typer.Argument(help="Domain under assets/ that declares a demo; needed where several do.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the figures as one JSON object, and the progress on stderr.")
    ] = False,
) -> None:
    """Run the whole loop: land, train, promote, serve, and predict the next month."""
    import json

    from ml_platform.console.arguments import only_domain
    from ml_platform.console.demo import run_demo

    found = run_demo(domain or only_domain("demo"), _home(), _console(2 if as_json else 1))
    if as_json:
        typer.echo(json.dumps(found))


@app.command()
def up() -> None:
    """Start webserver, daemon, MLflow, gateway and services; Ctrl-C stops all of them."""
    from ml_platform.console.services import platform_processes
    from ml_platform.serving.processes import up as run_until_stopped
    from resources.orchestration import open_instance
    from resources.profiles import REPOSITORY
    from resources.run_monitoring import recover_from_killed_processes

    home, console = _home(), _console()

    def recover() -> None:
        with open_instance(home) as instance:
            # All processes of this home have ended, so no process of a launched run can still appear.
            recover_from_killed_processes(home, instance, start_seconds=0)

    run_until_stopped(
        platform_processes(home, REPOSITORY),
        lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True),
        before_start=recover,
    )


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Show champions, served versions with their traffic shares, the data clock, and the last decisions."""
    import json

    from ml_platform.console import status as work

    home = _home()
    found = work.status(home)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        work.show(found, work.last_decisions(home), _console())


@app.command()
def report(
    model: Annotated[str, typer.Option(help="Name of the model.")],
    partition: Annotated[str, typer.Option(help="Partition that was evaluated.")],
    metrics: Annotated[Path, typer.Option(help="JSON file to write.")],
    plots: Annotated[Path, typer.Option(help="Folder for the tables behind the plots.")],
) -> None:
    """Write metrics and curves of an evaluation as files, for `dvc metrics` and `dvc plots`."""
    from ml_platform.console.evaluation_report import write_evaluation_report

    write_evaluation_report(_home(), model, partition, metrics, plots)


@app.command()
def history(
    model: str,
    at: Annotated[str, typer.Option(help="Instant in ISO 8601 with offset; without it, every decision is shown.")] = "",
    request: Annotated[str, typer.Option(help="Id of a request; shows the version that answered it.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show the champions of MODEL with their data and decisions, or the version that answered a request."""
    import json

    from ml_platform.console import history as work
    from ml_platform.console.arguments import parse_instant

    found = work.history_entries(_home(), model, parse_instant(at) if at else None, request)
    if as_json:
        typer.echo(json.dumps([work.json_values(each) for each in found], indent=2))
    else:
        work.show(found, model, _console())


@app.command()
def reproduce(model: str, version: int) -> None:
    """Rebuild VERSION of MODEL from its manifest and compare the result; exit code 1 if it differs."""
    from ml_platform.components.loading import bound_model
    from ml_platform.components.stores import open_home_stores
    from ml_platform.steps.reproduction import reproduce_version

    found = reproduce_version(bound_model(model), version, open_home_stores(_home()))
    for line in found.lines():
        typer.echo(line)
    if not found.equal:
        raise typer.Exit(1)


@app.command()
def approve(model: str, version: int, by: By, reason: Reason, evidence: EvidenceDigest = "") -> None:
    """Approve VERSION of MODEL on its latest verdict; it becomes champion at once if all other conditions are met."""
    _decide("approve", model, version, by, reason, evidence)


@app.command()
def reject(model: str, version: int, by: By, reason: Reason, evidence: EvidenceDigest = "") -> None:
    """Reject VERSION of MODEL on its latest verdict; a rejected version is no longer challenger."""
    _decide("reject", model, version, by, reason, evidence)


@app.command()
def rollback(model: str, by: By, reason: Reason) -> None:
    """Make the previous champion of MODEL the champion again, and the stable version of its endpoint."""
    from datetime import UTC, datetime

    from ml_platform.components.loading import bound_model
    from ml_platform.components.stores import open_home_stores
    from ml_platform.steps.packaging import roll_back_champion

    stores, name = open_home_stores(_home()), bound_model(model).name
    back, state = roll_back_champion(name, stores, decided_by=by, reason=reason, at=datetime.now(UTC))
    typer.echo(f"Version {back.version} is champion again; the desired state is generation {state.generation}.")
    typer.echo("Update its model card and its release folder with:")
    assets = f'key:"{name}/champion" or key:"{name}/model_card"'
    typer.echo(f"  ml-platform materialize --select '{assets}' --partitions {back.partition} --force")


@app.command()
def retire(model: str, by: By, reason: Reason) -> None:
    """End the champion of MODEL without a successor, also when its version was deleted in MLflow."""
    from datetime import UTC, datetime

    from ml_platform.components.stores import open_home_stores
    from ml_platform.registry.missing_champion import retire_champion

    stores = open_home_stores(_home())
    ended = retire_champion(stores.registry, stores.audit, model, decided_by=by, reason=reason, at=datetime.now(UTC))
    typer.echo(f"Version {ended.version} is champion of '{model}' no longer; its endpoint serves until a rollout.")


@app.command("restore-version")
def restore_version(model: str, by: By, reason: Reason) -> None:
    """Register the champion of MODEL again after its version was deleted in MLflow, from its release or bento."""
    from datetime import UTC, datetime

    from ml_platform.components.stores import open_home_stores
    from ml_platform.steps.missing_champion import restore_deleted_champion

    stores = open_home_stores(_home())
    record = restore_deleted_champion(model, stores, by=by, reason=reason, now=datetime.now(UTC))
    typer.echo(f"The champion of '{model}' is version {record.version} in MLflow. Package it and roll it out with:")
    assets = f'key:"{model}/bento" or key:"{model}/rollout"'
    typer.echo(f"  ml-platform materialize --select '{assets}' --partitions {record.partition} --force")


@app.command("leak-check")
def leak_check(model: str, partition: Annotated[str, typer.Option(help="Partition whose rows are checked.")]) -> None:
    """Check that no feature of MODEL uses later facts: scramble these and compare; exit code 1 if one changes."""
    from ml_platform.components.loading import bound_model
    from ml_platform.steps.evaluation import leaking_features
    from resources.home_lake import open_lake

    leaks = leaking_features(bound_model(model), partition, open_lake(_home()))
    typer.echo(f"{len(leaks)} leaks{': ' + ', '.join(leaks) if leaks else ''} in {partition}.")
    if leaks:
        raise typer.Exit(1)


@app.command()
def upgrade(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change; change nothing.")] = False,
) -> None:
    """Migrate the home to the version of this release; exit code 1 if something could not be taken over."""
    from ml_platform.console import upgrade as work

    # Without _home(), which would migrate the home.
    home, console = Home.from_environment(), _console()
    with _writable(home):
        found = work.upgrade(home, dry_run=dry_run)
    work.show(found, home, console, dry_run=dry_run)
    if found.left_out:
        raise typer.Exit(1)


@app.command()
def backup(
    target: Annotated[str, typer.Argument(help="Folder, or s3://bucket/prefix.")],
    keep: Annotated[int | None, typer.Option(min=1, help="Number of backups that stay there; without it, all.")] = None,
) -> None:
    """Copy the home to TARGET while everything runs; only what changed since the last backup is copied."""
    from datetime import UTC, datetime

    from ml_platform.console import home_care

    typer.echo(home_care.backup_line(home_care.back_up(_home(), target, keep, datetime.now(UTC))))


@app.command()
def restore(
    target: Annotated[str, typer.Argument(help="Folder or address with backups.")],
    backup: Annotated[str, typer.Option("--backup", help="Id of a backup; without it, the latest.")] = "",
) -> None:
    """Restore a backup into the folder of ML_PLATFORM_HOME, which must be new or empty."""
    from ml_platform.console import home_care

    # Without _home(), which would create the home.
    home = Home.from_environment()
    typer.echo(home_care.restore_line(home_care.restore(home, target, backup or None), home))


@app.command()
def verify(
    rows: Annotated[bool, typer.Option("--rows", help="Also read the rows of every partition.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare everything that the home stores with its recorded digests; exit code 1 if something differs."""
    import json

    from ml_platform.console import home_care

    found = home_care.verify(_home(), rows=rows)
    if as_json:
        typer.echo(json.dumps(home_care.verification_json(found), indent=2))
    else:
        home_care.show_verification(found, _console())
    if found.problems:
        raise typer.Exit(1)


@app.command()
def repair() -> None:
    """Rebuild what can be derived from other records, and say what cannot; exit code 1 if something is left."""
    from ml_platform.console import home_care

    repairs = home_care.repair(_home())
    home_care.show_repairs(repairs, _console())
    if not all(each.repaired for each in repairs):
        raise typer.Exit(1)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Check the machine, the installation and the home; each problem with its fix; exit code 1 if a check failed."""
    import json
    from datetime import UTC, datetime

    from ml_platform.console.doctor import diagnosis
    from ml_platform.console.doctor.finding import Subject
    from resources.profiles import REPOSITORY

    # Without _home(), which would create or migrate the home.
    findings = diagnosis.diagnose(Subject(Home.from_environment(), REPOSITORY, datetime.now(UTC)))
    if as_json:
        typer.echo(json.dumps(diagnosis.as_json(findings), indent=2))
    else:
        diagnosis.show(findings, _console())
    if diagnosis.has_failed(findings):
        raise typer.Exit(1)


@features.command("show")
def features_show(
    model: str,
    row: Annotated[str, typer.Option(help="JSON object with the request fields.")],
    as_of: Annotated[
        str, typer.Option(help="Instant in ISO 8601 with offset; without it, the values served now.")
    ] = "",
) -> None:
    """Show each feature of one row: value, unit, and the time it became known."""
    from ml_platform.console import feature_values
    from ml_platform.console.arguments import parse_instant

    feature_values.show(
        feature_values.feature_values(_home(), model, row, parse_instant(as_of) if as_of else None), _console()
    )


@audit.command("verify")
def audit_verify(
    anchor: Annotated[Path | None, typer.Option(help="File of `audit head` that the log must still contain.")] = None,
    public_key: Annotated[Path | None, typer.Option(help="ed25519 key (PEM) that signed the anchor.")] = None,
) -> None:
    """Check every record and link of the log, its head, and the anchors in the release folders."""
    from ml_platform.console import audit as work

    for line in work.verify(_home(), anchor, public_key):
        typer.echo(line)


@audit.command("head")
def audit_head(
    sign: Annotated[Path | None, typer.Option(help="ed25519 private key (PEM) that signs the output.")] = None,
) -> None:
    """Print the end of the log as JSON, to keep outside of the home as an anchor."""
    import json
    from datetime import UTC, datetime

    from ml_platform.console import audit as work

    typer.echo(json.dumps(work.head(_home(), datetime.now(UTC), sign)))


@audit.command("export")
def audit_export() -> None:
    """Print all records as JSON lines, one a line, as their digests are computed."""
    from ml_platform.console import audit as work

    for line in work.export(_home()):
        typer.echo(line, nl=False)


def main() -> None:
    """Run the command line; a :class:`PlatformError` ends it with its message and exit code 1, without a traceback.

    So does the error of a damaged, locked or full store of the home.
    """
    environment.apply()
    # Dagster warns about a beta parameter for each partitioned asset; users cannot act on it.
    warnings.filterwarnings("ignore", message=r".*is currently in beta")
    try:
        app()
    except Exception as error:
        from resources.storage_errors import storage_error

        shown = error if isinstance(error, PlatformError) else storage_error(error, Home.from_environment())
        if shown is None:
            raise
        Console(stderr=True).print("[red]✗[/]", escape(str(shown)), highlight=False, soft_wrap=True)
        sys.exit(1)


def _decide(
    decision: Literal["approve", "reject"], model: str, version: int, by: str, reason: str, evidence: str
) -> None:
    from datetime import UTC, datetime

    from ml_platform.components.loading import bound_model
    from ml_platform.components.stores import open_home_stores
    from ml_platform.steps.promotion import ApprovalDecision, NotPromoted, record_decision

    outcome = record_decision(
        bound_model(model),
        version,
        ApprovalDecision(decision, by, reason, evidence),
        open_home_stores(_home()),
        now=datetime.now(UTC),
    )
    if isinstance(outcome, NotPromoted):
        typer.echo(f"The decision is recorded. Version {version} of '{model}' is not champion: {outcome.reason}")
        return
    typer.echo(f"The decision is recorded. Version {version} is champion of '{model}'. Roll it out with:")
    typer.echo(f"  ml-platform materialize --select 'key:\"{model}/champion\"+' --partitions {outcome.partition}")


def _console(descriptor: int = 1) -> Console:
    # Dagster redirects the standard streams during a step; a copy of the descriptor still writes to the terminal.
    return Console(file=os.fdopen(os.dup(descriptor), "w", encoding="utf-8"), soft_wrap=False)


def _home() -> Home:
    home = Home.from_environment()
    with _writable(home):
        prepare(home)
    return home


@contextmanager
def _writable(home: Home) -> Iterator[None]:
    """Turn an error of the file system in the body into a message about ``home``."""
    try:
        yield
    except OSError as error:
        raise HomeError(
            f"Platform home {home.root}",
            expected="a writable folder",
            found=str(error.strerror),
            fix="Set ML_PLATFORM_HOME to another folder.",
        ) from error


if __name__ == "__main__":
    main()
