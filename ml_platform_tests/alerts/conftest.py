"""Fixtures of the tests of alerts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_platform.state.store import StateStore
from ml_platform_tests.alerts.alerting import Alerting
from ml_platform_tests.alerts.sinks import HttpSink, SmtpSink


@pytest.fixture
def alerting(state_store: StateStore, tmp_path: Path) -> Alerting:
    return Alerting(state_store, tmp_path / "logs" / "alerts.jsonl")


@pytest.fixture
def sink() -> Iterator[HttpSink]:
    with HttpSink().running() as running:
        yield running


@pytest.fixture
def mail_sink() -> Iterator[SmtpSink]:
    with SmtpSink().running() as running:
        yield running
