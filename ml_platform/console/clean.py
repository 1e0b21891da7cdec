"""`ml-platform clean`: removes what the home no longer needs, or shows what it would remove."""

import getpass
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from ml_platform.components.loading import declared_retention
from ml_platform.components.stores import open_home_stores
from ml_platform.data.leftovers import before
from ml_platform.steps.housekeeping import CleaningReport, clean
from resources.dagster_cleaning import old_runs
from resources.home import Home
from resources.orchestration import open_instance

UNITS = ("bytes", "KB", "MB", "GB", "TB")


def clean_home(home: Home, *, dry_run: bool) -> CleaningReport:
    """Clean ``home`` by the declared retention and return what was removed; a dry run changes nothing.

    Raises :class:`~ml_platform.state.store.StateLockedError` when another cleaning or a backup runs.
    """
    policies, now = declared_retention(), datetime.now(UTC)
    with open_instance(home) as instance:
        runs = partial(old_runs, instance, before(now, policies.platform.runs_days))
        return clean(
            # A dry run delivers no queued records.
            open_home_stores(home, deliver=not dry_run),
            policies,
            now=now,
            by=getpass.getuser(),
            dry_run=dry_run,
            more=[runs],
        )


def json_values(report: CleaningReport) -> dict[str, Any]:
    """Return the report as JSON values, with sizes in bytes and times in ISO 8601."""
    kinds = [asdict(each) | {"oldest": each.oldest.isoformat() if each.oldest else None} for each in report.kinds]
    totals = {"items": report.items, "size_bytes": report.size_bytes}
    return {**asdict(report), **totals, "kinds": kinds}


def show(report: CleaningReport, console: Console) -> None:
    """Print the report as a table, one row per kind."""
    if report.kinds:
        table = Table(
            "Kind", Column("Items", justify="right"), Column("Size", justify="right"), "Oldest", Column("Examples")
        )
        for each in report.kinds:
            oldest = f"{each.oldest:%Y-%m-%d}" if each.oldest else ""
            names = escape("\n".join(each.examples))
            table.add_row(each.kind, str(each.items), size_text(each.size_bytes), oldest, names)
        console.print(table)
    verb = "would be removed" if report.dry_run else "were removed"
    console.print(f"{report.items} items of {size_text(report.size_bytes)} {verb}.", highlight=False)
    for problem in report.problems:
        console.print("[yellow]![/]", escape(problem), highlight=False, soft_wrap=True)


def size_text(size_bytes: float) -> str:
    """Return a size for people.

    >>> size_text(999), size_text(1_500_000)
    ('999 bytes', '1.5 MB')
    """
    for unit in UNITS:
        if size_bytes < 1000 or unit == UNITS[-1]:
            return f"{size_bytes:.0f} {unit}" if unit == UNITS[0] else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    raise AssertionError("a unit fits every size")
