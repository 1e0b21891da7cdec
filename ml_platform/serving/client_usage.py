"""The requests of each client on the current UTC day, for quotas that outlive the gateway and the platform."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ml_platform.state.cursors import read_cursor, write_cursor
from ml_platform.state.store import StateStore

USAGE_CURSOR = "client_usage"


class Usage:
    """The requests of each client on one UTC day, and the counters of the gateway at the last look."""

    def __init__(self, stored: Mapping[str, Any] | None = None) -> None:
        stored = stored or {}
        self.day: str = stored.get("day", "")
        self.requests: dict[str, int] = dict(stored.get("requests", {}))
        self._seen: dict[str, int] = dict(stored.get("seen", {}))

    def add(self, counters: Mapping[str, int], day: str) -> bool:
        """Add what ``counters`` (by client, since the start of the gateway) have grown; return whether one fell.

        Counters fall when the gateway starts again; then all of their value is new.
        """
        fell = any(counters.get(client, 0) < seen for client, seen in self._seen.items())
        if day != self.day:
            self.day, self.requests = day, {}
        for client, count in counters.items():
            new = count - (0 if fell else self._seen.get(client, 0))
            self.requests[client] = self.requests.get(client, 0) + new
        self._seen = dict(counters)
        return fell

    def on(self, day: str) -> dict[str, int]:
        """Return the requests of each client on ``day``; none on another day than the current one."""
        return self.requests if day == self.day else {}

    def to_json(self) -> dict[str, Any]:
        return {"day": self.day, "requests": self.requests, "seen": self._seen}


def requests_today(state: StateStore, now: datetime) -> dict[str, int]:
    """Return the requests of each client on the UTC day of ``now``, as last stored."""
    return read_usage(state).on(utc_day(now))


def utc_day(now: datetime) -> str:
    """Return the day of ``now`` in UTC, as ISO 8601."""
    return str(now.astimezone(UTC).date())


def read_usage(state: StateStore) -> Usage:
    """Return the requests as last stored; none before the first."""
    return Usage(read_cursor(state, USAGE_CURSOR))


def write_usage(state: StateStore, usage: Usage) -> None:
    """Store the requests and the counters that they were read from, together."""
    write_cursor(state, USAGE_CURSOR, usage.to_json())
