"""`ml-platform backup`, `restore`, `verify` and `repair`: what is printed, and as which JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from resources.home import Home

if TYPE_CHECKING:
    from ml_platform.steps.backup import BackupReport, RestoreReport
    from ml_platform.steps.repair import Repair
    from ml_platform.steps.verification import VerificationReport


def back_up(home: Home, target: str, keep: int | None, now: datetime) -> "BackupReport":
    """Back up ``home`` to ``target``; see :func:`ml_platform.steps.backup.back_up`."""
    from ml_platform.steps.backup import back_up
    from ml_platform.steps.backup_target import BackupTarget

    return back_up(home, BackupTarget(target), now=now, keep=keep)


def restore(home: Home, target: str, backup: str | None) -> "RestoreReport":
    """Restore a backup into the folder of ``home``; see :func:`ml_platform.steps.backup.restore`."""
    from ml_platform.steps.backup import restore
    from ml_platform.steps.backup_target import BackupTarget

    return restore(BackupTarget(target), home, backup)


def verify(home: Home, *, rows: bool, model: str = "") -> "VerificationReport":
    """Verify ``home``, or the bentos of ``model``; see :func:`ml_platform.steps.verification.verify_home`."""
    from ml_platform.components.stores import open_home_stores
    from ml_platform.steps.verification import verify_home

    return verify_home(open_home_stores(home), rows=rows, model=model)


def repair(home: Home) -> "list[Repair]":
    """Repair what can be derived in ``home``; see :mod:`ml_platform.steps.repair`."""
    from ml_platform.components.stores import open_home_stores
    from ml_platform.steps.repair import repair_home, repair_state_store

    # The stores can be opened only when the state store is there.
    repaired = repair_state_store(home)
    return [*repaired, *repair_home(open_home_stores(home))]


def backup_line(report: "BackupReport") -> str:
    """Return one line about a backup."""
    return (
        f"Backup {report.id}: {report.files} files, {_megabytes(report.size_bytes)}; copied {report.copied_files} "
        f"files, {_megabytes(report.copied_bytes)}, in {report.seconds:.1f} s."
    )


def restore_line(report: "RestoreReport", home: Home) -> str:
    """Return one line about a restore."""
    return (
        f"Backup {report.id} is restored in {home.root}: {report.files} files, {_megabytes(report.size_bytes)}, in "
        f"{report.seconds:.1f} s."
    )


def verification_json(report: "VerificationReport") -> dict[str, Any]:
    """Return a verification as JSON values."""
    problems = [asdict(each) for each in report.problems]
    return {"verified": report.verified, "problems": problems, "notes": report.notes}


def show_verification(report: "VerificationReport", console: Console) -> None:
    """Print the numbers of verified items and every problem with its fix."""
    counts = ", ".join(f"{count} {area}" for area, count in report.verified.items())
    console.print(f"Verified: {counts}.", highlight=False)
    for note in report.notes:
        console.print(note, highlight=False, soft_wrap=True)
    if not report.problems:
        return
    table = Table("Subject", "Found", "Fix", title=f"{len(report.problems)} problems", title_justify="left")
    for each in report.problems:
        table.add_row(each.subject, each.found, each.fix)
    console.print(table)


def show_repairs(repairs: "Sequence[Repair]", console: Console) -> None:
    """Print what was repaired, and what was not."""
    if not repairs:
        console.print("Nothing to repair. `ml-platform verify` compares all stored files with their digests.")
    for each in repairs:
        mark = "[green]✓[/]" if each.repaired else "[red]✗[/]"
        console.print(mark, f"{each.subject}: {each.text}", highlight=False, soft_wrap=True)


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"
