"""Compares the scores of a shadow with those of the stable version, request by request.

Both services answer the same requests, so a version that is wrong for a few rows only shows it here, although the
distribution of all scores hardly moves.
"""

import json
from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

MAX_WAITING = 4096
"""Requests of one service that wait for the other's answer; the oldest go first."""


class PairCounts(NamedTuple):
    """Requests that both versions have answered, and those whose scores differ by more than the limit."""

    compared: int
    changed: int


class ScorePairs:
    """The pairs of one rollout since the guard started. ``changed_by`` is the largest difference that is no change."""

    def __init__(self, changed_by: float) -> None:
        self.changed_by = changed_by
        self.counts = PairCounts(0, 0)
        self._seen: dict[str, int] = {}
        self._waiting: dict[str, OrderedDict[str, float | None]] = {"candidate": OrderedDict(), "stable": OrderedDict()}

    def add(self, pages: Iterable[tuple[str, str, str]]) -> PairCounts:
        """Return the counts after ``pages``: arm (``candidate``, ``stable``), source and page of recent scores.

        A source is one process; its page has scores that an earlier one had too. Only scores between 0 and 1 are
        compared. A request id that a client sent twice is left out.
        """
        for arm, source, text in pages:
            page = json.loads(text)
            new = page["requests"] - self._seen.get(source, 0)
            # A number that fell belongs to a restarted process.
            scores = page["scores"][-new:] if new > 0 else [] if new == 0 else page["scores"]
            self._seen[source] = page["requests"]
            waiting = self._waiting[arm]
            for request, score in scores:
                waiting[request] = None if request in waiting else score
        candidate, stable = self._waiting["candidate"], self._waiting["stable"]
        compared, changed = self.counts
        for request in [each for each in candidate if each in stable]:
            mine, other = candidate.pop(request), stable.pop(request)
            if mine is not None and other is not None and 0 <= mine <= 1 and 0 <= other <= 1:
                compared += 1
                changed += abs(mine - other) > self.changed_by
        for waiting in (candidate, stable):
            while len(waiting) > MAX_WAITING:
                waiting.popitem(last=False)
        self.counts = PairCounts(compared, changed)
        return self.counts
