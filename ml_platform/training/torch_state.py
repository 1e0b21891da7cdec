"""What torch keeps for a whole process (generators, determinism, threads): used by one fit at a time, and given back.

Apart because it is shared by all threads: two fits at once would draw from each other's random numbers.
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
    """Fit with the declared threads and determinism, and leave torch's state as it was; other threads wait meanwhile.

    Only ``CUBLAS_WORKSPACE_CONFIG`` stays in the environment, where it was not set: CUDA reads it once, as it starts.
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
            # Warn only: mps lacks some of them, and a fit that works beats one that refuses.
            torch.use_deterministic_algorithms(settings.deterministic, warn_only=True)
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(was_deterministic, warn_only=was_warn_only)


@contextmanager
def preserved_generator() -> Iterator[None]:
    """Leave torch's generator as it was: for building a network whose weights are then read from a file."""
    import torch

    with _torch_lock, torch.random.fork_rng(devices=[]):
        yield
