"""The history of a dataset follows its contract in one version; a lossy change is refused, old files stay readable."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable

from ml_platform.data.contract import ColumnRule, Contract, ContractViolatedError
from ml_platform.data.contract_record import broken_contracts
from ml_platform.data.dataset import DatasetSource, load_and_publish
from ml_platform.data.evolution import EvolutionError, EvolutionRequest
from ml_platform.data.evolution_record import earlier_files, record_reported
from ml_platform.data.lake import Lake, LakeError
from ml_platform.data.landing import Landing
from ml_platform.data.landing_index import LandingIndex
from ml_platform.data.partitions import PartitionScheme
from ml_platform.data.reading import read_csv
from ml_platform.registry.audit import AuditLog
from ml_platform.steps.evolution import DATASET_EVOLVED, evolution_of_dataset
from ml_platform.steps.lifecycle import LifecycleDecision, LifecycleStep

REPOSITORY = Path(__file__).parents[2]
TABLE = "datasets/orders"
DECISION = LifecycleDecision("ada", "renamed upstream", datetime(2024, 5, 1, tzinfo=UTC))
MONTHS = PartitionScheme.model_validate({"start": "2013-01", "end": "2013-12", "time_zone": "UTC"})
BEFORE = {"id": "integer", "dist": "integer", "day": "date", "note": "string"}
AFTER = {"id": "integer", "distance": "float", "day": "timestamp", "vip": "boolean", "weight": "float"}
REQUEST = EvolutionRequest({"dist": "distance"}, {"vip": "false"}, ["note"])
PARSED = {"integer": pl.Int64, "float": pl.Float64, "date": pl.Date, "string": pl.String, "boolean": pl.Boolean}


def source_with(types: Mapping[str, str], nullable: tuple[str, ...] = ("note", "weight")) -> DatasetSource:
    """Return a dataset with columns of these types, and a loader that reads them from CSV with dates as timestamps."""
    rules: list[dict[str, Any]] = [
        {"name": name, "type": type_, "description": name, "nullable": name in nullable}
        for name, type_ in types.items()
    ]
    parsed = {name: PARSED.get(type_, pl.Date) for name, type_ in types.items()}

    def loader(path: Path) -> pl.DataFrame:
        rows = read_csv(path, parsed)
        days = [name for name, type_ in types.items() if type_ == "timestamp"]
        return rows.with_columns(pl.col(days).cast(pl.Datetime("us", "UTC")))

    contract = Contract(columns=[ColumnRule.model_validate(rule) for rule in rules])
    return DatasetSource("orders", loader, contract, keys=["id"], partitions=MONTHS)


class History:
    """A landing zone and a lake with two published months of the columns ``BEFORE``."""

    def __init__(self, root: Path) -> None:
        self.root, self.landing, self.lake = root, Landing(root / "landing"), Lake.standalone(root / "lake")
        self.audit = AuditLog(self.lake.state)
        for month, first in (("2013-01", 1), ("2013-02", 3)):
            self.land(month, f"id,dist,day,note\n{first},7,{month}-01,a\n{first + 1},9,{month}-02,\n")
        self.publish(source_with(BEFORE), "2013-01", "2013-02")

    def land(self, month: str, text: str) -> None:
        self.landing.land_bytes("orders", month, text.encode(), "csv")

    def publish(self, source: DatasetSource, *months: str) -> None:
        evolved = replace(source, earlier=earlier_files(self.lake.state, "orders"))
        load_and_publish(evolved, list(months), self.landing, self.lake)

    def steps(
        self, types: Mapping[str, str] = AFTER, request: EvolutionRequest = REQUEST, *, check: bool = False
    ) -> list[LifecycleStep]:
        def report() -> None:
            record_reported(self.lake.state, "orders")

        return evolution_of_dataset(source_with(types), request, self.lake, self.audit, DECISION, report, check=check)

    def evolve(self) -> None:
        for step in self.steps():
            step.run()

    def rows(self, version: int | None = None) -> pl.DataFrame:
        return self.lake.scan(TABLE, version).collect().sort("id")

    def files(self) -> dict[str, bytes]:
        return {
            str(path): path.read_bytes()
            for path in self.root.rglob("*")
            if path.is_file() and not path.name.endswith(("-shm", "-wal"))
        }


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path)


MIGRATED = [
    (1, 7.0, datetime(2013, 1, 1, tzinfo=UTC), False, None, "2013-01"),
    (2, 9.0, datetime(2013, 1, 2, tzinfo=UTC), False, None, "2013-01"),
    (3, 7.0, datetime(2013, 2, 1, tzinfo=UTC), False, None, "2013-02"),
    (4, 9.0, datetime(2013, 2, 2, tzinfo=UTC), False, None, "2013-02"),
]


def test_history_gets_all_changes_in_one_version_and_earlier_versions_stay(history: History) -> None:
    before = history.rows()
    version = history.lake.version(TABLE)
    assert version is not None
    history.evolve()

    assert history.rows().rows() == MIGRATED
    assert history.rows().columns == [*AFTER, "partition"]
    assert history.lake.version(TABLE) == version + 1
    assert history.rows(version).equals(before)
    assert history.lake.scan(TABLE, version, ["2013-02"]).collect().columns == [*BEFORE, "partition"]
    (record,) = history.audit.records(DATASET_EVOLVED)
    assert (record.actor, record.facts["dataset"], record.facts["reason"]) == ("ada", "orders", "renamed upstream")
    assert "rename column 'dist' to 'distance'" in record.facts["changes"]
    assert history.steps() == []


def test_delta_table_has_the_new_columns_and_its_earlier_version_the_old_ones(history: History) -> None:
    history.evolve()

    delta = DeltaTable(f"{history.lake.root}/{TABLE}")
    latest = delta.version()
    assert sorted(pl.DataFrame(delta.to_pyarrow_table())["distance"].to_list()) == [7.0, 7.0, 9.0, 9.0]
    assert history.lake.shows_current_version(TABLE)
    delta.load_as_version(latest - 1)
    assert sorted(pl.DataFrame(delta.to_pyarrow_table())["dist"].to_list()) == [7, 7, 9, 9]


def test_changed_rows_still_have_passed_their_contract_and_broken_ones_have_not(history: History) -> None:
    history.lake.write(TABLE, history.rows().filter(pl.col("id") == 4).drop("partition"), "2013-02")
    history.evolve()

    (broken,) = broken_contracts(history.lake, ["orders"])
    assert broken.startswith("orders 2013-02: contains rows")


def test_dry_run_checks_all_rows_and_changes_no_file(history: History) -> None:
    before = history.files()
    (change, report) = history.steps(check=True)

    assert change.text == (
        "rename column 'dist' to 'distance'; widen column 'distance' from Int64 to Float64; "
        "widen column 'day' from Date to Datetime(time_unit='us', time_zone='UTC'); "
        "add column 'vip' with the value 'false'; add column 'weight' with null; drop column 'note': "
        "in 4 rows of 'datasets/orders', 2 partitions, as version 2; earlier versions stay"
    )
    assert report.text == "report the rows of 'datasets/orders' to Dagster"
    assert history.files() == before


def test_next_month_with_the_new_columns_is_published_beside_the_changed_ones(history: History) -> None:
    history.land("2013-03", "id,distance,day,vip,weight\n5,1.5,2013-03-01,true,2.5\n")
    with pytest.raises(LakeError, match="ml-platform dataset evolve"):
        history.publish(source_with(AFTER), "2013-03")
    history.evolve()
    history.publish(source_with(AFTER), "2013-03")

    added = (5, 1.5, datetime(2013, 3, 1, tzinfo=UTC), True, 2.5, "2013-03")
    assert history.rows().rows() == [*MIGRATED, added]


def test_file_that_landed_before_the_change_is_read_again_with_the_same_rows(history: History) -> None:
    history.evolve()
    version = history.lake.version(TABLE)
    # The loader reads the new columns; the file still has the old header.
    history.publish(source_with(AFTER), "2013-01")

    assert history.rows().rows() == MIGRATED
    assert history.lake.version(TABLE) == version  # equal rows make no new version


def test_file_that_landed_but_was_not_read_before_the_change_is_read_too(history: History) -> None:
    history.land("2013-03", "id,dist,day,note\n5,4,2013-03-01,z\n")
    LandingIndex(history.landing, history.lake.state).refresh("orders", MONTHS.contains, confirmed_tick=0)
    history.evolve()
    history.publish(source_with(AFTER), "2013-03")

    assert history.rows().row(4) == (5, 4.0, datetime(2013, 3, 1, tzinfo=UTC), False, None, "2013-03")


def test_file_with_the_old_names_that_lands_after_the_change_is_refused_with_the_new_name(history: History) -> None:
    history.evolve()
    history.land("2013-03", "id,dist,day,note\n5,4,2013-03-01,z\n")

    with pytest.raises(ContractViolatedError, match=r"Column 'dist' is 'distance' since .*; files that land later"):
        history.publish(source_with(AFTER), "2013-03")
    assert history.rows().height == 4


def test_two_changes_one_after_the_other_apply_to_the_first_files(history: History) -> None:
    history.evolve()
    last = {"id": "integer", "kilometres": "float", "day": "timestamp", "member": "boolean", "weight": "float"}
    for step in history.steps(last, EvolutionRequest({"distance": "kilometres", "vip": "member"})):
        step.run()
    version = history.lake.version(TABLE)
    history.publish(source_with(last), "2013-01")

    assert history.rows().columns == [*last, "partition"]
    assert history.rows().rows() == MIGRATED
    assert history.lake.version(TABLE) == version


@pytest.mark.parametrize(
    ("types", "request_", "message"),
    [
        (AFTER, EvolutionRequest({}, {"vip": "false"}), "'dist', 'note' without.*--rename dist=distance"),
        (AFTER, EvolutionRequest({"dist": "distance"}, {}, ["note"]), r"column 'vip'.*Add `--fill vip=VALUE`"),
        (AFTER, replace(REQUEST, fills={"vip": "perhaps"}), "--fill vip=perhaps: expected a value of type boolean"),
        (AFTER, replace(REQUEST, fills={"vip": "false", "vib": "x"}), "--fill vib=.*Did you mean 'vip'"),
        (AFTER, replace(REQUEST, dropped=["note", "day"]), "--drop day: expected a column that the contract lacks"),
        (AFTER, replace(REQUEST, renamed={"dust": "distance"}), "no stored column 'dust'.*Did you mean 'dist'"),
        (BEFORE | {"note": "integer"}, EvolutionRequest(), r"column 'note'.*integer in the contract, which may lose"),
        (BEFORE | {"day": "integer"}, EvolutionRequest(), "column 'day'.*found integer in the contract"),
    ],
)
def test_change_that_a_person_has_to_name_or_that_loses_data_is_refused(
    history: History, types: Mapping[str, str], request_: EvolutionRequest, message: str
) -> None:
    with pytest.raises(EvolutionError, match=message):
        history.steps(types, request_)


def test_value_that_the_wider_type_cannot_hold_is_named_and_nothing_changes(history: History) -> None:
    large = pl.DataFrame({"id": [5], "dist": [2**53 + 1], "day": [datetime(2013, 3, 1).date()], "note": ["a"]})
    history.lake.write(TABLE, large, "2013-03")
    version, (change, _) = history.lake.version(TABLE), history.steps()

    with pytest.raises(EvolutionError, match=r"partition 2013-03, column 'distance'.*1 rows that would change"):
        change.run()
    with pytest.raises(EvolutionError, match="partition 2013-03, column 'distance'"):
        history.steps(check=True)
    assert history.lake.version(TABLE) == version
    assert history.rows().columns == [*BEFORE, "partition"]


def test_null_in_a_column_that_may_no_longer_be_null_is_named(history: History) -> None:
    strict = replace(source_with(BEFORE | {"extra": "string"}, nullable=("extra",)))
    (change, _) = evolution_of_dataset(strict, EvolutionRequest(), history.lake, history.audit, DECISION, lambda: None)
    with pytest.raises(EvolutionError, match=r"partition 2013-01: expected rows that meet the contract.*'note'"):
        change.run()
    assert history.audit.records(DATASET_EVOLVED) == []


class KillingAudit(AuditLog):
    """Kills its process instead of adding a record, which is in the middle of the transaction."""

    def append(self, *arguments: Any, **facts: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


def evolve_and_die(root: Path) -> None:
    lake = Lake.standalone(root / "lake")
    audit = KillingAudit(lake.state)
    evolution_of_dataset(source_with(AFTER), REQUEST, lake, audit, DECISION, lambda: None)[0].run()


def test_killed_change_has_changed_nothing_and_the_next_one_completes(history: History) -> None:
    before = history.rows()
    program = (
        f"from pathlib import Path; from {__name__} import evolve_and_die; evolve_and_die(Path({str(history.root)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=False)

    assert done.returncode == -signal.SIGKILL
    assert history.rows().equals(before)
    assert history.audit.records(DATASET_EVOLVED) == []
    history.evolve()
    assert history.rows().rows() == MIGRATED


def test_change_that_ended_before_its_report_is_reported_by_the_next_command(history: History) -> None:
    history.steps()[0].run()
    (report,) = history.steps()
    report.run()

    assert history.steps() == []
    assert len(history.audit.records(DATASET_EVOLVED)) == 1
