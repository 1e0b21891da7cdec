"""The component `Dataset` in a Dagster instance: metadata, stored rows, checks of bad files, and the sensor."""

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from pydantic import ValidationError

from ml_platform.components.dataset.component import Dataset
from ml_platform.components.declaration import DeclarationError, partitions_definition
from ml_platform.data import landing_index, read_attempts
from ml_platform.data.canonical import file_digest
from ml_platform.data.lake import Lake
from ml_platform.data.landing import Landing
from ml_platform.data.partitions import PartitionScheme
from ml_platform.data.reading import read_csv
from resources.home import Home
from resources.lake import LakeResource

MONTHS = PartitionScheme(start="2013-01", end="2013-12", time_zone="America/New_York")
KEY = dg.AssetKey(["datasets", "orders"])


def load_orders(path: Path) -> pl.DataFrame:
    return read_csv(path, {"id": pl.Int64, "hour": pl.Int64})


def load_priced(path: Path, prices: pl.DataFrame) -> pl.DataFrame:
    return read_csv(path, {"id": pl.Int64}).join(prices, on="id", how="left")


def load_prices(path: Path) -> pl.DataFrame:
    return read_csv(path, {"id": pl.Int64, "price": pl.Float64})


def declared(**changed: Any) -> Dataset:
    return Dataset.model_validate(
        {
            "name": "orders",
            "description": "One row per order",
            "loader": f"{__name__}:load_orders",
            "keys": ["id"],
            "partitions": MONTHS.model_dump(),
            "owners": ["team:shop"],
            "group": "shop",
            "tags": {"domain": "shop"},
            "contract": {
                "columns": [
                    {"name": "id", "type": "integer", "description": "Number"},
                    {
                        "name": "hour",
                        "type": "integer",
                        "minimum": 0,
                        "maximum": 23,
                        "unit": "h",
                        "description": "Hour",
                    },
                ]
            },
            **changed,
        }
    )


class Shop:
    """A home, a Dagster instance, and the definitions of some datasets."""

    def __init__(self, root: Path, instance: dg.DagsterInstance, *datasets: Dataset) -> None:
        self.resource = LakeResource.for_home(Home(root))
        self.instance = instance
        self.definitions = dg.Definitions.merge(
            *[each.build_defs(None) for each in datasets],  # type: ignore[arg-type]
            dg.Definitions(resources={"lake": self.resource}),
        )

    @property
    def landing(self) -> Landing:
        return self.resource.landing()

    @property
    def lake(self) -> Lake:
        return self.resource.lake()

    def land(self, month: str | None, text: str, dataset: str = "orders") -> str:
        return self.landing.land_bytes(dataset, month, text.encode(), "csv").sha256

    def materialize(
        self, first: str | None, last: str | None = None, *extra: dg.AssetsDefinition
    ) -> dg.ExecuteInProcessResult:
        span = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        return dg.materialize(
            [*self.definitions.assets, *extra],  # type: ignore[misc]
            instance=self.instance,
            resources={"lake": self.resource},
            partition_key=None if last else first,
            tags=span if last else None,  # type: ignore[arg-type]
            raise_on_error=False,
        )

    def checks(self, result: dg.ExecuteInProcessResult) -> dict[str, bool]:
        return {each.check_name: each.passed for each in result.get_asset_check_evaluations()}

    def sensor(self, cursor: str | None = None) -> Any:
        (sensor,) = self.definitions.sensors  # type: ignore[misc]
        with dg.build_sensor_context(
            cursor=cursor, instance=self.instance, resources={"lake": self.resource}, definitions=self.definitions
        ) as context:
            return sensor(context)


@pytest.fixture
def open_shop(tmp_path: Path) -> Any:
    with dg.DagsterInstance.ephemeral(str(tmp_path)) as instance:
        yield lambda *datasets: Shop(tmp_path / "home", instance, *(datasets or [declared()]))


