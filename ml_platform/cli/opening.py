"""Opens the home, which is created and migrated, and the console of every verb; and the names that verbs take."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from ml_platform.data.names import full_name
from ml_platform.errors import PlatformError
from resources.home import Home
from resources.orchestration import prepare

ModelName = Annotated[str, typer.Argument(parser=full_name, metavar="MODEL")]
DatasetName = Annotated[str, typer.Argument(parser=full_name, metavar="DATASET")]


class HomeError(PlatformError):
    """Raised when the home cannot be created or written."""


def open_home() -> Home:
    """Return the home of the environment, created and migrated to this release."""
    home = Home.from_environment()
    with writable(home):
        prepare(home)
    return home


def open_console(descriptor: int = 1) -> Console:
    """Return a console that writes to a copy of the file ``descriptor``."""
    # Dagster redirects the standard streams during a step; a copy of the descriptor still writes to the terminal.
    return Console(file=os.fdopen(os.dup(descriptor), "w", encoding="utf-8"), soft_wrap=False)


@contextmanager
def writable(home: Home) -> Iterator[None]:
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
