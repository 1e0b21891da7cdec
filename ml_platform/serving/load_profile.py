"""The load that a bento must bear before it may serve: its declaration, the measured turns, and the judgement on them.

The service and a bare endpoint are measured in turns at the same rate, so that the noise of the machine is in both.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, Self

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from ml_platform.data.settings import Settings

ROUNDS = 7
"""Number of turns of the service; each follows a turn of the bare endpoint."""

MOST_OVER_OF_PASSED, LEAST_OVER_OF_FAILED = 2, 6
"""Rounds above the limit up to which a bento passes, and from which it fails; between them the noise is too large.

If noise alone lifts a round above the limit with a probability of 0.2, six or more of seven are above it with a
probability of 0.0004 (binomial distribution), and two or fewer with 0.85.
"""

LEAST_REQUESTS = 100
"""Least number of requests in a turn: below it, the 99th percentile is the slowest request."""

SERVICE, CALIBRATION = "service", "calibration"

Outcome = Literal["pass", "fail", "noisy"]


class LoadTestSettings(Settings):
    """The load at which the built bento is tested, and the limit of its latency."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: float = Field(
        gt=0,
        le=1000,
        description="Requests per second; they arrive at random times, whether or not earlier ones are answered.",
    )
    rows: int = Field(default=1, ge=1, description="Rows of one request.")
    seconds: float = Field(default=14, ge=1, le=600, description="Duration of the load on the service.")
    p99_ms: float = Field(
        gt=0,
        description="Highest 99th percentile of the time of a request, beyond that of a bare endpoint at the same rate "
        "on the same machine (milliseconds).",
    )
    on_noise: Literal["go_on", "refuse"] = Field(
        default="go_on",
        description="Whether a bento goes on when the machine is too busy for a decision, also in a second run.",
    )

    @model_validator(mode="after")
    def _has_enough_requests(self) -> Self:
        needed = ROUNDS * LEAST_REQUESTS / self.rate
        if self.seconds < needed:
            raise ValueError(
                f"seconds: at {self.rate:g} requests per second, expected at least {needed:.0f} s "
                f"({ROUNDS} turns of {LEAST_REQUESTS} requests), found {self.seconds:g}"
            )
        return self


class LoadTurn(Settings):
    """One turn of one endpoint under load: times from the planned arrival of a request to its answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: int = Field(description="Number of the run; the second one repeats a noisy first one.")
    round: int = Field(description="Number of the turn of the endpoint within its run.")
    endpoint: Literal["service", "calibration"] = Field(description="Endpoint that was measured.")
    requests: int = Field(description="Number of requests.")
    errors: int = Field(description="Number of requests without an answer of status 200.")
    p50_ms: float = Field(description="Median time of a request (milliseconds).")
    p99_ms: float = Field(description="99th percentile of the time of a request (milliseconds).")
    error: str = Field(default="", description="The first error.")


class LoadTestResult(Settings):
    """Evidence of one load test: which bento was tested at which load, all turns, and the outcome."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="Name of the model.")
    bento: str = Field(description="Tag of the bento.")
    sha256: str = Field(description="Digest of the bento's content.")
    settings: LoadTestSettings = Field(description="The declared load.")
    outcome: Outcome = Field(description="pass, fail, or noisy: too noisy for a decision.")
    reason: str = Field(description="The numbers behind the outcome, in one sentence.")
    turns: list[LoadTurn] = Field(description="All turns in order.")
    at: datetime = Field(description="When the test ended.")

    @property
    def is_refused(self) -> bool:
        """Whether the bento may not go on."""
        return self.outcome == "fail" or (self.outcome == "noisy" and self.settings.on_noise == "refuse")


def judge(turns: Sequence[LoadTurn], settings: LoadTestSettings) -> tuple[Outcome, str]:
    """Return the outcome of one run with its reason; ``turns`` has the turns of both endpoints in order.

    An error of the service is a failure. A run in which the bare endpoint itself is slower than the limit never fails
    a bento, because the machine is too busy to tell.
    """
    service = [each for each in turns if each.endpoint == SERVICE]
    bare = [each for each in turns if each.endpoint == CALIBRATION]
    failing = next((each for each in service if each.errors), None)
    if failing is not None:
        errors, requests = sum(each.errors for each in service), sum(each.requests for each in service)
        return "fail", f"{errors} of {requests} requests failed: {failing.error}."
    beyond = [one.p99_ms - other.p99_ms for one, other in zip(service, bare, strict=True)]
    over = sum(each > settings.p99_ms for each in beyond)
    bare_ms = float(np.median([each.p99_ms for each in bare]))
    reason = (
        f"p99 {np.median(beyond):.1f} ms beyond the {bare_ms:.1f} ms of a bare endpoint (medians of turns), limit "
        f"{settings.p99_ms:g} ms; {over} of {len(beyond)} turns above it at {settings.rate:g} requests per second."
    )
    if over <= MOST_OVER_OF_PASSED:
        return "pass", reason
    if over >= LEAST_OVER_OF_FAILED and bare_ms <= settings.p99_ms:
        return "fail", reason
    return "noisy", f"The machine is too busy for a decision: {reason}"
