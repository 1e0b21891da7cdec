"""What serves now, as the reconciler last saw it: one small file for `ml-platform status` and for whoever waits."""

import json
from pathlib import Path

from pydantic import BaseModel, Field

from ml_platform.data.atomic import write_json


class ServedModel(BaseModel):
    """What serves of one model: the desired state whose routes the gateway has taken."""

    endpoint: str = Field(description="Address to post to.")
    stable: str | None = Field(description="Version that most requests go to.")
    candidate: str | None = Field(description="Version that is being rolled out.")
    weights: dict[str, int] = Field(description="Percent of requests.")
    shadow: str | None = Field(description="Version that sees copies.")
    generation: int = Field(description="Generation of the desired state that serves.")


class ServingStatus(BaseModel):
    """What serves, and what is still waited for."""

    gateway: str = Field(description="Address of the gateway.")
    models: dict[str, ServedModel] = Field(description="By name.")
    waiting: list[str] = Field(description="Services that are desired and not ready, and desired states not readable.")


def write_serving_status(path: Path, status: ServingStatus) -> None:
    """Replace the status file, if it says something else."""
    if read_serving_status(path) != status:
        write_json(path, status.model_dump())


def read_serving_status(path: Path) -> ServingStatus | None:
    """Return what serves; None when nothing is up."""
    return ServingStatus.model_validate(json.loads(path.read_text())) if path.exists() else None
