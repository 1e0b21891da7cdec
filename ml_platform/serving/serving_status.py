"""Status of serving after the reconciler's last pass: a small file with the models that serve now.

`ml-platform status` shows it, and callers that wait for a rollout read it.
"""

import json
from pathlib import Path

from pydantic import BaseModel, Field

from ml_platform.data.atomic import write_json


class ServedModel(BaseModel):
    """The desired state of one model whose routes the gateway has loaded."""

    endpoint: str = Field(description="Address for POST requests.")
    stable: str | None = Field(description="Version that receives most requests.")
    candidate: str | None = Field(description="Version that is being rolled out.")
    weights: dict[str, int] = Field(description="Percent of requests.")
    shadow: str | None = Field(description="Version that receives copies of requests.")
    generation: int = Field(description="Generation of this desired state.")
    replicas: dict[str, int] = Field(default_factory=dict, description="Replicas that are ready, by version.")


class ServingStatus(BaseModel):
    """Models that serve now, and services that are not ready yet."""

    gateway: str = Field(description="Address of the gateway.")
    models: dict[str, ServedModel] = Field(description="Models that serve, by name.")
    waiting: list[str] = Field(
        description="Desired services that are not ready, and desired states that cannot be read."
    )


def write_serving_status(path: Path, status: ServingStatus) -> None:
    """Replace the status file if its content differs from ``status``."""
    if read_serving_status(path) != status:
        write_json(path, status.model_dump())


def read_serving_status(path: Path) -> ServingStatus | None:
    """Return the status of serving; None when the platform does not run."""
    return ServingStatus.model_validate(json.loads(path.read_text())) if path.exists() else None
