"""Serving must read what training read, before a bento may serve: the stored training set, and the change logs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

import assets
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.data.arrival import Arrival
from ml_platform.data.lake import PARTITION, Lake
from ml_platform.features.key_types import KeyTypeError
from ml_platform.features.materialize import materialize
from ml_platform.features.online_store import Snapshot
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.registry.manifest import CodeInfo, HardwareInfo, Manifest
from ml_platform.serving.bento_sources import BentoError
from ml_platform.steps.candidates import build_training_sets
from ml_platform.steps.packaging import reference_rows
from ml_platform.steps.read_verification import require_published_reads, require_reads_of_training
from ml_platform_tests.components.delivery_model import DOMAIN, deliveries, delivery_model

MONTHS = ["2013-01", "2013-02"]
END = datetime(2013, 3, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Trained:
    """Two months of deliveries with their change log, snapshot and training set, and the files of a version."""

    model: ModelAssets
    lake: Lake
    store: SnapshotStore
    directory: Path

    @property
    def facts(self) -> str:
        return self.model.stored_views[0].table

    def pin(self) -> None:
        """Write the manifest and the contract of a version that read the current tables."""
        tables = {name: self.lake.version(name) or 0 for name in (self.model.table, self.facts)}
        (self.directory / "manifest.json").write_text(_manifest(tables).model_dump_json())
        (self.directory / "contract.json").write_text(self.model.contract.model_dump_json())

    def reads_of_training(self) -> int:
        return require_reads_of_training(self.model, self.directory, self.model.feature_set, self.lake, "Bento late:1")

    def published_reads(self) -> pl.DataFrame:
        rows = reference_rows(self.model, "2013-02", self.lake)
        return require_published_reads(rows, self.model.feature_set, self.store, self.lake, "Bento late:1")

    def rewrite(self, table: str, *changes: pl.Expr) -> None:
        """Write February of ``table`` again, with ``changes`` of its columns."""
        rows = self.lake.scan(table, partitions=["2013-02"]).drop(PARTITION).with_columns(*changes)
        self.lake.write(table, rows.collect(), "2013-02")


def _manifest(tables: dict[str, int]) -> Manifest:
    return Manifest(
        model="late",
        partition="2013-02",
        trainer="lightgbm",
        tables=tables,
        training_set="a" * 64,
        training_rows=1,
        code=CodeInfo(commit=None, dirty=True, sha256="b" * 64),
        lock=None,
        parameters={},
        seeds={},
        hardware=HardwareInfo(machine="x86_64 Linux", cpu_count=2, device="cpu"),
        data_clock=END.isoformat(),
        dagster_run_id="run",
        created_at=END.isoformat(),
    )


def train(root: Path, shop: pl.Expr | None = None, arrivals: Sequence[Arrival] = ()) -> Trained:
    """Return a trained version; ``shop`` changes the shop of each delivery, and ``arrivals`` are those of its view."""
    declared, lake = delivery_model(), Lake.standalone(root / "lake")
    shops = declared.views[0].model_copy(update={"arrivals": list(arrivals)})
    model = ModelAssets(declared.declared, [shops, *declared.views[1:]])
    for month in MONTHS:
        lake.write("datasets/deliveries", deliveries(month).with_columns(*([] if shop is None else [shop])), month)
    store = SnapshotStore(root / "online", refresh_seconds=0.0)
    materialize(model.stored_views[0], lake, store, list(MONTHS), model.declared.partitions)
    build_training_sets(model, MONTHS, lake)
    directory = root / "model"
    directory.mkdir()
    trained = Trained(model, lake, store, directory)
    trained.pin()
    return trained


@pytest.fixture(autouse=True)
def domain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "__path__", [*assets.__path__, str(DOMAIN)])


@pytest.fixture
def trained(tmp_path: Path) -> Trained:
    return train(tmp_path)


def test_serving_reads_the_facts_that_had_arrived_as_training_did(tmp_path: Path) -> None:
    daily = Arrival(every="day", delay="6h", dataset="deliveries", clock=["came_at"])
    trained = train(tmp_path, arrivals=[daily])
    assert trained.reads_of_training() == 3
    assert trained.published_reads().height == 50


def test_serving_reads_what_training_read(trained: Trained) -> None:
    assert trained.reads_of_training() == 3  # one delivery at each of the last three times
    read = trained.published_reads()
    assert read.columns == trained.model.feature_set.feature_names
    assert read.height == 50
    # The last delivery of each shop, which is the fact at the watermark.
    last = trained.lake.scan(trained.facts).collect().sort("known_at").group_by("shop").last()
    expected = dict(last.select("shop", "last_late").iter_rows())
    shops = reference_rows(trained.model, "2013-02", trained.lake)["shop"]
    assert read["shops__last_late"].to_list() == [expected[shop] for shop in shops]


def test_training_set_with_other_features_than_serving_reads_is_named(trained: Trained) -> None:
    trained.rewrite(trained.model.table, (pl.col("shops__last_late") - 1).abs())
    trained.pin()
    with pytest.raises(
        BentoError,
        match=r"Bento late:1: expected the features that training read for the last 3 rows of 2013-02, found 1 .*"
        r"\(first: shops__last_late in 3 rows, \d\.0 in training and \d\.0 in serving\)",
    ):
        trained.reads_of_training()


def test_facts_later_than_the_version_do_not_count_as_skew(trained: Trained) -> None:
    trained.rewrite(trained.facts, (pl.col("last_late") - 1).abs())
    assert trained.reads_of_training() == 3


def test_snapshot_that_differs_from_the_change_log_is_named(trained: Trained) -> None:
    trained.rewrite(trained.facts, (pl.col("last_late") - 1).abs())
    with pytest.raises(
        BentoError, match=r"expected published features of 50 rows that equal an offline read .*'shops__last_late'"
    ):
        trained.published_reads()


def test_snapshot_without_the_facts_of_training_is_named(trained: Trained) -> None:
    view = trained.model.stored_views[0]
    none = trained.lake.scan(view.table).drop(PARTITION).collect().clear()
    trained.store.publish(Snapshot(view, none, END + timedelta(days=1)))
    with pytest.raises(BentoError, match=r"shops__last_late in 50 rows, \d\.0 in training and None in serving"):
        trained.published_reads()


def test_numbers_in_requests_and_texts_in_facts_fail_in_both_verifications(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training found facts by a cast of 1 to "1"; every check passed, and the service answered with nulls."""
    trained = train(tmp_path, pl.col("shop").str.strip_prefix("s"))
    changed = delivery_model(
        request=[
            {"name": "shop", "type": "int"},
            {"name": "distance", "type": "float"},
            {"name": "ordered_at", "type": "datetime"},
        ]
    )
    rows = trained.lake.scan(trained.model.table).drop(PARTITION).with_columns(pl.col("shop").cast(pl.Int64)).collect()
    assert rows["shops__last_late"].null_count() == 8  # training found the facts
    monkeypatch.setattr(ModelAssets, "table", f"{trained.model.table}_of_numbers")
    trained.lake.write(changed.table, rows, "2013-02")
    bypassed = Trained(changed, trained.lake, trained.store, trained.directory)
    bypassed.pin()
    with pytest.raises(
        BentoError, match=r"reads of the last rows .*key 'shop': expected a key of the published type 'str'"
    ):
        bypassed.reads_of_training()
    with pytest.raises(KeyTypeError, match="key 'shop': expected a key of the published type 'str', found int"):
        bypassed.published_reads()
