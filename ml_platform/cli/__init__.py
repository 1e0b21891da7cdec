"""The command line `ml-platform`: the commands that `dg` does not have, each backed by `ml_platform.console`."""

import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ml_platform.cli import (
    alerts,
    care,
    ci,
    costs,
    decisions,
    governance,
    keys,
    lifecycle,
    render,
    replay,
    rollouts,
)
from ml_platform.cli.opening import ModelName, open_console, open_home
from ml_platform.data.names import full_name
from ml_platform.errors import PlatformError
from resources import environment
from resources.home import Home

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
app.add_typer(lifecycle.model, name="model")
app.add_typer(lifecycle.dataset, name="dataset")
app.add_typer(lifecycle.table, name="table")
app.add_typer(lifecycle.domain, name="domain")
app.add_typer(rollouts.rollout, name="rollout")
app.add_typer(keys.keys, name="keys")
app.add_typer(alerts.alerts, name="alerts")
app.add_typer(ci.ci, name="ci")
app.add_typer(render.render, name="render")

Partitions = Annotated[
    str,
    typer.Option(
        "--partitions", "-p", help="One partition (2013-06) or a range (2013-01...2013-06).", show_default=False
    ),
]


@app.command()
def land(
    domain: str,
    through: Annotated[str, typer.Option(help="Last partition to land, such as 2013-06.", show_default=False)] = "",
) -> None:
    """Write the raw files of DOMAIN into the landing zone, partition by partition."""
    from ml_platform.console.arguments import domain_module
    from ml_platform.data.landing import Landing

    landed = domain_module(domain, "landing").land(Landing(open_home().landing), through)
    open_console().print(f"{len(landed)} files have landed{f' through {through}' if through else ''}.")


@app.command()
def materialize(
    select: Annotated[str, typer.Option(help="Assets, in Dagster's selection syntax.")],
    partitions: Partitions = "",
    force: Annotated[bool, typer.Option(help="Also materialize assets that are up to date.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what is stale and why, and the runs.")] = False,
) -> None:
    """Materialize the stale assets of a selection, with live progress."""
    from ml_platform.console import materialize as work
    from ml_platform.console.progress import live_progress
    from resources.orchestration import open_instance

    home, console, loaded = open_home(), open_console(), work.load_definitions()
    if dry_run:
        with open_instance(home) as instance:
            keys = work.resolve_selection(loaded, select)
            work.show_plan(work.plan(loaded, instance, home, keys, partitions, force=force), loaded, console)
        return
    with open_instance(home) as instance, live_progress(console) as listener:
        keys = work.resolve_selection(loaded, select)
        runs = work.bring_up_to_date(loaded, instance, home, keys, partitions, listener=listener, force=force)
    for warning in dict.fromkeys(warning for run in runs for warning in run.warnings):
        console.print(f"Not passed: {warning}", highlight=False, markup=False, soft_wrap=True)
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

    home, console = open_home(), open_console()
    with open_instance(home) as instance:
        if end_dead or end:
            ended = recover_from_killed_processes(home, instance) if end_dead else []
            work.show_ended([*ended, *([end_run(instance, end)] if end else [])], console)
        elif as_json:
            typer.echo(json.dumps(work.open_run_entries(instance), indent=2))
        else:
            work.show(work.open_run_entries(instance), console)


@app.command()
def demo(
    domain: Annotated[
        str | None, typer.Argument(help="Domain under assets/ that declares a demo; needed where several do.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the figures as one JSON object, and the progress on stderr.")
    ] = False,
) -> None:
    """Run the whole loop: land, train, promote, serve, and predict the next window."""
    import json

    from ml_platform.console.arguments import only_domain
    from ml_platform.console.demo import run_demo

    found = run_demo(domain or only_domain("demo"), open_home(), open_console(2 if as_json else 1))
    if as_json:
        typer.echo(json.dumps(found))


