"""Where a training step may run, in the words of who places it: Dagster's pools, Ray, Kubernetes."""

from typing import Any

from ml_platform.training.trainer import TrainerSettings
from resources.orchestration import GPU_POOL

RAY_TAG, KUBERNETES_TAG = "dagster-ray/config", "dagster-k8s/config"
GIB = 1024**3


def pool_of(declared: TrainerSettings) -> str | None:
    """Return the pool in which a fit of ``declared`` waits for its turn, None where it needs no turn."""
    return GPU_POOL if gpus_of(declared) else None


def placement_tags(declared: TrainerSettings) -> dict[str, Any]:
    """Return the tags of the step by which Ray and Kubernetes set aside what is declared; none where nothing is."""
    asked, gpus = declared.compute, gpus_of(declared)
    if asked is None and not gpus:
        return {}
    ray: dict[str, float] = {"num_gpus": gpus}
    requests: dict[str, str] = {}
    if asked is not None:
        ray["num_cpus"] = asked.cpus
        requests["cpu"] = f"{asked.cpus:g}"
    if asked is not None and asked.memory_gb is not None:
        ray["memory"] = int(asked.memory_gb * GIB)
        requests["memory"] = f"{int(asked.memory_gb * 1024)}Mi"
    # Processor time is shared out, memory and cards are not: only these have a limit.
    limits = {name: amount for name, amount in requests.items() if name == "memory"}
    if gpus:
        limits["nvidia.com/gpu"] = str(gpus)
    resources = {name: held for name, held in (("requests", requests), ("limits", limits)) if held}
    return {RAY_TAG: ray, KUBERNETES_TAG: {"container_config": {"resources": resources}}}


def gpus_of(declared: TrainerSettings) -> int:
    """Return how many accelerators a fit of ``declared`` is given."""
    asked = declared.compute.gpus if declared.compute else 0
    return max(asked, 1) if declared.requires == "gpu" else asked
