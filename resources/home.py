"""Where the platform keeps its state: one folder, `$ML_PLATFORM_HOME`, laid out in one place.

Apart so that no engine function ever guesses a path, and deleting one folder is a fresh start.
"""

import os
from dataclasses import dataclass
from pathlib import Path

HOME_VARIABLE = "ML_PLATFORM_HOME"
DEFAULT_HOME = ".ml_platform"


@dataclass(frozen=True)
class Home:
    """The folders under one home; creating a Home touches nothing on disk."""

    root: Path

    @classmethod
    def from_environment(cls) -> "Home":
        """Return the home named by ``$ML_PLATFORM_HOME``, or ``.ml_platform`` in the working directory."""
        return cls(Path(os.environ.get(HOME_VARIABLE, DEFAULT_HOME)).resolve())

    @property
    def dagster(self) -> Path:
        return self.root / "dagster"

    @property
    def landing(self) -> Path:
        return self.root / "landing"

    @property
    def lake(self) -> Path:
        return self.root / "lake"

    @property
    def online(self) -> Path:
        return self.root / "online"

    @property
    def mlflow(self) -> Path:
        return self.root / "mlflow"

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.mlflow / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        return self.mlflow / "artifacts"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def bentos(self) -> Path:
        return self.root / "bentos"

    @property
    def records(self) -> Path:
        return self.root / "records"

    @property
    def audit_log(self) -> Path:
        return self.records / "audit.jsonl"

    @property
    def verdicts(self) -> Path:
        return self.records / "verdicts"

    @property
    def evidence(self) -> Path:
        """The tables that gates saw, each under the digest that its verdict names."""
        return self.records / "evidence"

    @property
    def verdict_metrics(self) -> Path:
        """The figures that belong to them, each under the digest of its verdict."""
        return self.records / "metrics"

    @property
    def verified_bentos(self) -> Path:
        return self.records / "bentos"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def serving(self) -> Path:
        return self.root / "serving"

    @property
    def prediction_logs(self) -> Path:
        """What services answered, one folder for each model."""
        return self.serving / "predictions"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def run(self) -> Path:
        return self.root / "run"
