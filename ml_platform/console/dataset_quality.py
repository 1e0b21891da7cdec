"""`ml-platform dataset quality`: the last landings of a dataset, each with its result and its findings."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from ml_platform.data.quality_record import LandingRecord, last_landings
from resources.home import Home
from resources.state import open_state


def landings(home: Home, dataset: str, last: int) -> list[LandingRecord]:
    """Return the last landings of ``dataset``, the latest first; empty when none was judged.

    Raises :class:`~ml_platform.components.loading.DeclarationUnknownError` when the dataset has neither a landing nor a
    declaration.
    """
    found = last_landings(open_state(home), dataset, last)
    if not found:
        from ml_platform.components.loading import declared_dataset

        declared_dataset(dataset)
    return found


def json_values(landing: LandingRecord) -> dict[str, Any]:
    """Return one landing as JSON values."""
    return {
        "partition": landing.partition or None,
        "landed_at": landing.landed_at,
        "published": landing.content is not None,
        "rows": landing.profile.rows,
        "state": landing.state,
        "not_judged": landing.reason,
        "findings": landing.findings,
    }


def show(found: Sequence[LandingRecord], dataset: str, console: Console) -> None:
    """Print each landing: time, partition, rows and result, and below it the findings or why it was not judged."""
    if not found:
        console.print(f"No landing of '{dataset}' is recorded yet.")
    for each in found:
        published = "" if each.content is not None else ", not published"
        title = (
            f"{each.landed_at[:19]}Z  {each.partition or 'whole'}  {each.profile.rows} rows: {each.state}{published}"
        )
        console.print(Text(title, style="bold"))
        lines = [each.reason] if each.reason else []
        lines += [
            f"{finding['severity']}: {finding['what']} (since {finding['since'] or 'now'})" for finding in each.findings
        ]
        for line in lines:
            console.print(Padding(Text(line), (0, 0, 0, 4), expand=False), highlight=False)
