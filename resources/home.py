"""The layout of the home, the folder `$ML_PLATFORM_HOME` that contains all state of the platform.

Engine functions get their paths from here as arguments. Deleting the home gives a fresh start.
"""

import os
from dataclasses import dataclass
from pathlib import Path

HOME_VARIABLE = "ML_PLATFORM_HOME"
DEFAULT_HOME = ".ml_platform"

ARTIFACT_ROOT = "home:/artifacts"
"""Address of MLflow's artifacts in a home, relative to it; see :mod:`resources.home_artifacts`."""


@dataclass(frozen=True)
class Home:
    """The folders of one home; creating the object changes nothing on disk."""

    root: Path

    @classmethod
    def from_environment(cls) -> "Home":
        """Return the home named by ``$ML_PLATFORM_HOME``, or ``.ml_platform`` in the working directory."""
        return cls(Path(os.environ.get(HOME_VARIABLE, DEFAULT_HOME)).resolve())

    @property
    def state(self) -> Path:
        """The SQLite file of the state store: everything that the platform decided and remembers."""
        return self.root / "state.db"

    @property
    def dagster(self) -> Path:
        """The SQLite files of Dagster: runs, events, schedules."""
        return self.root / "dagster"

    @property
    def landing(self) -> Path:
        """The landing zone: raw files, as they arrived."""
        return self.root / "landing"

    @property
    def lake(self) -> Path:
        """The Delta tables."""
        return self.root / "lake"

    @property
    def online(self) -> Path:
        """The snapshot files of the online store."""
        return self.root / "online"

    @property
    def mlflow(self) -> Path:
        """MLflow's database and artifacts."""
        return self.root / "mlflow"

    @property
    def tracking_uri(self) -> str:
        """The address of MLflow's SQLite database."""
        # SQLAlchemy decodes percent signs in addresses.
        return f"sqlite:///{str(self.mlflow / 'mlflow.db').replace('%', '%25')}"

    @property
    def artifacts(self) -> Path:
        """The artifacts of MLflow runs."""
        return self.mlflow / "artifacts"

    @property
    def models(self) -> Path:
        """Downloaded model directories, checkpoints and studies."""
        return self.root / "models"

    @property
    def bentos(self) -> Path:
        """The built bentos."""
        return self.root / "bentos"

    @property
    def signing_keys(self) -> Path:
        """The key that signs the bentos, and the public keys of all that did."""
        return self.root / "signing"

    @property
    def records(self) -> Path:
        """Evidence, outbox, and the copy of the audit log."""
        return self.root / "records"

    @property
    def audit_log(self) -> Path:
        """The copy of the audit log beside the state store: one JSON record per line."""
        return self.records / "audit.jsonl"

    @property
    def evidence(self) -> Path:
        """The tables that the gates compared, each under the digest in its verdict."""
        return self.records / "evidence"

    @property
    def load_tests(self) -> Path:
        """The results of load tests, each under the digest of its bento."""
        return self.records / "load_tests"

    def upgrade(self, before: int, after: int) -> Path:
        """The report of a migration between two versions of the home, and the database that it changed."""
        return self.root / "upgrades" / f"{before}-to-{after}"

    @property
    def reports(self) -> Path:
        """Data Docs, drift reports and model cards."""
        return self.root / "reports"

    @property
    def serving(self) -> Path:
        """Desired states and prediction logs."""
        return self.root / "serving"

    @property
    def prediction_logs(self) -> Path:
        """The prediction logs of the services, one folder for each model."""
        return self.serving / "predictions"

    @property
    def pii_key(self) -> Path:
        """The key by which prediction logs hash values that identify a person."""
        return self.serving / "pii.key"

    @property
    def logs(self) -> Path:
        """The log files of processes."""
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """Lock, sockets and process records of `ml-platform up`."""
        return self.root / "run"
