"""The prediction log of a model in this process: the same files, form and hidden values as those of a service."""

import os
import secrets
import time
import weakref
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ml_platform.data.pseudonyms import PII_KEY_FILE_VARIABLE, pseudonym_key
from ml_platform.serving.request_contract import RequestContract, ValidRequest

if TYPE_CHECKING:
    from bento.predictor import Prediction

ROLE = "in_process"
"""Role of the answers of a version that is not the stable one: they do not count in its performance."""

WAIT_SECONDS = 60.0
"""Longest wait for a place in the queue; a batch is faster than the disk, and its rows must not be dropped."""


class InProcessLog:
    """Writes the answers of ``version`` of ``model`` to ``folder``, under the role ``role``.

    ``pii_key`` is the file of the key of pseudonyms, which ``$ML_PLATFORM_PII_KEY`` replaces. Raises
    :class:`~ml_platform.data.pseudonyms.PseudonymKeyError` when the ``contract`` hides values and the key is unusable.
    """

    def __init__(
        self, folder: Path, model: str, version: str, *, role: str, contract: RequestContract, pii_key: Path
    ) -> None:
        from bento.log_protection import LogProtection
        from bento.prediction_id import PredictionIds
        from bento.prediction_log import PredictionLog

        key_file = os.environ.get(PII_KEY_FILE_VARIABLE) or pii_key
        key = pseudonym_key(Path(key_file), os.environ) if LogProtection.needs_key(contract) else None
        self._role = role
        self._ids = PredictionIds()
        self._log = PredictionLog(folder, model, version, protection=LogProtection(contract, key))
        # The thread of the log is a daemon, so the end of the process would not wait for it.
        self._closing = weakref.finalize(self, self._log.close)

    def write(self, request: ValidRequest, prediction: "Prediction", answered_at: datetime, started: float) -> None:
        """Write the answer of ``request``; ``started`` is the time of its start by ``time.perf_counter``."""
        from bento.prediction_log import AnsweredRequest

        latency_ms = round((time.perf_counter() - started) * 1000, 3)
        answered = AnsweredRequest(
            self._ids.next(),
            secrets.token_hex(16),
            self._role,
            answered_at,
            request.rows,
            prediction,
            latency_ms=latency_ms,
        )
        self._log.put(answered, wait_seconds=WAIT_SECONDS)

    @property
    def dropped_rows(self) -> int:
        """Rows that were answered and could not be written."""
        return self._log.dropped_rows

    def close(self) -> None:
        """Write what waits, and end the log."""
        self._closing()
