"""When a requested run is tried again, after one that failed for another reason than the contract.

The sensors of landed files, of sources and of waiting candidates use it. A read that broke the contract is not tried
again, because the same rows would break the same rule.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

MAXIMUM_ATTEMPTS = 6
"""Number of runs that are requested for the same content; a person decides after that."""

FIRST_WAIT_SECONDS = 120.0
"""Time from the first request to the second; each further one waits four times as long, 45 hours in all."""

RunState = Literal["running", "ended", "cancelled"]
"""State of the runs of a request: one has not ended, all have ended or none was found, or a person cancelled all."""

RunStates = Callable[[str], RunState]
"""Returns the state of the runs of a request by the request's name."""

Outcome = Literal["again", "running", "waiting", "given up"]


@dataclass(frozen=True)
class Attempt:
    """A request for a read: its ``number`` from 1, its time ``at`` (POSIX seconds), and the name of the request."""

    number: int
    at: float
    request: str

    @property
    def next_at(self) -> float:
        """Time of the next attempt, POSIX seconds."""
        return self.at + FIRST_WAIT_SECONDS * 4.0 ** (self.number - 1)

    def outcome(self, now: float, run_state: RunStates) -> Outcome:
        """Return what follows for a read that is neither published nor broken.

        Runs that a person cancelled are not tried again.
        """
        state = run_state(self.request)
        if state == "running":
            return "running"
        if state == "cancelled" or self.number >= MAXIMUM_ATTEMPTS:
            return "given up"
        return "again" if now >= self.next_at else "waiting"

    def describe(self, outcome: Outcome) -> str:
        """Return the outcome in words, for the reason of a tick."""
        if outcome == "waiting":
            time = datetime.fromtimestamp(self.next_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
            return f"its run failed or was lost; attempt {self.number + 1} of {MAXIMUM_ATTEMPTS} follows at {time}"
        if outcome == "given up":
            return (
                f"given up after attempt {self.number} of {MAXIMUM_ATTEMPTS}; read the run's error and materialize it"
            )
        return "its run has not ended"
