"""The load test of a bento: run once for each declared load, kept as evidence, and required by a rollout."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ml_platform.data.atomic import write_text
from ml_platform.errors import PlatformError
from ml_platform.serving.bento_build import BuiltBento
from ml_platform.serving.load_profile import LoadTestResult, LoadTestSettings
from ml_platform.serving.load_test import run_load_test
from ml_platform.serving.verified_bentos import verified_bento_of
from ml_platform.steps.platform_stores import PlatformStores
from resources.home import Home


class LoadTestError(PlatformError):
    """Raised when a bento did not pass its declared load test, or was not tested at that load."""


def tested_under_load(
    bento: BuiltBento,
    rows: Callable[[], Sequence[Mapping[str, Any]]],
    settings: LoadTestSettings,
    stores: PlatformStores,
    clock: Callable[[], datetime],
) -> LoadTestResult:
    """Return the result of the load test of ``bento`` with requests of ``rows``, at the declared load ``settings``.

    A bento that has passed at this load is not tested again. The result is kept, also that of a failure.
    """
    known = kept_result(stores.home, bento.sha256)
    if known is not None and known.settings == settings and known.outcome == "pass":
        return known
    result = run_load_test(bento, rows(), settings, online=stores.online_store.location, clock=clock)
    write_text(_file(stores.home, bento.sha256), result.model_dump_json(indent=2))
    return result


def kept_result(home: Home, sha256: str) -> LoadTestResult | None:
    """Return the last result of the bento with the content ``sha256``; None without one, or for an unreadable one."""
    file = _file(home, sha256)
    try:
        return LoadTestResult.model_validate(json.loads(file.read_bytes()))
    except (OSError, ValueError):
        return None


def require_load_test(name: str, version: str, stores: PlatformStores, settings: LoadTestSettings) -> None:
    """Raise :class:`LoadTestError` unless the verified bento of ``version`` may go on after its load test."""
    record = verified_bento_of(stores.state, name, version)
    result = None if record is None else kept_result(stores.home, record.sha256)
    subject, load = f"Bento of '{name}' version {version}", f"{settings.rate:g} requests per second"
    if result is None or result.settings != settings:
        raise LoadTestError(
            subject,
            expected=f"a load test at the declared {load}",
            found="none" if result is None else f"one at {result.settings.rate:g}, with other settings",
            fix=f"Materialize {name}/bento, which runs it.",
        )
    if result.is_refused:
        raise LoadTestError(
            subject,
            expected=f"a p99 of at most {settings.p99_ms:g} ms beyond a bare endpoint and no error, at {load}",
            found=result.reason,
            fix=f"Make the model or its features faster, or declare another load_test; then materialize {name}/bento.",
        )


def _file(home: Home, sha256: str) -> Path:
    return home.load_tests / f"{sha256[:32]}.json"
