"""Stale assets: never materialized, made by another code version, or older than an input."""

from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from ml_platform.console.materialization_plan import data_of_model, stale_assets
from ml_platform.console.materialize import find_stale
from ml_platform.data.contract_record import record_passed
from ml_platform.data.landing import Landing, LandingError
from resources.home import Home
from resources.home_lake import open_lake

SOURCE, RESULT = dg.AssetKey("source"), dg.AssetKey("result")
MONTHS = dg.MonthlyPartitionsDefinition(start_date="2013-01", end_date="2013-04", fmt="%Y-%m")


def _definitions(code_version: str | None = "1") -> dg.Definitions:
    @dg.asset(partitions_def=MONTHS)
    def source() -> None: ...

    @dg.asset(deps=[source], partitions_def=MONTHS, code_version=code_version)
    def result() -> None: ...

    return dg.Definitions(assets=[source, result])


def _run(instance: dg.DagsterInstance, keys: list[dg.AssetKey], month: str, code_version: str | None = "1") -> None:
    job = _definitions(code_version).resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(instance=instance, asset_selection=keys, partition_key=month).success


def _stale(instance: dg.DagsterInstance, months: list[str], code_version: str = "1") -> dict[tuple[str, str], str]:
    requested = {SOURCE: months, RESULT: months}
    found = stale_assets(_definitions(code_version), instance, [SOURCE, RESULT], requested)
    return {(each.key.path[0], each.partition or ""): each.reason for each in found}


def test_only_partitions_without_a_materialization_are_stale() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        _run(instance, [SOURCE, RESULT], "2013-01")

        assert _stale(instance, ["2013-01"]) == {}
        assert _stale(instance, ["2013-01", "2013-02"]) == {
            ("source", "2013-02"): "never materialized",
            ("result", "2013-02"): "never materialized",
        }


def test_newer_input_makes_the_same_and_later_months_stale_but_not_earlier_ones() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        _run(instance, [SOURCE, RESULT], "2013-01")
        _run(instance, [SOURCE, RESULT], "2013-02")
        _run(instance, [SOURCE], "2013-02")

        assert _stale(instance, ["2013-01", "2013-02"]) == {("result", "2013-02"): "its input source is newer"}


def test_newer_input_outside_the_selection_makes_its_consumer_stale() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        _run(instance, [SOURCE, RESULT], "2013-01")
        _run(instance, [SOURCE], "2013-01")
        found = stale_assets(_definitions(), instance, [RESULT], {RESULT: ["2013-01"]})

        assert [each.reason for each in found] == ["its input source is newer"]


def test_changed_code_version_makes_an_asset_stale_and_the_reason_names_both_versions() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        _run(instance, [SOURCE, RESULT], "2013-01")

        assert _stale(instance, ["2013-01"], "2") == {("result", "2013-01"): "its code changed (1 → 2)"}


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("ab-1", "cd-1", "its code changed"),
        ("ab-1", "ab-2", "its declaration changed"),
        ("ab", "ab-2", "its version covers its declaration now, as of release 0.4"),
    ],
)
def test_reason_tells_a_changed_declaration_from_changed_code(before: str, after: str, reason: str) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        _run(instance, [SOURCE, RESULT], "2013-01", before)

        assert _stale(instance, ["2013-01"], after) == {("result", "2013-01"): f"{reason} ({before} → {after})"}


def test_asset_that_declares_its_first_code_version_is_not_stale() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        _run(instance, [SOURCE, RESULT], "2013-01", None)

        assert _stale(instance, ["2013-01"], "1") == {}


def test_changed_landed_file_makes_its_dataset_stale() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        _run(instance, [SOURCE, RESULT], "2013-01")
        found = stale_assets(
            _definitions(),
            instance,
            [SOURCE],
            {SOURCE: ["2013-01"]},
            lambda key, months: dict.fromkeys(months, "its landed file changed"),
        )

        assert [each.reason for each in found] == ["its landed file changed"]


def test_data_of_a_model_are_only_what_its_training_set_is_made_of() -> None:
    @dg.asset(key=["datasets", "flights"])
    def flights() -> None: ...

    @dg.asset(key=["datasets", "shops"])
    def shops() -> None: ...

    @dg.asset(key=["features", "delays"], deps=[flights])
    def delays() -> None: ...

    @dg.asset(key=["late", "training_set"], deps=[delays, flights])
    def training_set() -> None: ...

    @dg.asset(key=["late", "evaluation"], deps=[training_set, shops])
    def evaluation() -> None: ...

    declared = dg.Definitions(assets=[flights, shops, delays, training_set, evaluation])

    assert [key.to_user_string() for key in data_of_model(declared, "late")] == [
        "datasets/flights",
        "features/delays",
        "late/training_set",
    ]


def test_changed_file_and_damaged_rows_of_a_month_are_found_without_reading_other_months(tmp_path: Path) -> None:
    """A file is read again only where it differs from the one whose rows are in the table."""
    home = Home(tmp_path / "home")
    lake, landing = open_lake(home), Landing(home.landing)
    key = dg.AssetKey(["datasets", "orders"])

    @dg.asset(key=key, partitions_def=MONTHS, metadata={"dagster/table_name": "datasets/orders"})
    def orders() -> None: ...

    with dg.DagsterInstance.ephemeral() as instance:
        for month in ("2013-01", "2013-02", "2013-03"):
            landed = landing.land_bytes("orders", month, month.encode(), "csv")
            lake.write("datasets/orders", pl.DataFrame({"month": [month]}), month)
            record_passed(lake.state, "orders", month, content_digest="0" * 64, landed_sha256=landed.sha256)
            instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=month))
        loaded = dg.Definitions(assets=[orders])

        def found(months: str) -> dict[str | None, str]:
            stale = find_stale(loaded, instance, home, [key], months)
            return {each.partition: each.reason.partition(":")[0] for each in stale}

        assert found("2013-01...2013-03") == {}
        landing.land_bytes("orders", "2013-02", b"corrected", "csv")
        (path,) = [file.path for partition, file in lake.catalog.current_files("datasets/orders", ["2013-03"])]
        (home.lake / "datasets/orders" / path).unlink()
        assert found("2013-01...2013-03") == {
            "2013-02": "its landed file changed",
            "2013-03": "its rows are damaged",
        }
        assert found("2013-01") == {}
        (landing.root / "orders" / "2013-01.csv").unlink()
        with pytest.raises(LandingError, match="partition 2013-01: expected a file"):
            found("2013-01")
