"""Torch's process-wide state (generators, determinism, threads), used by one fit at a time and restored afterwards.

All threads of a process share this state. Two fits at once would draw from the same random numbers.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ml_platform.training.torch_settings import TorchSettings

if TYPE_CHECKING:
    import torch

CUBLAS_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
CUBLAS_DETERMINISTIC = ":4096:8"
_torch_lock = threading.RLock()


@contextmanager
def reproducible_fit(settings: TorchSettings, device: "torch.device") -> Iterator[None]:
    """Fit with the declared threads and determinism, then restore torch's state; other threads wait meanwhile.

    ``CUBLAS_WORKSPACE_CONFIG`` stays in the environment if it was not set, because CUDA reads it once at its start.
    """
    import torch

    if settings.deterministic and device.type == "cuda":
        os.environ.setdefault(CUBLAS_VARIABLE, CUBLAS_DETERMINISTIC)
    with _torch_lock, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        threads, was_deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
        was_warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        try:
            if settings.threads:
                torch.set_num_threads(settings.threads)
            # Only warn, because mps lacks some deterministic algorithms.
            torch.use_deterministic_algorithms(settings.deterministic, warn_only=True)
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(was_deterministic, warn_only=was_warn_only)


@contextmanager
def preserved_generator() -> Iterator[None]:
    """Restore torch's generator after the block, which builds a network whose weights are read from a file."""
    import torch

    with _torch_lock, torch.random.fork_rng(devices=[]):
        yield