@app.command()
def up(
    headless: Annotated[
        bool, typer.Option("--headless", help="Leave out the servers for people: webserver, MLflow and reports.")
    ] = False,
) -> None:
    """Start webserver, daemon, MLflow, gateway and services; Ctrl-C stops all of them."""
    from datetime import UTC, datetime

    from ml_platform.console.gateway_reach import require_reachable_safely
    from ml_platform.console.lifecycle import orphans_of
    from ml_platform.console.services import platform_processes
    from ml_platform.console.up_hooks import up_hooks
    from ml_platform.serving.processes import up as run_until_stopped
    from resources.profiles import REPOSITORY

    home, console = open_home(), open_console()

    def echo(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    for orphan in orphans_of(home):
        echo(f"Orphan: {orphan}")
    plan = platform_processes(home, REPOSITORY, headless=headless)
    for note in require_reachable_safely(plan, datetime.now(UTC)):
        echo(f"Note: {note}")
    run_until_stopped(plan, echo, up_hooks(home, plan.run, echo))


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Show champions, served versions with their traffic shares, the data clock, and the last decisions."""
    import json

    from ml_platform.console import status as work

    home = open_home()
    found = work.status(home)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        work.show(found, work.last_decisions(home), open_console())


@app.command()
def report(
    model: Annotated[str, typer.Option(help="Name of the model.", parser=full_name, metavar="TEXT")],
    partition: Annotated[str, typer.Option(help="Partition that was evaluated.")],
    metrics: Annotated[Path, typer.Option(help="JSON file to write.")],
    plots: Annotated[Path, typer.Option(help="Folder for the tables behind the plots.")],
) -> None:
    """Write metrics and curves of an evaluation as files, for `dvc metrics` and `dvc plots`."""
    from ml_platform.console.evaluation_report import write_evaluation_report

    write_evaluation_report(open_home(), model, partition, metrics, plots)


@app.command()
def history(
    model: ModelName,
    at: Annotated[str, typer.Option(help="Instant in ISO 8601 with offset; without it, every decision is shown.")] = "",
    request: Annotated[str, typer.Option(help="Id of a request; shows the version that answered it.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show the champions of MODEL with the decisions on its versions, or the version that answered a request.

    `decisions` shows why it was retrained or not.
    """
    import json

    from ml_platform.console import history as work
    from ml_platform.console.arguments import parse_instant

    found = work.history_entries(open_home(), model, parse_instant(at) if at else None, request)
    if as_json:
        typer.echo(json.dumps([work.json_values(each) for each in found], indent=2))
    else:
        work.show(found, model, open_console())


@app.command()
def compare(
    model: ModelName,
    first: int,
    second: int,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    html: Annotated[Path | None, typer.Option(help="HTML file to write, complete in itself.")] = None,
) -> None:
    """Compare version SECOND of MODEL with version FIRST: metrics on the same rows, slices, features, data, cost."""
    import json

    from ml_platform.console import version_comparison as work

    found = work.comparison(open_home(), model, first, second)
    if html is not None:
        from ml_platform.console.site.pages import comparison_page
        from ml_platform.data.atomic import write_text

        write_text(html, comparison_page(found))
    elif as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
    else:
        work.show(found, open_console())


@app.command()
def lineage(
    name: Annotated[str, typer.Argument(parser=full_name, metavar="MODEL|DATASET")],
    column: Annotated[str, typer.Option(help="Only this feature (<view>__<feature>) or column of the dataset.")] = "",
    dataset: Annotated[bool, typer.Option("--dataset", help="The dataset, where a model has the same name.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the dataset columns of each feature of MODEL, or the features and models that use a column of DATASET."""
    import json

    from ml_platform.components.project import read_project
    from ml_platform.console import lineage as work
    from resources.orchestration import open_instance
    from resources.profiles import REPOSITORY

    declared = work.declared_lineage(read_project(REPOSITORY))
    with open_instance(open_home()) as instance:
        recorded = work.recorded_lineage(instance, declared.views)
    found = work.lineage_of(declared, recorded, name, column, dataset=dataset)
    if as_json:
        typer.echo(json.dumps(work.as_json(found), indent=2))
    else:
        work.show(found, open_console())


@app.command()
def export(
    month: Annotated[str, typer.Option(help="Calendar month like 2026-10; the last one that is over by default.")] = "",
    out: Annotated[Path | None, typer.Option(help="HTML file to write; models-MONTH.html by default.")] = None,
    time_zone: Annotated[str, typer.Option(help="Time zone of the month.")] = "UTC",
) -> None:
    """Write the report of a month for stakeholders: who served, how well, decisions, failures and cost, as one file."""
    from ml_platform.console.month_file import write_month_file

    written = write_month_file(open_home(), month or None, time_zone, out)
    open_console().print(f"Report written to {written}; print it from a browser for a PDF.")


@app.command("try")
def try_changes(
    model: ModelName,
    view: Annotated[
        list[str] | None, typer.Option(help="A changed view as VIEW=FILE:FUNCTION, a .py or .ipynb file; repeatable.")
    ] = None,
    trainer: Annotated[
        list[str] | None, typer.Option(help="A declared trainer, or TRAINER=FILE:CLASS for another class; repeatable.")
    ] = None,
    windows: Annotated[int, typer.Option(min=1, help="Number of last windows.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """Try changes of MODEL on its last windows beside the champion; nothing is registered or stored."""
    import json
    from dataclasses import asdict

    from ml_platform.console import trial as work

    found = work.trial(Home.from_environment(), model, windows, view or [], trainer or [])
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in found], indent=2))
    else:
        work.show(found, open_console())


@app.command()
def reproduce(model: ModelName, version: int) -> None:
    """Rebuild VERSION of MODEL from its manifest and compare the result; exit code 1 if it differs.

    The progress is on stderr.
    """
    from ml_platform.components.loading import bound_model
    from ml_platform.components.stores import open_home_stores
    from ml_platform.steps.reproduction import reproduce_version

    def tell(line: str) -> None:
        typer.echo(line, err=True)

    found = reproduce_version(bound_model(model), version, open_home_stores(open_home()), tell)
    for line in found.lines():
        typer.echo(line)
    if not found.equal:
        raise typer.Exit(1)


@app.command("leak-check")
def leak_check(
    model: ModelName, partition: Annotated[str, typer.Option(help="Partition whose rows are checked.")]
) -> None:
    """Check that no feature of MODEL uses later facts: scramble these and compare; exit code 1 if one changes."""
    from ml_platform.components.loading import bound_model
    from ml_platform.steps.evaluation import leaking_features
    from resources.home_lake import open_lake

    leaks = leaking_features(bound_model(model), partition, open_lake(open_home()))
    typer.echo(f"{len(leaks)} leaks{': ' + ', '.join(leaks) if leaks else ''} in {partition}.")
    if leaks:
        raise typer.Exit(1)


VERBS: Sequence[Callable[..., None]] = (
    decisions.approve,
    decisions.reject,
    decisions.rollback,
    decisions.retire,
    decisions.restore_version,
    decisions.resume_retraining,
    care.check,
    care.clean,
    care.upgrade,
    care.backup,
    care.restore,
    care.verify,
    care.repair,
    care.doctor,
    governance.models,
    governance.compliance,
)
for verb in VERBS:
    app.command()(verb)
app.command("costs")(costs.show_costs)
app.command("decisions")(decisions.show_decisions)
app.command("replay")(replay.replay)


@features.command("show")
def features_show(
    model: ModelName,
    row: Annotated[str, typer.Option(help="JSON object with the request fields.")],
    as_of: Annotated[
        str, typer.Option(help="Instant in ISO 8601 with offset; without it, the values served now.")
    ] = "",
) -> None:
    """Show each feature of one row: value, unit, and the time it became known."""
    from ml_platform.console import feature_values
    from ml_platform.console.arguments import parse_instant

    feature_values.show(
        feature_values.feature_values(open_home(), model, row, parse_instant(as_of) if as_of else None), open_console()
    )


@audit.command("verify")
def audit_verify(
    anchor: Annotated[Path | None, typer.Option(help="File of `audit head` that the log must still contain.")] = None,
    public_key: Annotated[Path | None, typer.Option(help="ed25519 key (PEM) that signed the anchor.")] = None,
) -> None:
    """Check every record and link of the log, its head, and the anchors in the release folders."""
    from ml_platform.console import audit as work

    for line in work.verify(open_home(), anchor, public_key):
        typer.echo(line)


@audit.command("head")
def audit_head(
    sign: Annotated[Path | None, typer.Option(help="ed25519 private key (PEM) that signs the output.")] = None,
) -> None:
    """Print the end of the log as JSON, to keep outside of the home as an anchor."""
    import json
    from datetime import UTC, datetime

    from ml_platform.console import audit as work

    typer.echo(json.dumps(work.head(open_home(), datetime.now(UTC), sign)))


@audit.command("export")
def audit_export() -> None:
    """Print all records as JSON lines, one a line, as their digests are computed."""
    from ml_platform.console import audit as work

    for line in work.export(open_home()):
        typer.echo(line, nl=False)


def main() -> None:
    """Run the command line; a :class:`PlatformError` ends it with its message and exit code 1, without a traceback.

    So does the error of a damaged, locked or full store of the home.
    """
    environment.apply()
    # Dagster warns about a parameter or function for each partitioned asset; users cannot act on it.
    warnings.filterwarnings("ignore", message=r".*is currently in (beta|preview)")
    try:
        app()
    except Exception as error:
        from resources.storage_errors import storage_error

        shown = error if isinstance(error, PlatformError) else storage_error(error, Home.from_environment())
        if shown is None:
            raise
        Console(stderr=True).print("[red]✗[/]", escape(str(shown)), highlight=False, soft_wrap=True)
        sys.exit(1)
