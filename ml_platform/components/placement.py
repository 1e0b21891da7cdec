"""Where a training step may run, in the words of who places it: Dagster's pools, Ray, Kubernetes."""

import sys
from typing import Any

from ml_platform.training.accounting import gpu_count
from ml_platform.training.trainer import TrainerSettings, takes_a_card
from resources.orchestration import GPU_POOL

RAY_TAG, KUBERNETES_TAG = "dagster-ray/config", "dagster-k8s/config"
GIB = 1024**3


def pool_of(declared: TrainerSettings) -> str | None:
    """Return the pool in which a fit of ``declared`` waits for its turn, None where it needs no turn.

    It waits for what it is declared to be given, and for what it would take unasked from the cards of this machine.
    """
    return GPU_POOL if gpus_of(declared) or (takes_a_card(declared) and _cards()) else None


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


def _cards() -> int:
    # Asking a Mac would import torch whenever definitions load; there a turn in the pool costs nothing.
    return 1 if sys.platform == "darwin" else gpu_count()
