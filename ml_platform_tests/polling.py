"""Waiting for a condition that another process fulfils, instead of a fixed time."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def until(reached: Callable[[], Found], seconds: float = 30, interval: float = 0.05) -> Found:
    """Return the first true result of ``reached``; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (found := reached()):
        assert time.monotonic() < deadline, f"not reached within {seconds:g} s"
        threading.Event().wait(interval)
    return found