def test_month_is_stored_and_recorded_with_its_metadata(open_shop: Any) -> None:
    shop = open_shop()
    landed = shop.land("2013-01", "id,hour\n1,5\n2,6\n")
    result = shop.materialize("2013-01")

    (event,) = result.asset_materializations_for_node("datasets__orders")
    shown = {name: value.value for name, value in event.metadata.items()}
    digest = shop.lake.digests("datasets/orders")["2013-01"]
    assert shop.lake.scan("datasets/orders").collect().rows() == [(1, 5, "2013-01"), (2, 6, "2013-01")]
    assert shop.checks(result) == {"landed": True, "schema": True, "expectations": True, "quality": True}
    assert shown["quality"] == "not judged: Comparable partitions: 0; at least 6 are needed."
    assert (event.partition, shown["dagster/row_count"], shown["table_version"]) == ("2013-01", 2, 0)
    assert (shown["content_sha256"], shown["landed_sha256"]) == (digest, landed)
    assert (shown["landed_size_bytes"], event.tags["dagster/data_version"]) == (16, digest)
    page = str(shown["data_docs"]).removeprefix("/go/reports/")
    assert (Path(shop.resource.reports_root) / page).exists()


def test_range_of_months_is_one_step_with_metadata_per_month(open_shop: Any) -> None:
    shop = open_shop()
    for month in (1, 2, 3):
        shop.land(f"2013-{month:02d}", "id,hour\n" + "".join(f"{row},5\n" for row in range(month)))
    result = shop.materialize("2013-01", "2013-03")

    events = result.asset_materializations_for_node("datasets__orders")
    assert len(result.get_step_success_events()) == 1
    assert [(event.partition, event.metadata["dagster/row_count"].value) for event in events] == [
        ("2013-01", 1),
        ("2013-02", 2),
        ("2013-03", 3),
    ]


@pytest.mark.parametrize(
    ("text", "checks", "column", "rule", "count"),
    [
        ("id,hours\n1,5\n", {"landed": True, "schema": False}, "hour", "present", 1),
        ("id,hour\n1,5h\n2,5\n", {"landed": True, "schema": False}, "hour", "type integer", 1),
        (
            "id,hour\n1,31\n2,5\n",
            {"landed": True, "schema": True, "expectations": False},
            "hour",
            "expect_column_values_to_be_between",
            1,
        ),
        (
            "id,hour\n1,5\n1,5\n",
            {"landed": True, "schema": True, "expectations": False},
            "id",
            "expect_column_values_to_be_unique",
            2,
        ),
        ("id,hour\n", {"landed": False}, "", "minimum_rows", 1),
    ],
)
def test_bad_month_is_recorded_but_not_published_and_blocks_downstream_assets(
    open_shop: Any, text: str, checks: dict[str, bool], column: str, rule: str, count: int
) -> None:
    shop = open_shop()
    ran_downstream = []

    @dg.asset(deps=[KEY], partitions_def=partitions_definition(MONTHS))
    def report() -> None:
        ran_downstream.append(1)

    shop.land("2013-01", "id,hour\n1,5\n")
    shop.materialize("2013-01")
    shop.land("2013-01", text)
    result = shop.materialize("2013-01", None, report)

    recorded = {each.check_name: each for each in result.get_asset_check_evaluations()}
    (row,) = recorded[list(checks)[-1]].metadata["violations"].records
    assert not result.success
    assert {name: each.passed for name, each in recorded.items()} == checks
    assert (row.data["column"], row.data["rule"], row.data["count"]) == (column, rule, count)
    assert len(json.loads(row.data["examples"])) == (count if column and rule != "present" else 0)
    assert ran_downstream == []
    assert shop.lake.scan("datasets/orders").collect().rows() == [(1, 5, "2013-01")]
    assert (
        shop.instance.get_latest_materialization_event(KEY).asset_materialization.metadata["table_version"].value == 0
    )
    stored = shop.instance.event_log_storage.get_latest_asset_check_execution_by_key(
        [dg.AssetCheckKey(KEY, name) for name in checks]
    )
    assert {key.name: record.status.value for key, record in stored.items()} == {
        name: "SUCCEEDED" if passed else "FAILED" for name, passed in checks.items()
    }


