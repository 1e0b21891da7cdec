"""The load test of a bento: a real service process beside the bare endpoint; slow and failing services do not pass."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ml_platform.serving.bento_build import BuiltBento
from ml_platform.serving.bento_sources import BentoError
from ml_platform.serving.load_profile import LoadTestResult, LoadTestSettings
from ml_platform.serving.load_test import request_bodies, run_load_test

pytestmark = pytest.mark.slow

SERVER = """
import asyncio
from ml_platform.serving import calibration_server

bare = calibration_server.answer

async def answer(scope, receive, send):
    {body}
    await bare(scope, receive, send)

calibration_server.answer = answer
calibration_server.main()
"""
"""A service whose handler differs from the bare endpoint in its body."""

SLOW_SECONDS, LIMIT_MS = 0.5, 250.0
NOW = datetime(2024, 5, 1, tzinfo=UTC)


def bento(folder: Path, server: str) -> BuiltBento:
    """Write a bento whose server is the program ``server``."""
    (folder / "src" / "bento").mkdir(parents=True)
    (folder / "src" / "package.json").write_text('{"path": "/v1/toy/predict"}')
    (folder / "src" / "bento" / "__init__.py").touch()
    (folder / "src" / "bento" / "smoke_test_server.py").write_text(server)
    return BuiltBento("toy:1-abc", folder, "a" * 64, 1)


def result_of(built: BuiltBento) -> LoadTestResult:
    settings = LoadTestSettings(rate=200, seconds=3.5, p99_ms=LIMIT_MS, rows=2)
    return run_load_test(built, [{"id": 1}, {"id": 2}, {"id": 3}], settings, online="", clock=lambda: NOW)


def test_slow_service_fails_with_the_numbers_of_all_turns(tmp_path: Path) -> None:
    result = result_of(bento(tmp_path, SERVER.format(body=f"await asyncio.sleep({SLOW_SECONDS})")))
    assert (result.outcome, result.is_refused, result.at) == ("fail", True, NOW)
    service = [each for each in result.turns if each.endpoint == "service"]
    assert [each.round for each in service] == [1, 2, 3, 4, 5, 6, 7]
    assert all((each.requests, each.errors) == (100, 0) and each.p50_ms >= 1000 * SLOW_SECONDS for each in service)
    assert len(result.turns) == 14
    assert LoadTestResult.model_validate(json.loads(result.model_dump_json())) == result


def test_failing_service_fails_at_its_first_turn(tmp_path: Path) -> None:
    result = result_of(bento(tmp_path, SERVER.format(body="raise ValueError('no features')")))
    assert result.outcome == "fail"
    assert result.reason == "100 of 100 requests failed: status 500."
    assert [(each.endpoint, each.errors) for each in result.turns] == [("calibration", 0), ("service", 100)]


def test_service_that_does_not_start_is_named_with_its_error_output(tmp_path: Path) -> None:
    with pytest.raises(BentoError, match=r"(?s)toy:1-abc: expected a service that starts.*no such model"):
        result_of(bento(tmp_path, "raise SystemExit('no such model')"))


def test_bodies_have_the_declared_number_of_rows() -> None:
    rows = [{"id": number} for number in range(5)]
    found = [[row["id"] for row in json.loads(body)["rows"]] for body in request_bodies(rows, 2)]
    assert found == [[0, 1], [2, 3], [4, 0]]
    (long,) = request_bodies(rows, 7)
    assert [row["id"] for row in json.loads(long)["rows"]] == [0, 1, 2, 3, 4, 0, 1]
