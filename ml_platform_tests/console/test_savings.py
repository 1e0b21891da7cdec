"""Idle endpoints, oversized resources and unused features and tables are named, with what they cost."""

import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from io import StringIO
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from benchmarks.home_page import write_records
from ml_platform.components.project import read_project
from ml_platform.console.lineage import DatasetColumns, ProjectLineage
from ml_platform.console.savings import (
    NO_RESOURCES,
    DeclaredResources,
    Saving,
    SavingSettings,
    declared_resources,
    find_savings,
    read_saving_settings,
    savings_of,
    show,
)
from ml_platform.data.lake import Lake
from ml_platform.monitoring.cost_records import StepCost, Used, record_step
from ml_platform.serving.desired_state import DesiredState, ServedVersion, swap_desired_state
from ml_platform.serving.marked_processes import PROCESS_VARIABLE, RUN_VARIABLE, SERVICE_PREFIX
from ml_platform.state.schema import prediction_days
from ml_platform.state.store import StateStore
from ml_platform.training.compute import Compute
from ml_platform.training.resource_usage import PriceList
from ml_platform_tests.console.test_lineage import project
from resources.profiles import REPOSITORY

TODAY = date(2023, 4, 20)
PRICES = PriceList(cpu_hour=0.1, gpu_hour=2.0, memory_gb_hour=0.01, stored_gb_month=1000.0)
FIT = StepCost(
    *("run", "late/candidate_trees", 0, "air", "late", False, datetime(2023, 4, 18, tzinfo=UTC)),
    Used(wall_seconds=3600.0, cpu_seconds=3600.0, peak_memory_bytes=2 * 1024**3),
)


def savings(state: StateStore, declared: DeclaredResources = NO_RESOURCES, **folders: Path) -> list[Saving]:
    return find_savings(state, declared, PRICES, SavingSettings(), TODAY, 30, **folders)


@pytest.fixture
def serving(state_store: StateStore) -> StateStore:
    """A model that is served, with a champion since the 30th of March 2023."""
    write_records(state_store, ["m00"], 90)
    served = DesiredState(stable=ServedVersion(version="8", bento="m00/abc"), weights={"stable": 100})
    swap_desired_state(state_store, "m00", served, expected_generation=0)
    return state_store


def predicted(state: StateStore, day: str) -> None:
    with state.write() as connection:
        row = {"model": "m00", "day": day, "predict_day": day, "predictions": 1, "outcomes": 0, "labelled": 0}
        connection.execute(prediction_days.insert().values(**row))


def test_endpoint_without_a_request_is_idle_and_costs_its_serving_steps(serving: StateStore) -> None:
    predicted(serving, "2023-04-06")  # one day before the 14 days
    for asset, money in (("m00/predictions", 1.5), ("m00/performance:regression", 0.25), ("m00/candidate_trees", 9.0)):
        record_step(serving, replace(FIT, asset=asset, model="m00", used=Used(money=money)))
    (found,) = savings(serving)
    assert (found.kind, found.name, found.used.money) == ("idle endpoint", "m00", 1.75)
    assert "Version 8 had no request in the last 14 days" in found.text
    assert "do not run on this machine" in found.text

    predicted(serving, "2023-04-07")
    assert savings(serving) == []


def test_endpoint_whose_predictions_wait_in_its_log_is_not_idle(serving: StateStore, tmp_path: Path) -> None:
    log = tmp_path / "m00" / "first-1.jsonl"
    log.parent.mkdir()
    log.write_text("{}\n")
    os.utime(log, (0, datetime(2023, 4, 6, tzinfo=UTC).timestamp()))
    assert [each.name for each in savings(serving, logs=tmp_path)] == ["m00"]
    os.utime(log, (0, datetime(2023, 4, 19, tzinfo=UTC).timestamp()))
    assert savings(serving, logs=tmp_path) == []


def test_memory_and_processor_time_of_a_running_service_are_part_of_the_cost_of_its_idle_endpoint(
    serving: StateStore, tmp_path: Path
) -> None:
    marks = {RUN_VARIABLE: str(tmp_path), PROCESS_VARIABLE: f"{SERVICE_PREFIX}m00-abc@2"}
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], env={**os.environ, **marks}, stdin=subprocess.PIPE)
    try:
        (found,) = savings(serving, run=tmp_path)
    finally:
        sleeper.communicate(b"\n")
    assert "Its process has 0.0" in found.text
    assert found.used.peak_memory_bytes > 1_000_000
    assert found.used.money > 0


def test_endpoint_of_a_new_champion_is_not_judged(serving: StateStore) -> None:
    assert find_savings(serving, NO_RESOURCES, PRICES, SavingSettings(), date(2023, 4, 11), 30) == []


