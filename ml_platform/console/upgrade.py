"""`ml-platform upgrade`: migrates the home to the version of this code, or says what a migration would do."""

from typing import Any

from rich.console import Console

from resources.home import Home
from resources.home_version import Upgrade, stored_version, upgrade_home
from resources.orchestration import prepare
from resources.upgrade_trial import try_upgrade

_PLAIN: dict[str, Any] = {"highlight": False, "soft_wrap": True}


def upgrade(home: Home, *, dry_run: bool) -> Upgrade:
    """Migrate ``home`` and its instance settings, or try it without any change."""
    if dry_run:
        return try_upgrade(home)
    if stored_version(home) is None:
        # As the first command in a new home does.
        prepare(home)
        return Upgrade(None, upgrade_home(home).after, ["created a new home"], [])
    done = upgrade_home(home)
    prepare(home)
    return done


def show(found: Upgrade, home: Home, console: Console, *, dry_run: bool) -> None:
    """Print the versions, every change, and everything that could not be taken over."""
    before = "no home" if found.before is None else f"version {found.before}"
    if found.before == found.after and not found.made:
        console.print(f"Home {home.root}: {before}, as this release needs it. Nothing to do.", **_PLAIN)
        return
    verb = "A migration would do this; nothing was changed" if dry_run else "Migrated"
    console.print(f"Home {home.root}: {before} → version {found.after}. {verb}.", **_PLAIN)
    for text in found.made:
        console.print("[green]✓[/]", text, **_PLAIN)
    for text in found.left_out:
        console.print("[red]✗[/] left out:", text, **_PLAIN)
    if found.left_out:
        console.print("It stays in its old files. docs/operations/upgrading.md says what to do.", **_PLAIN)
    if not dry_run and found.before not in (None, found.after):
        console.print(f"The report is in {home.upgrade(found.before, found.after)}.", **_PLAIN)