def load_people(path: Path) -> pl.DataFrame:
    return read_csv(path, {"id": pl.Int64, "email": pl.String, "born": pl.Int64})


def test_no_value_of_a_pii_column_is_in_the_events_or_in_the_data_docs(open_shop: Any) -> None:
    columns = [
        {"name": "id", "type": "integer", "description": "Number"},
        {"name": "email", "type": "string", "pii": True, "description": "Who"},
        {"name": "born", "type": "integer", "pii": True, "minimum": 19400101, "description": "Day of birth"},
    ]
    rules = [
        {"expectation": "expect_column_values_to_match_regex", "arguments": {"column": "email", "regex": "^[a-z]+$"}},
        {"expectation": "expect_column_max_to_be_between", "arguments": {"column": "born", "max_value": 19500101}},
    ]
    people = declared(
        loader=f"{__name__}:load_people", keys=["email"], contract={"columns": columns, "expectations": rules}
    )
    shop = open_shop(people)
    shop.land("2013-01", "id,email,born\n1,alice@example.org,19310417\n2,alice@example.org,19830526\n")
    result = shop.materialize("2013-01")
    shop.land("2013-02", "id,email,born\n1,alice@example.org,nineteen\n")
    unread = shop.materialize("2013-02")
    docs = [page.read_text() for page in Path(shop.resource.reports_root).rglob("*.html")]
    events = [entry.to_json() for run in (result, unread) for entry in shop.instance.all_logs(run.run_id)]

    assert shop.checks(result)["expectations"] is False
    assert shop.checks(unread)["schema"] is False
    assert docs
    assert events
    # Eight digits: a shorter number may be a part of a time or a process id.
    for shown in ("alice", "19310417", "19830526", "nineteen"):
        assert [text for text in (*docs, *events) if shown in text] == []
    assert any("•••" in text for text in docs)
    assert any("email" in text for text in events)


