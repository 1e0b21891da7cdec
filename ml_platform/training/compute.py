"""Compute resources that a fit requests, declared with the trainer and independent of the scheduler."""

from pydantic import Field

from ml_platform.data.settings import Settings


class Compute(Settings):
    """Cores, memory and accelerators that a cluster reserves for the step, and whether it has a process of its own.

    A single machine reserves nothing; an isolated step has as many threads there as it declares cores.
    """

    cpus: float = Field(default=1.0, gt=0, description="Number of CPU cores.")
    memory_gb: float | None = Field(default=None, gt=0, description="Memory in GiB; none: the default of the cluster.")
    gpus: int = Field(default=0, ge=0, description="Accelerators; at least 1 for a trainer that requires one.")
    resources: dict[str, float] = Field(
        default_factory=dict, description="Custom resources of a Ray cluster by name, and how much of each."
    )
    isolated: bool = Field(
        default=False, description="Executes each step of its runs in a process of its own; a crash ends only the step."
    )
