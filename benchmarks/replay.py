"""Replays a year of a domain by its policy and by a training on each window, and compares both and no retraining.

    python -m benchmarks.replay --home /var/tmp/replay [--json]
    python -m benchmarks.replay --domain bikes --from 2011-07-03 --to 2011-09-04 --home /var/tmp/replay_bikes

Each policy is replayed by the processes of `ml-platform up`, with the same files and requests; `never` is the first
champion on the stored rows of the later windows. The command can be repeated after an interruption: it goes on where it
was, and the wall time then includes the pause.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ml_platform.console.replay.driver import replay
from ml_platform.console.replay.incidents import parsed_incidents
from ml_platform.console.replay.report import write_report

ACCEPTED_DIFFERENCE = 0.002
"""Log loss by which the policy may be worse than a training on each window."""

ACCEPTED_COST = 0.6
"""Share of the training time of a training on each window that the policy may cost."""


def figures(report: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a report, with whether each goal is met; None where a goal does not apply."""
    compared = report["compared"]
    never = compared.get("never")
    every = next((each for name, each in compared.items() if name != "never"), None)
    windows = next(value for name, value in report.items() if name.endswith("s") and isinstance(value, list) and value)
    return {
        "domain": report["domain"],
        "windows": len(windows),
        "minutes": report["seconds"] / 60,
        "predictions": sum(each["predictions"] for each in windows),
        "lost": sum(each["lost"] for each in windows),
        "doubled": sum(each["doubled"] for each in windows),
        "mean": {name: policy["mean"] for name, policy in report["policies"].items()},
        "trainings": {name: policy["trainings"] for name, policy in report["policies"].items()},
        "training_seconds": {name: policy["training_seconds"] for name, policy in report["policies"].items()},
        "policy_beside_every_window": every,
        "policy_beside_never": never,
        "loss_goal_met": _met(every, "log_loss", lambda each: each["difference"] <= ACCEPTED_DIFFERENCE),
        "cost_goal_met": None if every is None or every["cost_share"] is None else every["cost_share"] <= ACCEPTED_COST,
        "never_goal_met": _met(never, None, lambda each: not each["worse_in"]),
        "incidents": report["incidents"],
    }


def _met(compared: dict[str, Any] | None, metric: str | None, goal: Any) -> bool | None:
    if compared is None or metric not in (None, compared["metric"]):
        return None
    return bool(goal(compared))


def main(
    home: Annotated[Path, typer.Option(help="Folder of the replay.")],
    domain: str = "aviation",
    first: Annotated[str, typer.Option("--from")] = "2013-04",
    last: Annotated[str, typer.Option("--to")] = "2013-12",
    planted: Annotated[list[str] | None, typer.Option("--plant", help="Incident as NAME=WINDOW; repeatable.")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Replay, and print the figures."""
    console = Console(stderr=as_json)
    homes = replay(
        domain,
        first,
        last,
        home.resolve(),
        ["policy", "every_window"],
        console.print,
        headless=True,
        incidents=parsed_incidents(planted or []),
    )
    found = figures(write_report(home.resolve() / "reports", homes))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table("policy", *next(iter(found["mean"].values())), "trainings", "training, s")
    for name, mean in found["mean"].items():
        values = [f"{value:.4f}" for value in mean.values()]
        table.add_row(name, *values, str(found["trainings"][name]), f"{found['training_seconds'][name]:.0f}")
    console.print(table)
    for name in ("minutes", "predictions", "lost", "doubled", "loss_goal_met", "cost_goal_met", "never_goal_met"):
        console.print(f"{name}: {found[name]}")


if __name__ == "__main__":
    typer.run(main)
