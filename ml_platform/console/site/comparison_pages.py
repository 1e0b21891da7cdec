"""Pages that compare two versions of a model: each is made once, by a process of its own, and kept among the reports.

A comparison loads both models and takes seconds and hundreds of megabytes, which the server of the pages shall not
keep. One is made at a time.
"""

import subprocess
import sys
import threading
from pathlib import Path

from ml_platform.errors import PlatformError
from ml_platform.steps.file_cleaning import COMPARISONS

TIMEOUT_SECONDS = 600


class ComparisonError(PlatformError):
    """Raised when two versions cannot be compared."""


class ComparisonPages:
    """The pages below ``reports``; retention removes them like all reports."""

    def __init__(self, reports: Path) -> None:
        self._reports = reports
        self._lock = threading.Lock()

    def page(self, model: str, first: int, second: int) -> Path:
        """Return the file of the page, and make it if there is none.

        Raises :class:`ComparisonError` with the message of the verb when it fails.
        """
        path = self._reports / COMPARISONS / model / f"{first}-{second}" / "comparison.html"
        with self._lock:
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                self._make(path, model, first, second)
        return path

    def _make(self, path: Path, model: str, first: int, second: int) -> None:
        command = [sys.executable, "-m", "ml_platform.cli", "compare", model, str(first), str(second)]
        made = subprocess.run(
            [*command, "--html", str(path)], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
        if made.returncode != 0:
            raise ComparisonError(
                f"Comparison of versions {first} and {second} of '{model}'",
                expected="two versions that can be compared",
                found=(made.stderr.strip().splitlines() or ["no message"])[-1],
                fix=f"Run `ml-platform compare {model} {first} {second}` to see the whole message.",
            )
