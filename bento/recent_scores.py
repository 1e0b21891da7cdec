"""The last scores of a service by request, so that the guard of rollouts can compare a shadow answer by answer."""

import hashlib
import threading
from collections import deque
from collections.abc import Sequence

import orjson

from bento.prediction_log import AnsweredRequest

KEPT_REQUESTS = 512
"""The guard reads four times a second, so above 2,000 requests a second it compares a part of them."""


class RecentScores:
    """One score of each of the last requests; a request gives the same row in the stable version and in its shadow."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = 0
        self._scores: deque[tuple[str, float]] = deque(maxlen=KEPT_REQUESTS)

    def observe(self, answered: Sequence[AnsweredRequest]) -> None:
        """Add the requests ``answered``. The log's thread calls this, so no request waits."""
        added = [_sampled(each) for each in answered]
        with self._lock:
            self._scores.extend(added)
            self._number += len(added)

    def page(self) -> bytes:
        """Return JSON with the number of requests since the start, and the scores of the last ones, oldest first."""
        with self._lock:
            return orjson.dumps({"requests": self._number, "scores": list(self._scores)})


def _sampled(answered: AnsweredRequest) -> tuple[str, float]:
    # A client chooses its request id, which may be long and may have personal data.
    digest = hashlib.blake2b(answered.request_id.encode(), digest_size=8)
    scores = answered.prediction.scores
    return digest.hexdigest(), scores[int.from_bytes(digest.digest()) % len(scores)]
