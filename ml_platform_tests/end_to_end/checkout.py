"""A copy of the repository that a test may change."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from resources.home import Home

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


class Checkout:
    """A copy of the repository with this virtual environment, and with its own home or the given one."""

    def __init__(self, root: Path, home: Home | None = None) -> None:
        self.root, self.home = root, home or Home(root / ".ml_platform")
        self.variables = {"ML_PLATFORM_HOME": str(home.root)} if home else {}
        for name in ("assets", "ml_platform", "resources", "bento"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "workspace.yaml", "dagster.yaml", "params.yaml", "requirements.lock"):
            shutil.copy(ROOT / name, root / name)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("ML_PLATFORM_HOME", "DAGSTER_HOME")}
        return {
            **kept,
            "PYTHONPATH": str(self.root),
            "PATH": f"{BIN}:{kept['PATH']}",
            "COLUMNS": "200",
        } | self.variables

    def run(self, *command: str, seconds: float = 200) -> str:
        """Return the output of ``command``; fail if its exit code is not 0 or it needs more than ``seconds``."""
        done = subprocess.run(
            command, cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=seconds, check=False
        )
        assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-3_000:]
        return done.stdout
