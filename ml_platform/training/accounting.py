"""What a training step used: wall, CPU and GPU seconds, memory, and what that costs by a price list.

Apart because every trainer is measured alike, and cost is only comparable when it is.
"""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pydantic import Field

from ml_platform.data.settings import Settings


class PriceList(Settings):
    """What computing costs; one currency throughout."""

    currency: str = Field(default="USD", description="Currency of all prices.")
    cpu_hour: float = Field(default=0.048, ge=0, description="Price of one core for an hour.")
    gpu_hour: float = Field(default=2.5, ge=0, description="Price of one accelerator for an hour.")


@dataclass(frozen=True)
class Account:
    """What was used between two instants by this process and its finished children."""

    device: str
    wall_seconds: float
    cpu_seconds: float
    gpu_seconds: float
    peak_memory_bytes: int
    cost: float
    currency: str


class Measuring:
    """A running measurement; :meth:`total` may be asked at any time, and counts until the block is left."""

    def __init__(self, prices: PriceList) -> None:
        self._prices = prices
        self._begun = _reading()
        self._ended: tuple[float, float] | None = None

    def stop(self) -> None:
        """Fix the end of what is counted."""
        self._ended = _reading()

    def total(self) -> Account:
        """Return what was used so far."""
        ended = self._ended or _reading()
        wall, cpu = ended[0] - self._begun[0], ended[1] - self._begun[1]
        device, count = compute_device()
        # An accelerator is paid for as long as it is held, busy or not.
        gpu = wall * count
        cost = (cpu * self._prices.cpu_hour + gpu * self._prices.gpu_hour) / 3600
        # ru_maxrss counts in KiB on Linux, and is the peak of the process, not of the block.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return Account(device, wall, cpu, gpu, peak, cost, self._prices.currency)


@contextmanager
def measured(prices: PriceList) -> Iterator[Measuring]:
    """Measure the block; read the result from what it yields."""
    measuring = Measuring(prices)
    try:
        yield measuring
    finally:
        measuring.stop()


def compute_device() -> tuple[str, int]:
    """Return the name of the accelerator that this process uses and how many: ``("cpu", 0)`` where it uses none.

    Only a process that already imported torch can have one in use; asking must not import it.
    """
    import sys

    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return "cpu", 0
    return str(torch.cuda.get_device_name(0)), int(torch.cuda.device_count())


def gpu_slots() -> int:
    """Return how many steps may hold a GPU at once on this machine: its GPUs, or 1 where there is none."""
    from pathlib import Path

    # Counted without CUDA, which must not be initialised in a process that forks later.
    return max(1, len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))


def _reading() -> tuple[float, float]:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic(), own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
