"""A replay of three days by the real platform, killed in the middle: it goes on, and each row has one prediction.

It needs minutes of two cores, so it runs only where ML_PLATFORM_TEST_REPLAY is 1.
"""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ml_platform_tests.end_to_end.checkout import BIN, Checkout
from ml_platform_tests.polling import until
from resources.home import Home

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.environ.get("ML_PLATFORM_TEST_REPLAY") != "1", reason="ML_PLATFORM_TEST_REPLAY is not 1"),
]

DOMAIN = Path(__file__).parent / "stalls_domain"
DAYS = ["2024-03-08", "2024-03-09", "2024-03-10"]
ROWS = 144
SECONDS = 1200


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of a replay whose command was killed when the first day was recorded, and then repeated."""
    root = tmp_path_factory.mktemp("stalls")
    checkout = Checkout(root / "project")
    shutil.copytree(
        DOMAIN, checkout.root / "assets" / "stalls", ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
    )
    command = [str(BIN / "ml-platform"), "replay", "stalls", "--from", DAYS[0], "--to", DAYS[-1], "--home", str(root)]
    first_day = Home(root / "policy").root / "replay" / f"{DAYS[0]}.json"
    with (root / "killed.log").open("wb") as log:
        killed = subprocess.Popen(command, cwd=checkout.root, env=checkout.environment, stdout=log, stderr=log)

        def is_recorded() -> bool:
            assert killed.poll() is None, (root / "killed.log").read_text()[-3000:]
            return first_day.exists()

        until(is_recorded, SECONDS, interval=0.5)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    printed = checkout.run(*command, seconds=SECONDS)
    assert f"{DAYS[0]}:" not in printed  # the recorded day is not replayed again
    found: dict[str, Any] = json.loads((root / "reports" / "replay.json").read_text())
    return found


def test_each_row_of_each_day_has_one_prediction_of_the_champion(report: dict[str, Any]) -> None:
    days = report["days"]
    assert [each["day"] for each in days] == DAYS
    assert [(each["predictions"], each["lost"], each["doubled"], each["n"]) for each in days] == [
        (ROWS, 0, 0, ROWS)
    ] * 3
    assert days[0]["champion_version"] == 1
    assert all(each["rmse"] < 15 for each in days)  # the mean stall sells 25 pieces, and the levels are 10 to 40


def test_the_policy_trains_on_every_second_day(report: dict[str, Any]) -> None:
    decisions = [each for day in report["days"] for each in day["decisions"]]
    retrained = {each["window"] for each in decisions if each["kind"] == "retraining" and each["decision"] == "retrain"}
    judged = {each["window"] for each in decisions if each["kind"] == "verdict"}
    assert retrained & set(DAYS) == judged & set(DAYS) == {DAYS[1]}


def test_no_retraining_is_the_first_champion_on_all_days(report: dict[str, Any]) -> None:
    served, kept = (report["policies"][name]["windows"] for name in ("policy", "never"))
    assert [each["version"] for each in kept] == [1, 1, 1]
    assert kept[0] == served[0]
    assert [each["n"] for each in kept] == [ROWS] * 3
