"""The plan of a platform whose files are all in one folder."""

from pathlib import Path
from typing import Any

from ml_platform.serving.processes import ProcessPlan, free_port


def plan_in(folder: Path, **changes: Any) -> ProcessPlan:
    """Return a plan with its files in ``folder`` and a free port of the gateway; ``changes`` replace its values."""
    values = {
        "run": folder / "run",
        "logs": folder / "logs",
        "state": str(folder / "state.db"),
        "bentos": folder / "bentos",
        "online": str(folder / "online"),
        "predictions": folder / "predictions",
        "gateway_port": free_port(),
    }
    return ProcessPlan.model_validate({**values, **changes})
