"""The services that one host should run, in a file that is replaced as a whole, and their states."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from ml_platform.data.settings import Settings

PLAN_FILE, STATUS_FILE = "plan.json", "status.json"
"""Names of the files in the folder of a host."""


class HostedService(Settings):
    """One bento of a host, and the files of its service."""

    name: str = Field(min_length=1, description="Name of the service.")
    bento: Path = Field(description="Folder of the bento.")
    port_file: Path = Field(description="File with the port of the service, written once its model was loaded.")
    log: Path = Field(description="File with the output of its worker.")
    predictions: Path | None = Field(default=None, description="Folder of its prediction log; None: no log.")
    warm: bool = Field(default=True, description="Whether its model stays loaded, also without requests.")


class HostPlan(Settings):
    """The services of a host; all their bentos have the code and the libraries of the digest ``code``."""

    code: str = Field(description="Digest of code and libraries, from ml_platform.serving.bento_digest.code_digest.")
    online: str = Field(description="Location of the online store.")
    services: list[HostedService] = Field(default_factory=list, description="Services that should run.")
    max_loaded: int | None = Field(
        default=None,
        ge=1,
        description="Loaded models at once besides the warm ones; the one unused longest is unloaded. None: no limit.",
    )
    wait_seconds: float = Field(
        default=5.0, gt=0, description="Time that a request waits for its model to be loaded; then it gets 503."
    )


class ServiceStatus(Settings):
    """State of one service: ``unloaded`` is ready too, since its model was loaded before."""

    state: Literal["starting", "loaded", "unloaded", "failing"] = Field(description="State of the service.")
    port: int = Field(description="Port of the service.")
    pid: int | None = Field(default=None, description="Process of its worker; None without one.")
    loads: int = Field(default=0, description="How often its model was loaded since the start of the host.")
    problem: str | None = Field(default=None, description="Last failure; None: none.")


class HostStatus(Settings):
    """State of a host's services by name."""

    pid: int = Field(description="Process of the host.")
    services: dict[str, ServiceStatus] = Field(description="State of each service.")