def test_resources_are_oversized_if_no_step_used_half_of_them(state_store: StateStore) -> None:
    declared = DeclaredResources(compute={FIT.asset: Compute(cpus=4, memory_gb=16, gpus=1)})
    for run in ("a", "b"):
        record_step(state_store, replace(FIT, run_id=run))
    assert savings(state_store, declared) == []  # two steps are too few
    record_step(state_store, replace(FIT, run_id="c", used=replace(FIT.used, gpu_seconds=720.0)))
    record_step(state_store, replace(FIT, run_id="d", failed=True, used=replace(FIT.used, cpu_seconds=14_400.0)))

    (found,) = savings(state_store, declared)
    assert (found.kind, found.name) == ("oversized resource", FIT.asset)
    assert "3 steps" in found.text
    assert "1 of 4 cores, 2 of 16 GiB of memory and 0.2 of 1 GPUs" in found.text
    cores, memory, gpus = 3 * 3 * 0.1, 14 * 1.073741824 * 3 * 0.01, (3 - 0.2) * 2.0
    assert found.used.money == pytest.approx(cores + memory + gpus)
    assert found.used.cpu_seconds == pytest.approx(9 * 3600)

    record_step(state_store, replace(FIT, run_id="e", used=Used(3600.0, 10_800.0, 3_000.0, 9 * 1024**3)))
    assert savings(state_store, declared) == []


def test_unused_views_unread_datasets_and_tables_without_declaration_are_named_with_their_size(
    state_store: StateStore, tmp_path: Path
) -> None:
    used = project()
    left = ProjectLineage(
        views=used.views,
        models={"early": replace(used.models["early"], views=[])},
        datasets={**used.datasets, "surveys": DatasetColumns("surveys", "air", {}, [])},
    )
    lake = Lake(str(tmp_path / "lake"), state_store)
    for table in ("datasets/surveys", "features/hourly/ab12", "models/gone/predictions", "datasets/flights"):
        lake.write(table, pl.DataFrame({"a": range(1000)}), partition=None)
    record_step(state_store, replace(FIT, asset="features/hourly", model="", used=Used(money=2.0)))

    found = savings(state_store, DeclaredResources(left))
    assert [(each.kind, each.name) for each in found[:1]] == [("unused feature view", "hourly")]
    assert {(each.kind, each.name) for each in found[1:]} == {
        ("unused feature view", "ratio"),
        ("unread dataset", "surveys"),
        ("table without declaration", "models/gone"),
    }
    sizes = {each.name: each.size_bytes for each in found}
    assert sizes["surveys"] == lake.catalog.totals("datasets/surveys")[1] > 0
    costs = {each.name: each.used.money for each in found}
    assert costs["surveys"] == pytest.approx(sizes["surveys"] / 1e9 * 1000.0)
    assert costs["hourly"] == pytest.approx(2.0 + sizes["hourly"] / 1e6)
    assert costs["ratio"] == 0.0
    # A domain that does not load may use all of them.
    assert savings(state_store, DeclaredResources(left, is_complete=False)) == []
    assert [each.name for each in savings(state_store, DeclaredResources(left, scored=frozenset({"surveys"})))] == [
        each.name for each in found if each.name != "surveys"
    ]


def test_savings_of_a_domain_or_model_are_its_own_and_are_printed_with_cost_and_size() -> None:
    found = [
        Saving("idle endpoint", "late", "air", "No request.", Used(money=1.5)),
        Saving("oversized resource", "late/candidate_trees", "air", "1 of 4 cores.", Used(money=0.5)),
        Saving("unread dataset", "surveys", "shop", "Nothing reads it.", Used(), 2_000_000_000),
    ]
    assert savings_of(found, "late") == savings_of(found, "air") == found[:2]
    console = Console(file=StringIO(), width=100)
    show(found, "EUR", console)
    assert isinstance(console.file, StringIO)
    printed = console.file.getvalue()
    assert "idle endpoint late: 1.50 EUR\n" in printed
    assert "unread dataset surveys: 0.00 EUR, 2.00 GB stored" in printed
    show([], "EUR", console)
    assert console.file.getvalue() == printed


def test_declared_domains_use_everything_that_they_declare(state_store: StateStore) -> None:
    declared = declared_resources(read_project(REPOSITORY))
    assert declared.is_complete
    assert find_savings(state_store, declared, PRICES, read_saving_settings(REPOSITORY), TODAY, 30) == []
    assert len(declared.lineage.views) > 20


def test_settings_of_params_yaml_change_the_findings(serving: StateStore, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("savings: {idle_endpoint_days: 40}\n")
    settings = read_saving_settings(tmp_path)
    assert find_savings(serving, NO_RESOURCES, PRICES, settings, TODAY, 30) == []
    later = TODAY + timedelta(days=20)
    assert [each.name for each in find_savings(serving, NO_RESOURCES, PRICES, settings, later, 30)] == ["m00"]
