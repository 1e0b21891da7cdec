"""A declared view is an asset that shows what it holds, and materializes into a log and a snapshot."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from ml_platform.components.feature_view import FeatureView
from ml_platform.data.lake import Lake
from ml_platform.data.partitions import MonthlyPartitions
from ml_platform.features.change_log import read
from ml_platform.features.materialize import materialize, months_seen
from ml_platform.features.snapshot import SnapshotStore

MONTHS = MonthlyPartitions(start="2013-01", end="2013-06", time_zone="UTC")


def departures(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Tell each departure when it happens."""
    return sources["flights"].select("origin", known_at="left", delay="delay")


def declared(**changes: object) -> FeatureView:
    return FeatureView.model_validate(
        {
            "name": "departures",
            "description": "Each departure",
            "owner": "team:aviation",
            "entity": ["origin"],
            "features": [
                {"name": "delay", "description": "Minutes late", "unit": "minutes", "derived_from": ["flights.delay"]}
            ],
            "sources": [{"dataset": "flights", "beforehand": ["origin"], "revealed": {"left": ["left", "delay"]}}],
            "function": f"{__name__}:departures",
            "lookback_days": 10,
            **changes,
        }
    )


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(str(tmp_path / "lake"))
    for month in (1, 2, 3):
        start = datetime(2013, month, 1, tzinfo=UTC)
        left = [start + timedelta(days=day) for day in (0, 14, 27)]
        frame = pl.DataFrame({"origin": ["JFK"] * 3, "left": left, "delay": [month + day / 10 for day in range(3)]})
        lake.write("datasets/flights", frame, f"2013-{month:02}")
    return lake


def test_asset_shows_columns_lineage_owner_and_code_version() -> None:
    asset = declared()._change_log(MONTHS)
    spec = asset.get_asset_spec()
    (origin, known_at, delay) = spec.metadata["dagster/column_schema"].columns
    assert (origin.name, known_at.name, delay.name) == ("origin", "known_at", "delay")
    assert delay.description == "Minutes late [minutes]"
    lineage = spec.metadata["dagster/column_lineage"].deps_by_column["delay"]
    assert lineage == [dg.TableColumnDep(dg.AssetKey(["datasets", "flights"]), "delay")]
    assert spec.owners == ["team:aviation"]
    assert spec.code_version == declared().settings().code_version
    assert asset.backfill_policy == dg.BackfillPolicy.single_run()


def test_asset_depends_on_the_months_of_its_lookback() -> None:
    (dep,) = declared()._change_log(MONTHS).get_asset_spec().deps
    assert dep.partition_mapping.start_offset == -1
    assert months_seen(declared().settings(), "2013-03", MONTHS) == ["2013-02", "2013-03"]
    assert months_seen(declared(lookback_days=0).settings(), "2013-03", MONTHS) == ["2013-03"]


def test_request_view_is_an_asset_without_months() -> None:
    view = declared(
        kind="request", entity=[], sources=[], lookback_days=0, features=[{"name": "x", "description": "…"}]
    )
    asset = view._request()
    assert asset.partitions_def is None
    assert asset.key == dg.AssetKey(["features", "departures"])


def test_months_in_one_run_hold_what_single_runs_hold(lake, tmp_path) -> None:
    view, months = declared().settings(), ["2013-01", "2013-02", "2013-03"]
    materialize(view, lake, SnapshotStore(tmp_path / "online"), months, MONTHS)
    together = read(view, lake).collect().sort("known_at")
    other = view.model_copy(update={"code_version": "2"})
    for month in months:
        materialize(other, lake, SnapshotStore(tmp_path / "online"), [month], MONTHS)
    assert together.equals(read(other, lake).collect().sort("known_at"))
    assert together["delay"].to_list() == pytest.approx([1.0, 1.1, 1.2, 2.0, 2.1, 2.2, 3.0, 3.1, 3.2])


def test_backfill_of_an_old_month_does_not_take_the_snapshot_back(lake, tmp_path) -> None:
    view, store = declared().settings(), SnapshotStore(tmp_path / "online", refresh_seconds=0)
    materialize(view, lake, store, ["2013-01", "2013-02", "2013-03"], MONTHS)
    built, publication = materialize(view, lake, store, ["2013-01"], MONTHS)
    assert built[0].partition == "2013-01"
    assert publication.watermark == datetime(2013, 4, 1, tzinfo=UTC)
    assert store.lookup([view], {"origin": ["JFK"]}, 1).values[0, 0] == pytest.approx(3.2)
