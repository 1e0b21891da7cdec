"""The runs that have not ended, for `ml-platform runs`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from ml_platform.state.process_identity import describe_process
from resources.run_monitoring import RUN_ID_DIGITS, OpenRun, open_runs

STATE_TEXTS = {
    "running": "runs",
    "ended": "is gone; end the run with `ml-platform runs --end-dead`",
    "unknown": "cannot be checked from here; if it is gone, end the run with `ml-platform runs --end RUN`",
}


def open_run_entries(instance: dg.DagsterInstance) -> list[dict[str, Any]]:
    """Return one JSON object for each run that has not ended, oldest first; ``since`` is in ISO 8601."""
    entries = []
    for each in open_runs(instance):
        record = instance.get_run_record_by_id(each.run_id)
        since = None if record is None else record.create_timestamp.astimezone(UTC).isoformat()
        entries.append(
            {
                "run_id": each.run_id,
                "assets": each.title,
                "status": each.run.status.value,
                "since": since,
                "process": each.process or None,
                "process_state": each.state,
            }
        )
    return entries


def show(entries: Sequence[dict[str, Any]], console: Console) -> None:
    """Print the runs as a table."""
    if not entries:
        console.print("No run is open.")
        return
    table = Table("Run", Column("Assets", overflow="fold"), "Status", "Since", "Process")
    for each in entries:
        since = datetime.fromisoformat(each["since"]) if each["since"] else None
        process = describe_process(each["process"] or "")
        table.add_row(
            each["run_id"][:RUN_ID_DIGITS],
            escape(each["assets"]),
            each["status"].lower(),
            f"{since:%Y-%m-%d %H:%M:%SZ}" if since else "",
            escape(f"{process[0].upper()}{process[1:]} {STATE_TEXTS[each['process_state']]}."),
        )
    console.print(table)


def show_ended(ended: Sequence[OpenRun], console: Console) -> None:
    """Print one line for each run that was ended, and their number."""
    for each in ended:
        process = describe_process(each.process)
        line = f"Ended run {each.run_id[:RUN_ID_DIGITS]} of {each.title}: {process}."
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(f"{len(ended)} {'run' if len(ended) == 1 else 'runs'} ended.", highlight=False)
