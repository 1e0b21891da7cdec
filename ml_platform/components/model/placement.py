"""Where a training step may run, in the words of who places it: Dagster's pools, Ray, Kubernetes."""

import sys
from typing import Any

from ml_platform.training.resource_usage import gpu_count
from ml_platform.training.trainer import TrainerSettings, uses_gpu
from resources.orchestration import GPU_POOL

RAY_TAG, KUBERNETES_TAG = "dagster-ray/config", "dagster-k8s/config"
GIB = 1024**3


def pool_of(declared: TrainerSettings) -> str | None:
    """Return the pool in which a fit of ``declared`` waits for its turn, None where it needs no turn.

    It waits for what it is declared to be given, and for what it would take unasked from the cards of this machine.
    """
    return GPU_POOL if gpu_count_of(declared) or (uses_gpu(declared) and _local_gpu_count()) else None


def placement_tags(declared: TrainerSettings) -> dict[str, Any]:
    """Return the tags of the step by which Ray and Kubernetes set aside what is declared; none where nothing is."""
    compute, gpus = declared.compute, gpu_count_of(declared)
    if compute is None and not gpus:
        return {}
    ray: dict[str, float] = {"num_gpus": gpus}
    requests: dict[str, str] = {}
    if compute is not None:
        ray["num_cpus"] = compute.cpus
        requests["cpu"] = f"{compute.cpus:g}"
    if compute is not None and compute.memory_gb is not None:
        ray["memory"] = int(compute.memory_gb * GIB)
        requests["memory"] = f"{int(compute.memory_gb * 1024)}Mi"
    # Processor time is shared out, memory and cards are not: only these have a limit.
    limits = {name: amount for name, amount in requests.items() if name == "memory"}
    if gpus:
        limits["nvidia.com/gpu"] = str(gpus)
    resources = {name: amounts for name, amounts in (("requests", requests), ("limits", limits)) if amounts}
    return {RAY_TAG: ray, KUBERNETES_TAG: {"container_config": {"resources": resources}}}


def gpu_count_of(declared: TrainerSettings) -> int:
    """Return how many accelerators a fit of ``declared`` is given."""
    gpus = declared.compute.gpus if declared.compute else 0
    return max(gpus, 1) if declared.requires == "gpu" else gpus


def _local_gpu_count() -> int:
    # Asking a Mac would import torch whenever definitions load; there a turn in the pool costs nothing.
    return 1 if sys.platform == "darwin" else gpu_count()
