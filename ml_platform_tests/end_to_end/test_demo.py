"""`ml-platform demo` as a new user runs it: its output, its reports, and a second run."""

import json
from pathlib import Path

import pytest

from ml_platform_tests.conftest import DemoHome

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_champion_reaches_the_expected_auc_and_serves(demo_home: DemoHome) -> None:
    model = json.loads(demo_home.run("status", "--json"))["models"]["departure_risk"]

    assert model["champion"]["metrics"]["auc"] >= 0.76
    assert model["serving"] == {
        "stable": str(model["champion"]["version"]),
        "candidate": None,
        "weights": {"stable": 100},
        "generation": 1,
    }
    assert model["champion"]["manifest"]["partition"] == "2013-06"


def test_predictions_are_printed_with_outcomes(demo_home: DemoHome) -> None:
    lines = [line for line in demo_home.printed.splitlines() if "→" in line]

    assert len(lines) >= 10
    assert all(" late " in line or " on time " in line for line in lines)
    assert all("min late" in line or "min early" in line or "never arrived" in line for line in lines)


def test_output_fits_80_columns_without_truncation(demo_home: DemoHome) -> None:
    assert "…" not in demo_home.printed
    assert "\x1b" not in demo_home.printed
    tables = [line for line in demo_home.printed.splitlines() if line and line[0] in "┏┃┡│├└"]
    assert tables  # an empty output would pass
    assert max(map(len, tables)) <= 80


def test_printed_report_paths_exist(demo_home: DemoHome) -> None:
    printed = dict(
        line.split(maxsplit=2)[1:] for line in demo_home.printed.splitlines() if line[:6] in ("Model ", "Drift ")
    )

    assert [Path(printed[name]).is_file() for name in ("card", "report")] == [True, True]


def test_second_run_materializes_nothing_and_serves_the_same_version(demo_home: DemoHome, tmp_path: Path) -> None:
    again = demo_home.copy(tmp_path / "home").run("demo", "aviation")

    assert "✓" not in again
    assert "served: 1" in again


def test_logged_predictions_are_joined_with_outcomes(demo_home: DemoHome, tmp_path: Path) -> None:
    own = demo_home.copy(tmp_path / "home")
    names = ("predictions", "outcomes", "performance")
    outputs = [
        own.run("materialize", "--select", f'key:"departure_risk/{name}"', "--partitions", "2013-06") for name in names
    ]

    assert [f"departure_risk/{name}" in output for name, output in zip(names, outputs, strict=True)] == [True] * 3


def test_data_clock_is_the_time_until_which_the_latest_month_has_arrived(demo_home: DemoHome) -> None:
    assert json.loads(demo_home.run("status", "--json"))["data_clock"] == "2013-07-25T19:00:00+00:00"
