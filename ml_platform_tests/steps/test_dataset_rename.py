"""A renamed dataset keeps its rows, records and landed files; a rename that was killed does the rest when run again."""

import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from ml_platform.data.contract_record import broken_contracts, published_files
from ml_platform.data.lake import Lake
from ml_platform.data.landing import Landing
from ml_platform.data.landing_index import LandingIndex
from ml_platform.data.source_record import record_read, recorded_reads
from ml_platform.registry.audit import AuditLog
from ml_platform.steps.dataset_rename import DATASET_RENAMED, record_rename_reported, rename_of_dataset
from ml_platform.steps.lifecycle import LifecycleDecision, LifecycleError, LifecycleStep
from ml_platform.steps.orphans import DeclaredNames, orphans
from ml_platform_tests.steps.test_evolution import BEFORE, MONTHS, REPOSITORY, History, KillingAudit, source_with

DECISION = LifecycleDecision("ada", "clearer name", datetime(2024, 5, 1, tzinfo=UTC))
DECLARED = DeclaredNames({"sales"}, frozenset(), frozenset())


class Shop(History):
    """Two published months of orders whose declaration is called sales now."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.index("orders")
        record_read(self.lake.state, "orders", "2013-01", "state 1 of the source")

    def index(self, dataset: str) -> list[str]:
        """Return the partitions that the landing sensor of ``dataset`` would request."""
        found = LandingIndex(self.landing, self.lake.state).refresh(dataset, MONTHS.contains, confirmed_tick=0)
        return [each.name for each in found.due]

    def rename_steps(
        self, old: str = "orders", new: str = "sales", declared: DeclaredNames = DECLARED
    ) -> list[LifecycleStep]:
        def report() -> None:
            record_rename_reported(self.lake.state, new)

        return rename_of_dataset(old, new, self.lake, self.landing, self.audit, DECISION, declared, report)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def require_renamed(shop: Shop, before: pl.DataFrame, version: int | None) -> None:
    assert shop.lake.scan("datasets/sales").collect().sort("id").equals(before)
    assert shop.lake.scan("datasets/orders", version).collect().sort("id").equals(before)  # a model may pin it
    assert broken_contracts(shop.lake, ["sales"]) == []
    assert set(published_files(shop.lake.state, "sales")) == {"2013-01", "2013-02"}
    assert published_files(shop.lake.state, "orders") == {}
    assert recorded_reads(shop.lake.state, "sales")["2013-01"]["fingerprint"] == "state 1 of the source"
    assert shop.landing.partitions("sales") == ["2013-01", "2013-02"]
    assert shop.landing.datasets() == ["sales"]
    assert shop.index("sales") == []  # nothing is read again
    assert orphans(shop.lake.state, DECLARED) == []
    assert shop.lake.shows_current_version("datasets/sales")
    assert shop.lake.shows_current_version("datasets/orders")
    (record,) = AuditLog(shop.lake.state).records(DATASET_RENAMED)
    assert (record.facts["dataset"], record.facts["renamed_from"]) == ("sales", "orders")
    assert shop.rename_steps() == []


def test_rows_records_and_files_have_the_new_name(shop: Shop) -> None:
    before, version = shop.rows(), shop.lake.version("datasets/orders")
    for step in shop.rename_steps():
        step.run()

    require_renamed(shop, before, version)
    shop.landing.land_bytes("sales", "2013-03", b"id,dist,day,note\n5,4,2013-03-01,z\n", "csv")
    assert shop.index("sales") == ["2013-03.csv"]
    shop.publish(replace(source_with(BEFORE), name="sales"), "2013-03")
    assert shop.lake.partitions("datasets/sales") == ["2013-01", "2013-02", "2013-03"]


@pytest.mark.parametrize("completed", [1, 2])
def test_rename_that_stopped_after_a_step_does_the_rest(shop: Shop, completed: int) -> None:
    before, version = shop.rows(), shop.lake.version("datasets/orders")
    for step in shop.rename_steps()[:completed]:
        step.run()
    rest = shop.rename_steps()
    assert len(rest) == 3 - completed
    for step in rest:
        step.run()

    require_renamed(shop, before, version)


def rename_and_die(root: Path) -> None:
    lake = Lake.standalone(root / "lake")
    audit, landing = KillingAudit(lake.state), Landing(root / "landing")
    rename_of_dataset("orders", "sales", lake, landing, audit, DECISION, DECLARED, lambda: None)[0].run()


def test_rename_killed_inside_its_transaction_has_changed_nothing_and_the_next_one_completes(shop: Shop) -> None:
    before, version = shop.rows(), shop.lake.version("datasets/orders")
    program = (
        f"from pathlib import Path; from {__name__} import rename_and_die; rename_and_die(Path({str(shop.root)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=False)

    assert done.returncode == -signal.SIGKILL
    assert shop.rows().equals(before)
    assert not shop.lake.exists("datasets/sales")
    assert set(published_files(shop.lake.state, "orders")) == {"2013-01", "2013-02"}
    assert shop.landing.datasets() == ["orders"]
    assert shop.audit.verify() == 0
    for step in shop.rename_steps():
        step.run()
    require_renamed(shop, before, version)


def test_dry_run_changes_no_file(shop: Shop) -> None:
    before = shop.files()
    (move, folder, report) = shop.rename_steps()

    assert move.text == (
        "move the 4 rows of 'datasets/orders' to 'datasets/sales', with the records of its files and checks; "
        "earlier versions stay under the old name"
    )
    assert folder.text == "move the landing folder 'orders' to 'sales'"
    assert report.text == "report the rows of 'datasets/sales' to Dagster"
    assert shop.files() == before


def test_dataset_can_be_renamed_back_and_forth(shop: Shop) -> None:
    before = shop.rows()
    for old, new in (("orders", "sales"), ("sales", "orders"), ("orders", "sales")):
        declared = DeclaredNames({new}, frozenset(), frozenset())
        for step in shop.rename_steps(old, new, declared):
            step.run()

    assert shop.lake.scan("datasets/sales").collect().sort("id").equals(before)
    assert shop.landing.datasets() == ["sales"]


@pytest.mark.parametrize(
    ("old", "new", "declared", "message"),
    [
        ("orders", "sales", {"orders", "sales"}, "'orders': expected an old name that no declaration has"),
        ("orders", "sale", {"sales"}, "'sale': expected a declaration of the new name"),
        ("order", "sales", {"sales"}, "'order': expected rows or landed files under the old name"),
        ("orders", "taken", {"taken"}, "'taken': expected no rows and no landed files .*found 1 rows and landed files"),
    ],
)
def test_rename_that_does_not_fit_is_refused(shop: Shop, old: str, new: str, declared: set[str], message: str) -> None:
    shop.lake.write("datasets/taken", pl.DataFrame({"id": [1]}), "2013-01")
    shop.landing.land_bytes("taken", "2013-01", b"id\n1\n", "csv")

    with pytest.raises(LifecycleError, match=message):
        shop.rename_steps(old, new, DeclaredNames(declared, frozenset(), frozenset()))
