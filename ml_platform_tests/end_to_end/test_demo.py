"""The first run as a newcomer makes it: the command, its output, and what it leaves behind."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).parent / "ml-platform"
PROJECT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Looped:
    """A home in which the demo ran, and what it printed."""

    home: Path
    printed: str

    def run(self, *arguments: str) -> str:
        return _run(self.home, *arguments)


def _run(home: Path, *arguments: str) -> str:
    environment = {**os.environ, "ML_PLATFORM_HOME": str(home), "COLUMNS": "200"}
    done = subprocess.run(
        [COMMAND, *arguments], env=environment, cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def looped(tmp_path_factory: pytest.TempPathFactory) -> Looped:
    home = tmp_path_factory.mktemp("looped")
    return Looped(home, _run(home, "demo"))


def test_champion_is_better_than_promised_and_serves(looped: Looped) -> None:
    model = json.loads(looped.run("status", "--json"))["models"]["departure_risk"]

    assert model["champion"]["metrics"]["auc"] >= 0.76
    assert model["serving"] == {
        "stable": str(model["champion"]["version"]),
        "candidate": None,
        "weights": {"stable": 100},
        "generation": 1,
    }
    assert model["champion"]["manifest"]["partition"] == "2013-06"


def test_predictions_stand_beside_what_happened(looped: Looped) -> None:
    assert looped.printed.count("min late") + looped.printed.count("min early") >= 8
    assert "served: 1" in looped.printed


def test_second_run_makes_nothing_and_serves_the_same_version(looped: Looped) -> None:
    again = looped.run("demo")

    assert "✓" not in again
    assert "served: 1" in again


def test_what_was_answered_is_ingested_with_its_outcome(looped: Looped) -> None:
    for name in ("predictions", "outcomes", "performance"):
        looped.run("materialize", "--select", f'key:"departure_risk/{name}"', "--partitions", "2013-06")
    listed = looped.run("status")

    assert "departure_risk" in listed


def test_data_clock_is_the_end_of_the_newest_landed_month(looped: Looped) -> None:
    assert json.loads(looped.run("status", "--json"))["data_clock"] == "2013-07-01T04:00:00+00:00"
