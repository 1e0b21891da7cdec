"""The placement of a training step: its Dagster pool, and its resource tags for Ray and Kubernetes."""

import sys
from typing import Any

from ml_platform.training.resource_usage import gpu_count
from ml_platform.training.trainer import TrainerSettings, uses_gpu
from resources.isolated_steps import imports_tag
from resources.orchestration import GPU_POOL
from resources.ray_steps import RAY_TAG
from resources.step_process import THREADS_TAG
from resources.steps_executor import ISOLATED_TAG

KUBERNETES_TAG = "dagster-k8s/config"
GIB = 1024**3

LIBRARIES = {"lightgbm": "lightgbm", "torch": "torch", "sklearn": "sklearn"}
"""The library of each built-in trainer that the lock installs."""


def pool_of(declared: TrainerSettings, of_domain: str | None = None) -> str | None:
    """Return the pool that limits concurrent fits of ``declared``, or None without a limit.

    A fit needs a GPU if it declares one, or if it would use a GPU of this machine without declaring it. Other fits are
    in the pool ``of_domain``, if their domain limits them.
    """
    if gpu_count_of(declared) or (uses_gpu(declared) and _local_gpu_count()):
        return GPU_POOL
    return of_domain


def step_tags(declared: TrainerSettings) -> dict[str, Any]:
    """Return all tags of the step that fits ``declared``: its libraries, its resources and its isolation."""
    compute, library = declared.compute, LIBRARIES.get(declared.trainer)
    tags = {**imports_tag("mlflow", *([library] if library else [])), **placement_tags(declared)}
    if compute is not None and compute.isolated:
        tags[ISOLATED_TAG] = "true"
    if compute is not None and "cpus" in compute.model_fields_set:
        tags[THREADS_TAG] = str(max(1, int(compute.cpus)))
    return tags


def placement_tags(declared: TrainerSettings) -> dict[str, Any]:
    """Return the step tags that request the declared resources from Ray and Kubernetes; empty if none are declared."""
    compute, gpus = declared.compute, gpu_count_of(declared)
    if compute is None and not gpus:
        return {}
    ray: dict[str, Any] = {"num_gpus": gpus}
    requests: dict[str, str] = {}
    if compute is not None:
        ray["num_cpus"] = compute.cpus
        requests["cpu"] = f"{compute.cpus:g}"
    if compute is not None and compute.memory_gb is not None:
        ray["memory"] = int(compute.memory_gb * GIB)
        requests["memory"] = f"{int(compute.memory_gb * 1024)}Mi"
    if compute is not None and compute.resources:
        ray["resources"] = compute.resources
    # Only memory and GPUs get a limit; processor time is shared.
    limits = {name: amount for name, amount in requests.items() if name == "memory"}
    if gpus:
        limits["nvidia.com/gpu"] = str(gpus)
    resources = {name: amounts for name, amounts in (("requests", requests), ("limits", limits)) if amounts}
    return {RAY_TAG: ray, KUBERNETES_TAG: {"container_config": {"resources": resources}}}


def gpu_count_of(declared: TrainerSettings) -> int:
    """Return the number of GPUs that a fit of ``declared`` requests."""
    gpus = declared.compute.gpus if declared.compute else 0
    return max(gpus, 1) if declared.requires == "gpu" else gpus


def _local_gpu_count() -> int:
    # Detecting the GPU of a Mac would import torch whenever definitions load, so assume one GPU there.
    return 1 if sys.platform == "darwin" else gpu_count()
