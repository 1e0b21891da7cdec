"""Resource usage of a step or a fit: wall, CPU and GPU seconds, memory, written bytes, and the cost by a price list.

All are measured by the same rules, so costs can be compared.
"""

import importlib.util
import os
import resource
import runpy
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from ml_platform.data.settings import Settings

SAMPLE_INTERVAL_SECONDS = 0.2
HOUR_SECONDS = 3600
GB = 1e9
VISIBLE_DEVICES_VARIABLE = "CUDA_VISIBLE_DEVICES"


class PriceList(Settings):
    """Prices of computing, all in one currency."""

    currency: str = Field(default="USD", description="Currency of all prices.")
    cpu_hour: float = Field(default=0.048, ge=0, description="Price of one core for an hour.")
    gpu_hour: float = Field(default=2.5, ge=0, description="Price of one accelerator for an hour.")
    memory_gb_hour: float = Field(
        default=0, ge=0, description="Price of a GB of memory for an hour, for the peak memory of a step."
    )
    written_gb: float = Field(default=0, ge=0, description="Price of a GB that is written to storage.")
    stored_gb_month: float = Field(
        default=0, ge=0, description="Price of a GB that is stored for 30 days; no step costs it, unused tables do."
    )

    @property
    def are_declared(self) -> bool:
        """Whether anything has a price; otherwise costs are shown in CPU-hours."""
        return any((self.cpu_hour, self.gpu_hour, self.memory_gb_hour, self.written_gb))

    @property
    def shown_currency(self) -> str | None:
        """The currency of costs, or None where nothing has a price."""
        return self.currency if self.are_declared else None


@dataclass(frozen=True)
class ResourceUsage:
    """Usage by this process and its finished child processes during a measurement.

    ``gpu_seconds`` is the time in which kernels ran, sampled by NVML and summed over the accelerators; 0 without NVML.
    ``peak_memory_bytes`` is the highest resident memory of the process since its start. ``bytes_written`` are the bytes
    that this process, without children, sent to storage; 0 where the system does not count them (only Linux does).
    """

    device: str
    wall_seconds: float
    cpu_seconds: float
    gpu_seconds: float
    peak_memory_bytes: int
    bytes_written: int
    cost: float
    currency: str


class ResourceMeter:
    """A running measurement, which ends with its block; :meth:`total` may be called at any time."""

    def __init__(self, prices: PriceList) -> None:
        self._prices = prices
        self._gpu_sampler = _GpuSampler()
        self._started = _read_clocks()
        self._written = bytes_written()
        self._stopped_at: tuple[float, float] | None = None
        self._written_until: int | None = None

    def stop(self) -> None:
        """End the measurement."""
        self._stopped_at, self._written_until = _read_clocks(), bytes_written()
        self._gpu_sampler.stop()

    def total(self) -> ResourceUsage:
        """Return the usage so far, or of the whole block after its end."""
        ended = self._stopped_at or _read_clocks()
        wall, cpu = ended[0] - self._started[0], ended[1] - self._started[1]
        written = max((bytes_written() if self._written_until is None else self._written_until) - self._written, 0)
        device, count = compute_device()
        prices, peak = self._prices, peak_memory_bytes()
        # A reserved accelerator costs money for the whole wall time, busy or idle.
        hourly = cpu * prices.cpu_hour + wall * (count * prices.gpu_hour + peak / GB * prices.memory_gb_hour)
        busy = self._gpu_sampler.busy_seconds if count else 0.0
        cost = hourly / HOUR_SECONDS + written / GB * prices.written_gb
        return ResourceUsage(device, wall, cpu, busy, peak, written, cost, prices.currency)


@contextmanager
def measure_resources(prices: PriceList | None = None) -> Iterator[ResourceMeter]:
    """Yield a meter of the block; its total is available after the block, also after an exception."""
    meter = ResourceMeter(prices or PriceList())
    try:
        yield meter
    finally:
        meter.stop()


def compute_device() -> tuple[str, int]:
    """Return the name and number of the accelerators that this process uses, ``("cpu", 0)`` for none.

    Only a process that has imported torch can use one, so this function does not import it.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return "cpu", 0
    return str(torch.cuda.get_device_name(0)), int(torch.cuda.device_count())


def gpu_count() -> int:
    """Return the number of accelerators that this process can use: NVIDIA GPUs, or 1 if torch has MPS.

    The function does not initialise CUDA, because the process may fork later, and imports torch only on a Mac.
    """
    nvml = _load_nvml()
    if nvml is not None:
        return usable_gpus(int(nvml.nvmlDeviceGetCount()), os.environ.get(VISIBLE_DEVICES_VARIABLE), torch_has_cuda())
    if sys.platform == "darwin":
        import torch

        return int(torch.backends.mps.is_available())
    return 0


def usable_gpus(gpus: int, visible: str | None = None, built_for_cuda: bool = True) -> int:
    """Return how many of the machine's ``gpus`` a process can use.

    ``visible`` is the value of ``CUDA_VISIBLE_DEVICES`` (None: not set). As in CUDA, entries after the first one that
    names no GPU are ignored. A torch that was not ``built_for_cuda`` uses no GPU.
    """
    if not built_for_cuda:
        return 0
    if visible is None:
        return gpus
    entries = [each.strip() for each in visible.split(",")]
    valid = [each.startswith(("GPU-", "MIG-")) or (each.isdecimal() and int(each) < gpus) for each in entries]
    return len(set(entries[: valid.index(False)] if False in valid else entries))


def torch_has_cuda() -> bool:
    """Return whether the installed torch was built for CUDA, without importing it; True if none is installed."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return True
    return runpy.run_path(str(Path(found.origin).with_name("version.py"))).get("cuda") is not None


def gpu_slots() -> int:
    """Return how many steps may use a GPU at once on this machine: its number of GPUs, or 1 without any."""
    return max(1, gpu_count())


def peak_memory_bytes() -> int:
    """Return the highest resident memory of this process since its start."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # The unit is KiB on Linux and bytes on a Mac.
    return peak if sys.platform == "darwin" else peak * 1024


def bytes_written() -> int:
    """Return the bytes that this process has sent to storage so far; 0 where the system does not count them."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("write_bytes:")), 0)


class _GpuSampler:
    """Thread that samples NVML's share of time in which a kernel ran, and integrates it over time."""

    def __init__(self) -> None:
        self.busy_seconds = 0.0
        self._stopped = threading.Event()
        self._nvml = _load_nvml()
        self._thread = threading.Thread(target=self._sample, daemon=True) if self._nvml else None
        if self._thread:
            self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread:
            self._thread.join()

    def _sample(self) -> None:
        nvml: Any = self._nvml
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        before = time.monotonic()
        while not self._stopped.wait(SAMPLE_INTERVAL_SECONDS):
            busy = sum(nvml.nvmlDeviceGetUtilizationRates(handle).gpu for handle in handles) / 100
            now = time.monotonic()
            self.busy_seconds += busy * (now - before)
            before = now


def _load_nvml() -> Any | None:
    try:
        import pynvml
    except ModuleNotFoundError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver: a machine without a GPU
        return None
    return pynvml


def _read_clocks() -> tuple[float, float]:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic(), own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