def test_broken_rule_of_severity_warning_is_reported_and_publishes(open_shop: Any) -> None:
    lenient = {
        "expectation": "expect_column_max_to_be_between",
        "arguments": {"column": "hour", "max_value": 4},
        "severity": "warning",
    }
    contract = declared().contract.model_dump() | {"expectations": [lenient]}
    shop = open_shop(declared(contract=contract))
    shop.land("2013-01", "id,hour\n1,5\n")
    result = shop.materialize("2013-01")

    (warned,) = [each for each in result.get_asset_check_evaluations() if each.check_name == "expectations"]
    assert result.success
    assert (warned.passed, warned.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert shop.lake.partitions("datasets/orders") == ["2013-01"]


def test_asset_has_description_owner_kinds_and_columns(open_shop: Any) -> None:
    shop = open_shop(declared(code_version="7"))
    spec = next(iter(shop.definitions.resolve_asset_graph().asset_nodes))
    (asset,) = shop.definitions.assets
    columns = asset.metadata_by_key[KEY]["dagster/column_schema"].columns

    assert (spec.description, spec.group_name, list(spec.owners)) == ("One row per order", "shop", ["team:shop"])
    assert spec.tags["domain"] == "shop"
    assert spec.kinds == {"polars", "deltalake"}
    assert spec.code_version == "7"

    assert [(column.name, column.type, column.description) for column in columns] == [
        ("id", "integer", "Number"),
        ("hour", "integer", "Hour [h]"),
    ]
    assert columns[0].constraints.unique
    assert {check.name: check.blocking for check in asset.check_specs} == {
        "landed": True,
        "schema": True,
        "expectations": True,
        "quality": False,
    }


def test_code_version_changes_with_keys_and_contract(open_shop: Any) -> None:
    def version(**changed: Any) -> str:
        (node,) = open_shop(declared(**changed)).definitions.resolve_asset_graph().asset_nodes
        return str(node.code_version)

    hour = {"name": "hour", "type": "integer", "description": "Hour"}
    contract = {"columns": [{"name": "id", "type": "integer", "description": "Number"}, hour]}
    assert len({version(), version(keys=["hour"]), version(contract=contract)}) == 3
    assert version(contract=contract) == version(contract=contract)


def test_loader_receives_its_lookup_tables(open_shop: Any) -> None:
    number = {"name": "id", "type": "integer", "description": "Number"}
    price = {"name": "price", "type": "float", "description": "Price"}
    prices = declared(
        name="prices", loader=f"{__name__}:load_prices", partitions=None, contract={"columns": [number, price]}
    )
    orders = declared(
        loader=f"{__name__}:load_priced", lookups=["prices"], partitions=None, contract={"columns": [number, price]}
    )
    shop = open_shop(orders, prices)
    shop.land(None, "id,price\n1,2.5\n2,3\n", "prices")
    shop.land(None, "id\n2\n")
    assert shop.materialize(None).success

    assert shop.lake.scan("datasets/orders").collect().rows() == [(2, 3.0)]
    assert shop.definitions.resolve_asset_graph().get(KEY).parent_keys == {dg.AssetKey(["datasets", "prices"])}


def test_months_past_retention_are_removed_from_the_table(open_shop: Any) -> None:
    shop = open_shop(declared(retention_months=2))
    for month in ("2013-01", "2013-02", "2013-03"):
        shop.land(month, "id,hour\n1,5\n")
        shop.materialize(month)

    assert shop.lake.partitions("datasets/orders") == ["2013-02", "2013-03"]


def test_arrival_of_a_table_without_time_is_refused() -> None:
    with pytest.raises(DeclarationError, match="attribute 'arrival': expected partitions with a time, found none"):
        declared(partitions=None, arrival={"every": "hour"}).build_defs(None)  # type: ignore[arg-type]


def test_hourly_arrival_in_a_zone_without_whole_hours_is_refused() -> None:
    partitions = {"start": "2013-01", "time_zone": "Australia/Lord_Howe"}
    with pytest.raises(DeclarationError, match=r"attribute 'arrival.every'.*let the data arrive by day"):
        declared(partitions=partitions, arrival={"every": "hour"}).build_defs(None)  # type: ignore[arg-type]


def test_event_outside_its_month_is_rejected(open_shop: Any) -> None:
    contract = {
        "columns": [
            {"name": "id", "type": "integer", "description": "Number"},
            {"name": "at", "type": "timestamp", "description": "When"},
        ]
    }
    shop = open_shop(declared(loader=f"{__name__}:load_timed", event_time="at", contract=contract))
    # Midnight in New York is 05:00 UTC.
    shop.land("2013-01", "id,at\n1,2013-01-01T05:00:00Z\n2,2013-02-01T05:00:00Z\n")
    result = shop.materialize("2013-01")

    (broken,) = [each for each in result.get_asset_check_evaluations() if not each.passed]
    (row,) = broken.metadata["violations"].records
    assert [example["row"] for example in json.loads(row.data["examples"])] == [2]


def load_timed(path: Path) -> pl.DataFrame:
    return read_csv(path, {"id": pl.Int64, "at": pl.Datetime("us", "UTC")})


def test_sensor_requests_new_months_as_ranges_once_and_a_changed_month_again(open_shop: Any) -> None:
    shop = open_shop()
    for month in ("2013-01", "2013-02", "2013-04"):
        shop.land(month, "id,hour\n1,5\n")
    first = shop.sensor()
    second = shop.sensor(first.cursor)
    shop.land("2013-02", "id,hour\n1,6\n")
    third = shop.sensor(first.cursor)

    spans = [
        (request.tags["dagster/asset_partition_range_start"], request.tags["dagster/asset_partition_range_end"])
        for request in first.run_requests
    ]
    assert spans == [("2013-01", "2013-02"), ("2013-04", "2013-04")]
    assert "Nothing new: 3 landed files of 'orders'" in second.skip_message
    assert [request.tags["dagster/asset_partition_range_start"] for request in third.run_requests] == ["2013-02"]
    assert third.run_requests[0].run_key not in {request.run_key for request in first.run_requests}


def test_request_is_made_again_when_dagster_lost_the_tick_that_made_it(open_shop: Any) -> None:
    shop = open_shop()
    shop.land("2013-01", "id,hour\n1,5\n")
    lost = shop.sensor()
    again = shop.sensor()

    assert [each.run_key for each in again.run_requests] == [each.run_key for each in lost.run_requests]


def test_strays_are_named_and_good_months_are_requested(open_shop: Any) -> None:
    shop = open_shop()
    for month in ("2013-01", "2013-02"):
        shop.land(month, "id,hour\n1,5\n")
    folder = shop.landing.root / "orders"
    for name in ("2013-03.csv.part", "2013-01.csv.md5", "README.md", "1999-01.csv"):
        (folder / name).write_text("x")
    (folder / "2013-02.csv.gz").write_text("a second file of February")
    first = shop.sensor()
    skipped = shop.sensor(first.cursor).skip_message

    assert [each.tags["dagster/asset_partition_range_start"] for each in first.run_requests] == ["2013-01"]
    assert "no declared partition has this name: '1999-01.csv', '2013-01.csv.md5', '2013-03.csv.part', 'README.md'" in (
        skipped
    )
    assert "several files claim partition 2013-02: '2013-02.csv', '2013-02.csv.gz'" in skipped
    assert shop.materialize("2013-01").success


def test_unchanged_files_are_not_read_again(open_shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = open_shop()
    read: list[str] = []

    def counted_sha256(path: Path) -> str:
        read.append(path.name)
        return file_digest(path)

    monkeypatch.setattr(landing_index, "file_digest", counted_sha256)
    for month in ("2013-01", "2013-02"):
        shop.land(month, "id,hour\n1,5\n")
        # An age at which the modification time is trusted.
        os.utime(shop.landing.root / "orders" / f"{month}.csv", (1e9, 1e9))
    cursor = shop.sensor().cursor
    shop.sensor(cursor)
    shop.land("2013-02", "id,hour\n1,6\n")
    third = shop.sensor(cursor)

    assert read == ["2013-01.csv", "2013-02.csv", "2013-02.csv"]
    assert len(third.run_requests) == 1


def test_sensor_skips_when_nothing_has_landed(open_shop: Any) -> None:
    for dataset in (declared(), declared(partitions=None)):
        assert "othing" in open_shop(dataset).sensor().skip_message


def test_sensor_waits_for_the_lookups_of_its_loader(open_shop: Any) -> None:
    shop = open_shop(declared(lookups=["shops"]))
    shop.land("2013-01", "id,hour\n1,5\n")
    pending = shop.sensor()
    shop.lake.write("datasets/shops", pl.DataFrame({"id": [1]}), None)

    assert "'orders' waits for its lookups: shops not yet materialized" in pending.skip_message
    assert len(shop.sensor().run_requests) == 1


def test_sensor_does_not_request_manually_materialized_months(open_shop: Any) -> None:
    shop = open_shop()
    shop.land("2013-01", "id,hour\n1,5\n")
    shop.land("2013-02", "id,hour\n1,5\n")
    shop.materialize("2013-01")

    (request,) = shop.sensor().run_requests
    assert request.tags["dagster/asset_partition_range_start"] == "2013-02"


def test_requested_run_materializes_its_months(open_shop: Any) -> None:
    shop = open_shop()
    shop.land("2013-01", "id,hour\n1,5\n")
    (request,) = shop.sensor().run_requests
    span = [request.tags[f"dagster/asset_partition_range_{end}"] for end in ("start", "end")]

    assert shop.materialize(*span).success
    assert shop.lake.partitions("datasets/orders") == ["2013-01"]


def test_month_beside_a_broken_one_is_requested_again_and_the_broken_one_is_named(
    open_shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run reads both months and publishes neither, because February breaks the contract."""
    monkeypatch.setattr(read_attempts, "FIRST_WAIT_SECONDS", 0)
    shop = open_shop()
    shop.land("2013-01", "id,hour\n1,5\n")
    shop.land("2013-02", "id,hour\n1,99\n")
    first = shop.sensor()
    assert not shop.materialize("2013-01", "2013-02").success
    second = shop.sensor(first.cursor)
    shop.materialize("2013-01")
    third = shop.sensor(second.cursor)

    (request,) = second.run_requests
    assert request.tags["dagster/asset_partition_range_start"] == request.tags["dagster/asset_partition_range_end"]
    assert request.tags["dagster/asset_partition_range_start"] == "2013-01"
    assert request.run_key.endswith("|again orders/2")
    assert "Not in the table: '2013-02' (check 'expectations' failed)." in third.skip_message


def test_run_in_progress_is_not_requested_twice(open_shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_attempts, "FIRST_WAIT_SECONDS", 0)
    shop = open_shop()
    shop.land("2013-01", "id,hour\n1,5\n")
    first = shop.sensor()
    tags = dict(first.run_requests[0].tags)
    run = shop.instance.create_run_for_job(dg.job(name="reads")(lambda: None), tags=tags)
    running = shop.sensor(first.cursor)
    shop.instance.report_run_failed(run)
    failed = shop.sensor(first.cursor)

    assert "its run has not ended" in running.skip_message
    assert [each.tags["dagster/asset_partition_range_start"] for each in failed.run_requests] == ["2013-01"]


@pytest.mark.parametrize(("on_critical", "published"), [("block", 3), ("continue", 4)])
def test_critical_finding_blocks_or_continues_as_declared(open_shop: Any, on_critical: str, published: int) -> None:
    shop = open_shop(declared(quality={"minimum_partitions": 3, "partitions": 3, "on_critical": on_critical}))
    for month in (1, 2, 3):
        shop.land(f"2013-{month:02d}", "id,hour\n" + "".join(f"{row},{row % 24}\n" for row in range(200)))
    shop.materialize("2013-01", "2013-03")
    shop.land("2013-04", "id,hour\n" + "".join(f"{row},{row % 24}\n" for row in range(20)))
    result = shop.materialize("2013-04")

    (check,) = [each for each in result.get_asset_check_evaluations() if each.check_name == "quality"]
    (finding,) = [each.data for each in check.metadata["findings"].records if each.data["severity"] == "critical"]
    assert (check.passed, check.severity, check.blocking) == (
        False,
        dg.AssetCheckSeverity.ERROR,
        on_critical == "block",
    )
    assert finding["subject"] == "Dataset 'orders', partition 2013-04"
    assert (finding["kind"], finding["since"]) == ("volume", "2013-04")
    assert finding["what"] == "20 rows, usual are 200: fewer by 9.57 times"
    assert result.success == (on_critical == "continue")
    assert len(shop.lake.partitions("datasets/orders")) == published
    if result.success:
        (event,) = result.asset_materializations_for_node("datasets__orders")
        rows = [each.data for each in event.metadata["quality_measures"].records]
        assert event.metadata["quality"].value == "critical"
        assert (rows[0]["measure"], rows[0]["value"], rows[0]["severity"]) == ("volume", 20, "critical")


def test_accepted_partition_outside_of_the_scheme_is_refused() -> None:
    with pytest.raises(DeclarationError, match=r"attribute 'quality.accepted': expected months from 2013-01"):
        declared(quality={"accepted": {"2014-01": "No."}}).build_defs(None)  # type: ignore[arg-type]


def test_declared_freshness_is_the_policy_of_dagster(open_shop: Any) -> None:
    (asset,) = open_shop(declared(freshness={"fail_after": "2d", "warn_after": "26h"})).definitions.assets
    (spec,) = asset.specs
    assert spec.freshness_policy == dg.FreshnessPolicy.time_window(timedelta(days=2), timedelta(hours=26))
    (spec,) = open_shop(declared()).definitions.assets[0].specs
    assert spec.freshness_policy is None
    with pytest.raises(ValidationError, match="warn_after below fail_after, found 3d and 2d"):
        declared(freshness={"fail_after": "2d", "warn_after": "3d"})
