"""Live progress of a run: a moving line for each asset in a terminal, plain lines when the output is a file."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from ml_platform.console.runs import Listener, StepEvent

_MARKS = {"success": "[green]✓[/]", "skipped": "[yellow]–[/]", "failure": "[red]✗[/]"}


@contextmanager
def live_progress(console: Console) -> Iterator[Listener]:
    """Yield a listener that shows on ``console`` each step as it starts, runs and ends."""
    with Progress(
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=console.is_terminal,
    ) as progress:
        tasks: dict[str, TaskID] = {}

        def show(event: StepEvent) -> None:
            if event.kind == "start":
                tasks[event.asset] = progress.add_task(event.asset, total=1)
                return
            if event.kind == "log":
                if event.asset in tasks:
                    progress.update(tasks[event.asset], description=f"{event.asset}: {escape(event.message)}")
                if not console.is_terminal:
                    progress.console.print(f"            {event.asset}: {event.message}", highlight=False, markup=False)
                return
            task = tasks.pop(event.asset, None)
            if task is not None:
                progress.remove_task(task)
            seconds = f"{event.seconds:6.1f} s" if event.seconds is not None else "        "
            progress.console.print(f" {_MARKS[event.kind]} {seconds}  {event.asset}", highlight=False)

        yield show
