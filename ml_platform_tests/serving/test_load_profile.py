"""The judgement on a load test: errors and a slow service fail, noise of the machine does not."""

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from ml_platform.serving.load_profile import LoadTestSettings, LoadTurn, judge

SETTINGS = LoadTestSettings(rate=100, seconds=14, p99_ms=10)


def turns(service: Sequence[float], bare: Sequence[float] = (1,) * 7, errors: int = 0) -> list[LoadTurn]:
    """Return turns with these p99s; ``errors`` are those of the last turn of the service."""
    found = []
    for at, (one, other) in enumerate(zip(service, bare, strict=True)):
        failed = errors if at == len(service) - 1 else 0
        common: dict[str, Any] = {"run": 1, "round": at + 1, "requests": 200, "p50_ms": 0.5}
        found.append(LoadTurn(endpoint="calibration", errors=0, p99_ms=other, **common))
        found.append(
            LoadTurn(endpoint="service", errors=failed, p99_ms=one, error="status 500" * bool(failed), **common)
        )
    return found


@pytest.mark.parametrize(
    ("service", "bare", "outcome"),
    [
        ([3] * 7, [1] * 7, "pass"),
        ([11] * 7, [1] * 7, "pass"),  # exactly the limit beyond the bare endpoint
        ([11.5] * 7, [1] * 7, "fail"),
        # A stall of the machine in two turns decides nothing.
        ([3, 3, 90, 3, 3, 80, 3], [1] * 7, "pass"),
        ([30, 30, 3, 30, 30, 30, 30], [1] * 7, "fail"),
        ([30, 30, 3, 3, 30, 30, 30], [1] * 7, "noisy"),
        # Noise that both endpoints have is none of the service.
        ([60] * 7, [55] * 7, "pass"),
        # The bare endpoint alone is slower than the limit, so it says nothing about the service.
        ([90] * 7, [40] * 7, "noisy"),
    ],
)
def test_outcome_compares_the_service_with_the_bare_endpoint(
    service: list[float], bare: list[float], outcome: str
) -> None:
    assert judge(turns(service, bare), SETTINGS)[0] == outcome


def test_reason_has_the_numbers() -> None:
    assert judge(turns([30, 30, 3, 30, 30, 30, 40]), SETTINGS)[1] == (
        "p99 29.0 ms beyond the 1.0 ms of a bare endpoint (medians of turns), limit 10 ms; 6 of 7 turns above it at "
        "100 requests per second."
    )


def test_one_error_fails_a_fast_service() -> None:
    assert judge(turns([3, 3], [1, 1], errors=2), SETTINGS) == ("fail", "2 of 400 requests failed: status 500.")


def test_load_with_too_few_requests_for_a_p99_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"at 10 requests per second, expected at least 70 s .*found 14"):
        LoadTestSettings(rate=10, p99_ms=5)
    assert LoadTestSettings(rate=10, seconds=70, p99_ms=5).seconds == 70
