"""The commands of `ml-platform` on a home in which the demo ran: their output and their changes."""

import json
import re
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from ml_platform_tests.conftest import DemoHome

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MODEL, MONTH = "departure_risk", "2013-06"
BY = ("--by", "ada", "--reason", "seen")
ROW = {
    "carrier": "UA",
    "flight": 1545,
    "tailnum": "N14228",
    "origin": "EWR",
    "dest": "IAH",
    "scheduled_departure": "2013-07-01T06:15:00-04:00",
    "scheduled_arrival": "2013-07-01T08:30:00-05:00",
}


@pytest.fixture(scope="module")
def home(demo_home: DemoHome, tmp_path_factory: pytest.TempPathFactory) -> DemoHome:
    return demo_home.copy(tmp_path_factory.mktemp("verbs") / "home")


def test_status_as_json_has_exactly_the_documented_shape(home: DemoHome) -> None:
    found = json.loads(home.run("status", "--json"))

    assert set(found) == {"data_clock", "models", "not_loaded", "orphans", "failures"}
    assert not found["not_loaded"]
    assert not found["failures"]
    assert not found["orphans"]
    assert MODEL in found["models"]
    model = found["models"][MODEL]
    empty: dict[str, object] = {"streams": [], "waiting": [], "replicas": {}, "scaling": []}
    assert set(model) == {"champion", "serving", "endpoint", "verdict", "retraining", *empty}
    assert model["retraining"] is None  # the demo materializes without the sensor
    assert json.loads(home.run("decisions", MODEL, "--json")) == []
    assert model["verdict"]["decision"] == "PROMOTE"
    assert set(model["champion"]) == {"version", "metrics", "manifest"}
    assert set(model["serving"]) == {"stable", "candidate", "weights", "generation"}
    assert model["endpoint"] is None  # no service is running
    assert {name: model[name] for name in empty} == empty


def test_compliance_report_of_a_domain_has_the_champion_with_its_tests(home: DemoHome, tmp_path: Path) -> None:
    printed = home.run("compliance", "--domain", "aviation", "--out", str(tmp_path))
    assert printed.startswith("Report on 1 model written")
    found = json.loads((tmp_path / "report.json").read_text())
    (model,) = found["models"]
    assert (model["entry"]["name"], model["versions"][0]["version"]) == (MODEL, 1)
    assert {each["name"] for each in model["data"]} == {"flights", "planes", "weather"}
    assert all(gate["passed"] for gate in model["tests"][0]["gates"])
    assert len(model["features"]) > 200
    assert f"{MODEL}  version 1 since" in home.run("models")


@pytest.mark.parametrize("columns", [80, 120])
def test_output_to_a_file_is_plain_and_fits_the_width_without_truncation(home: DemoHome, columns: int) -> None:
    shown = home.run("status", columns=columns) + home.run("history", MODEL, columns=columns)

    assert "version 1 (stable) at 100 %; generation 1" in shown
    assert "promote version 1" in shown
    assert "calibration error" in shown
    assert "…" not in shown
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= columns


def test_history_before_the_first_promotion_fails(home: DemoHome) -> None:
    failed = home.done("history", MODEL, "--at", "2013-07-01T00:00:00-04:00")
    assert failed.returncode == 1
    assert "Champion of 'departure_risk' at 2013-07-01 04:00:00Z: expected a time after its first promotion" in (
        failed.stderr
    )


def test_history_shows_version_and_data_and_prints_json(home: DemoHome) -> None:
    assert re.search(r"made from datasets/flights version \d+, and 21 change logs", home.run("history", MODEL))
    verdict, entry = json.loads(home.run("history", MODEL, "--json"))
    assert (verdict["decision"], verdict["version"], verdict["partition"]) == ("PROMOTE", 1, "2013-06")
    assert (entry["version"], entry["action"], entry["partition"]) == (1, "promote", "2013-06")
    assert datetime.fromisoformat(entry["since"]).tzinfo is not None


def test_undeclared_model_cannot_be_rolled_back(home: DemoHome) -> None:
    failed = home.done("rollback", "departure_rsk", *BY)
    assert (failed.returncode, failed.stderr.count("Did you mean 'departure_risk'")) == (1, 1)


def test_each_feature_of_a_row_is_shown_with_its_unit_and_known_at(home: DemoHome) -> None:
    shown = home.run("features", "show", MODEL, "--row", json.dumps(ROW)).splitlines()
    before = home.run("features", "show", MODEL, "--row", json.dumps(ROW), "--as-of", "2013-06-20T06:00:00-04:00")

    assert any(line.split()[:3] == ["block", "195", "minutes"] for line in shown)  # 06:15 to 09:30, New York
    (weather,) = [line for line in shown if line.startswith("weather")]
    assert weather.startswith("weather  known 2013-07-25 ")  # the store has what arrived until then
    assert "weather  known 2013-06-20 " in before
    assert not any("\x1b" in line for line in shown)


def test_leak_check_of_a_model_without_leaks_prints_zero(home: DemoHome) -> None:
    assert home.run("leak-check", MODEL, "--partition", MONTH) == f"0 leaks in {MONTH}.\n"


def test_report_has_the_metrics_of_the_verdict(home: DemoHome, tmp_path: Path) -> None:
    home.run(
        *("report", "--model", MODEL, "--partition", MONTH),
        *("--metrics", str(tmp_path / "metrics.json"), "--plots", str(tmp_path / "plots")),
    )
    champion = json.loads(home.run("status", "--json"))["models"][MODEL]["champion"]
    written = json.loads((tmp_path / "metrics.json").read_text())
    curve = pl.read_csv(tmp_path / "plots" / "roc.csv")

    assert written["auc"] == pytest.approx(champion["metrics"]["auc"], abs=1e-9)
    assert curve["true_positive_rate"].is_sorted()
    assert {file.stem for file in (tmp_path / "plots").iterdir()} == {
        "roc",
        "reliability",
        "importance",
        "freshness",
    }


def test_asset_that_is_up_to_date_is_materialized_only_when_forced(home: DemoHome) -> None:
    command = ("materialize", "--select", 'key:"datasets/airports"', "--partitions", MONTH)

    assert home.run(*command).endswith("0 of 1 assets materialized; the others were up to date.\n")
    assert home.run(*command, "--force").endswith("1 of 1 assets materialized; the others were up to date.\n")


def test_rejection_of_the_champion_fails_and_is_not_recorded(home: DemoHome) -> None:
    log = home.root / "records" / "audit.jsonl"
    before = log.read_bytes()
    failed = home.done("reject", MODEL, "1", *BY)

    assert (failed.returncode, failed.stderr.count("expected a version that is not champion")) == (1, 1)
    assert log.read_bytes() == before


def test_rollback_without_an_earlier_champion_changes_nothing(home: DemoHome) -> None:
    before = home.run("status", "--json")
    failed = home.done("rollback", MODEL, *BY)

    assert (failed.returncode, failed.stderr.count("expected an earlier champion")) == (1, 1)
    assert home.run("status", "--json") == before
