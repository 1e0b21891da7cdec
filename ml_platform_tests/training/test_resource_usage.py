"""Seconds, memory, GPUs and cost of a measured block."""

from types import SimpleNamespace

import pytest

from ml_platform.training import resource_usage
from ml_platform.training.resource_usage import (
    PriceList,
    gpu_count,
    gpu_slots,
    measure_resources,
    peak_memory_bytes,
    torch_has_cuda,
    usable_gpus,
)


def test_cost_is_the_cpu_seconds_times_their_price():
    with measure_resources(PriceList(cpu_hour=3600.0, gpu_hour=0)) as meter:
        sum(at * at for at in range(2_000_000))

    resource_usage = meter.total()

    assert resource_usage.cpu_seconds > 0.02
    assert resource_usage.cost == pytest.approx(resource_usage.cpu_seconds)


def test_total_does_not_change_after_the_block():
    with measure_resources(PriceList()) as meter:
        pass
    before = meter.total()
    sum(at for at in range(500_000))

    assert meter.total().cpu_seconds == before.cpu_seconds
    assert meter.total().wall_seconds == before.wall_seconds


def test_block_that_raises_is_measured_too():
    with pytest.raises(ZeroDivisionError), measure_resources() as meter:
        _ = 1 / 0

    assert meter.total().wall_seconds >= 0


def test_peak_memory_grows_with_allocations():
    before = peak_memory_bytes()
    allocated = bytearray(before + 50_000_000)

    assert peak_memory_bytes() > before
    assert len(allocated) > before


def test_machine_has_at_least_one_slot_for_gpu_steps():
    assert gpu_slots() >= 1


@pytest.mark.parametrize(
    ("visible", "usable"),
    [
        (None, 4),
        ("", 0),
        ("-1", 0),
        ("0", 1),
        ("1, 3", 2),
        ("0,9,1", 1),  # CUDA ignores all entries after the first one that names no GPU
        ("GPU-8932f937,MIG-5c1e", 2),
    ],
)
def test_gpus_that_are_hidden_from_the_process_are_not_counted(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, usable: int
):
    monkeypatch.setattr(resource_usage, "_load_nvml", lambda: SimpleNamespace(nvmlDeviceGetCount=lambda: 4))
    monkeypatch.setattr(resource_usage, "torch_has_cuda", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert gpu_count() == usable


def test_torch_without_cuda_uses_no_gpu(monkeypatch: pytest.MonkeyPatch):
    import torch

    assert torch_has_cuda() == (torch.version.cuda is not None)
    assert usable_gpus(4, built_for_cuda=False) == 0
    monkeypatch.setattr(resource_usage, "_load_nvml", lambda: SimpleNamespace(nvmlDeviceGetCount=lambda: 4))
    monkeypatch.setattr(resource_usage, "torch_has_cuda", lambda: False)
    assert gpu_count() == 0
