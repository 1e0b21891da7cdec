"""What a block of work took, and what that costs."""

import pytest

from ml_platform.training.accounting import PriceList, gpu_slots, measured, peak_memory_bytes


def test_cpu_seconds_and_their_price_are_counted():
    with measured(PriceList(cpu_hour=3600.0, gpu_hour=0)) as measuring:
        sum(at * at for at in range(2_000_000))

    account = measuring.total()

    assert account.cpu_seconds > 0.02
    assert account.cost == pytest.approx(account.cpu_seconds)


def test_numbers_stand_still_when_the_block_has_ended():
    with measured(PriceList()) as measuring:
        pass
    before = measuring.total()
    sum(at for at in range(500_000))

    assert measuring.total().cpu_seconds == before.cpu_seconds
    assert measuring.total().wall_seconds == before.wall_seconds


def test_block_that_fails_is_measured_too():
    with pytest.raises(ZeroDivisionError), measured() as measuring:
        _ = 1 / 0

    assert measuring.total().wall_seconds >= 0


def test_peak_memory_grows_with_what_is_held():
    before = peak_memory_bytes()
    held = bytearray(before + 50_000_000)

    assert peak_memory_bytes() > before
    assert len(held) > before


def test_a_machine_has_at_least_one_slot_for_steps_that_want_a_gpu():
    assert gpu_slots() >= 1
