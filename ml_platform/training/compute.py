"""What a fit asks of the machine that it is placed on; declared with the trainer, free of who does the placing."""

from pydantic import Field

from ml_platform.data.settings import Settings


class Compute(Settings):
    """Cores, memory and accelerators that a cluster sets aside for the step; on one machine they bind nobody."""

    cpus: float = Field(default=1.0, gt=0, description="Cores.")
    memory_gb: float | None = Field(default=None, gt=0, description="Memory (GiB); none: what the cluster gives.")
    gpus: int = Field(default=0, ge=0, description="Accelerators; at least 1 where the trainer requires one.")
