"""Constant requests to an endpoint while something happens to it, and what failed meanwhile."""

import threading
from typing import Any

import httpx


class Load:
    """Requests of ``body`` to ``address``, each from a new connection, and others from one connection that is kept.

    ``answers`` is their number and ``failures`` says what was not answered with 200.
    """

    def __init__(self, address: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self.answers = 0
        self.failures: list[str] = []
        self._address, self._body, self._headers = address, body, headers or {}
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(keeps,)) for keeps in (True, False)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Stop; each last request is answered before."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self, keeps: bool) -> None:
        with httpx.Client(timeout=30, headers=self._headers) as kept:
            while not self._ended.wait(0.05):
                try:
                    answer = kept.post(self._address, json=self._body) if keeps else self._post_once()
                    if answer.status_code != 200:
                        self.failures.append(f"{answer.status_code} {answer.text}")
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                self.answers += 1

    def _post_once(self) -> httpx.Response:
        with httpx.Client(timeout=30, headers=self._headers) as client:
            return client.post(self._address, json=self._body)
