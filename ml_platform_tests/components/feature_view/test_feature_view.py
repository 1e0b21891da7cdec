"""The component `FeatureView`: metadata of its asset, and materialization into a change log and a snapshot.

Faults of a view's function appear as metadata of the asset, or as a failed run whose error names view, entity and time.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from ml_platform.components.dataset.component import Dataset
from ml_platform.components.declaration import DeclarationError
from ml_platform.components.feature_view.change_log import change_log
from ml_platform.components.feature_view.component import FeatureView
from ml_platform.components.feature_view.request_view import request_view
from ml_platform.components.materializations import LINEAGE
from ml_platform.data.lake import Lake
from ml_platform.data.partitions import PartitionScheme
from ml_platform.features.change_log import read
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.materialize import materialize, source_partitions
from ml_platform.features.snapshot_store import SnapshotStore
from resources.home import Home
from resources.lake import LakeResource
from resources.online_store import OnlineStoreResource

MONTHS = PartitionScheme(start="2013-01", end="2013-06", time_zone="UTC")


def departures(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return one fact per departure, known at the departure."""
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
            "sources": [
                {"dataset": "flights", "known_upfront": ["origin"], "available_from": {"left": ["left", "delay"]}}
            ],
            "function": f"{__name__}:departures",
            "lookback_days": 10,
            **changes,
        }
    )


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = LakeResource.for_home(Home(tmp_path)).lake()
    for month in (1, 2, 3):
        start = datetime(2013, month, 1, tzinfo=UTC)
        left = [start + timedelta(days=day) for day in (0, 14, 27)]
        frame = pl.DataFrame({"origin": ["JFK"] * 3, "left": left, "delay": [month + day / 10 for day in range(3)]})
        lake.write("datasets/flights", frame, f"2013-{month:02}")
    return lake


def change_log_of(view: FeatureView) -> dg.AssetsDefinition:
    return change_log(view.settings(), MONTHS, view.shared_arguments(view.settings()))


def test_asset_shows_columns_lineage_owner_and_code_version() -> None:
    asset = change_log_of(declared())
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
    (dep,) = change_log_of(declared()).get_asset_spec().deps
    assert dep.partition_mapping.start_offset == -1  # type: ignore[union-attr]
    assert source_partitions(declared().settings(), "2013-03", MONTHS) == ["2013-02", "2013-03"]
    assert source_partitions(declared(lookback_days=0).settings(), "2013-03", MONTHS) == ["2013-03"]


def dataset(name: str, arrival: dict[str, str] | None) -> Dataset:
    return Dataset.model_validate(
        {
            "name": name,
            "description": "One row per departure",
            "loader": "m:f",
            "keys": ["origin"],
            "partitions": {"start": "2013-01", "time_zone": "America/New_York"},
            "arrival": arrival,
            "contract": {"columns": [{"name": "origin", "type": "string", "description": "Airport"}]},
            "owners": ["team:aviation"],
        }
    )


def test_view_has_the_arrivals_of_its_sources_in_their_time_zone() -> None:
    hourly = {"every": "hour", "delay": "15m"}
    datasets = {name: dataset(name, arrival) for name, arrival in [("a", hourly), ("b", None), ("c", hourly)]}
    sources = [{"dataset": name} for name in datasets]
    features = [{"name": "delay", "description": "Minutes late"}]
    view = declared(sources=sources, features=features).settings(datasets)
    assert [each.dataset for each in view.arrivals] == ["a", "c"]
    assert view.arrivals[0].timing == {**hourly, "time_zone": "America/New_York"}


def test_arrival_in_the_declaration_of_a_view_is_refused() -> None:
    with pytest.raises(DeclarationError, match="attribute 'arrivals': expected the arrival of a dataset"):
        declared(arrivals=[{"every": "hour"}]).build_defs(None)  # type: ignore[arg-type]


def test_request_view_is_an_asset_without_months() -> None:
    view = declared(
        kind="request", entity=[], sources=[], lookback_days=0, features=[{"name": "x", "description": "…"}]
    )
    asset = request_view(view.settings(), view.shared_arguments(view.settings()))
    assert asset.partitions_def is None
    assert asset.key == dg.AssetKey(["features", "departures"])


def test_one_run_of_several_months_writes_the_same_rows_as_single_runs(lake: Lake, tmp_path: Path) -> None:
    view, months = declared().settings(), ["2013-01", "2013-02", "2013-03"]
    materialize(view, lake, SnapshotStore(tmp_path / "online"), months, MONTHS)
    together = read(view, lake).collect().sort("known_at")
    other = view.model_copy(update={"code_version": "2"})
    for month in months:
        materialize(other, lake, SnapshotStore(tmp_path / "online"), [month], MONTHS)
    assert together.equals(read(other, lake).collect().sort("known_at"))
    assert together["delay"].to_list() == pytest.approx([1.0, 1.1, 1.2, 2.0, 2.1, 2.2, 3.0, 3.1, 3.2])


def test_backfill_of_an_old_month_does_not_replace_a_later_snapshot(lake: Lake, tmp_path: Path) -> None:
    view, store = declared().settings(), SnapshotStore(tmp_path / "online", refresh_seconds=0)
    materialize(view, lake, store, ["2013-01", "2013-02", "2013-03"], MONTHS)
    built, publication = materialize(view, lake, store, ["2013-01"], MONTHS)
    assert built[0].partition == "2013-01"
    assert publication.watermark == datetime(2013, 4, 1, tzinfo=UTC)
    assert store.lookup([view], {"origin": ["JFK"]}, 1).values[0, 0] == pytest.approx(3.2)


# Through the asset, in a Dagster instance.


class Airport:
    """A home with three months of departures, and a Dagster instance."""

    def __init__(self, root: Path, instance: dg.DagsterInstance, lake: Lake) -> None:
        self.home, self.instance, self.lake = Home(root), instance, lake
        self.store = SnapshotStore(self.home.online, refresh_seconds=0)

    def materialize_months(self, view: FeatureView, first: str, last: str | None = None) -> dict[str, dict[str, Any]]:
        """Materialize ``view`` for the months from ``first`` to ``last`` in one run; return each month's metadata."""
        asset = change_log_of(view)
        span = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last or first}
        result = dg.materialize(
            [asset],
            instance=self.instance,
            resources={
                "lake": LakeResource.for_home(self.home),
                "online_store": OnlineStoreResource.for_home(self.home),
            },
            tags=span,
        )
        assert len(result.get_step_success_events()) == 1
        return {
            str(event.materialization.partition): {
                name: value.value for name, value in event.materialization.metadata.items()
            }
            for event in result.get_asset_materialization_events()
        }

    def served_value(self, view: FeatureView) -> float:
        return float(self.store.lookup([view.settings()], {"origin": ["JFK"]}, 1).values[0, 0])

    def rewrite(self, month: int, *facts: tuple[str, datetime, float]) -> None:
        schema = {"origin": pl.String, "left": pl.Datetime("us", "UTC"), "delay": pl.Float64}
        self.lake.write("datasets/flights", pl.DataFrame(facts, schema=schema, orient="row"), f"2013-{month:02}")  # type: ignore[arg-type]


@pytest.fixture
def airport(tmp_path: Path, lake: Lake) -> Any:
    with dg.DagsterInstance.ephemeral(str(tmp_path)) as instance:
        yield Airport(tmp_path, instance, lake)


def naive(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return known_at without a time zone."""
    return departures(sources).with_columns(pl.col("known_at").dt.replace_time_zone(None))


def renamed(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return a column under another name than declared."""
    return departures(sources).rename({"delay": "delays"})


def doubled(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return the same facts in half minutes, as changed code."""
    return departures(sources).with_columns(pl.col("delay") * 2)


def test_every_month_records_its_rows_and_the_published_snapshot(airport: Airport) -> None:
    metadata = airport.materialize_months(declared(), "2013-01", "2013-03")
    assert {month: shown["dagster/row_count"] for month, shown in metadata.items()} == dict.fromkeys(
        ["2013-01", "2013-02", "2013-03"], 3
    )
    # The source columns are recorded once per run, with its last month.
    assert [LINEAGE in shown for shown in metadata.values()] == [False, False, True]
    (source,) = metadata["2013-03"][LINEAGE].deps_by_column["delay"]
    assert (source.asset_key.path[-1], source.column_name) == ("flights", "delay")
    latest = metadata["2013-03"]
    assert (latest["online_entities"], latest["online_watermark"], latest["online_published"]) == (
        1, "2013-04-01T00:00:00+00:00", True,
    )  # fmt: skip


def test_late_fact_is_published_and_counted_and_named(airport: Airport) -> None:
    airport.materialize_months(declared(), "2013-01", "2013-03")
    third, day = datetime(2013, 3, 1, tzinfo=UTC), timedelta(days=1)
    airport.rewrite(3, ("JFK", third, 3.0), ("JFK", third + day, 9.0), ("JFK", third + 27 * day, 3.2))
    shown = airport.materialize_months(declared(), "2013-03")["2013-03"]
    assert shown["late_facts"] == 1
    assert shown["first_late_fact"] == "view 'departures', origin=JFK at 2013-03-02T00:00+0000"
    assert 9.0 in read(declared().settings(), airport.lake).collect()["delay"].to_list()


def test_duplicate_and_superseded_facts_are_counted(airport: Airport) -> None:
    at = datetime(2013, 3, 5, tzinfo=UTC)
    airport.rewrite(3, ("JFK", at, 1.0), ("JFK", at, 1.0), ("LGA", at, 2.0), ("LGA", at, 3.0))
    shown = airport.materialize_months(declared(), "2013-03")["2013-03"]
    assert (shown["dagster/row_count"], shown["duplicates"], shown["superseded"]) == (2, 1, 1)


def test_fact_after_the_data_clock_is_left_out_named_and_written_with_its_month(airport: Airport) -> None:
    airport.rewrite(3, ("JFK", datetime(2013, 3, 5, tzinfo=UTC), 1.0), ("JFK", datetime(2013, 4, 2, tzinfo=UTC), 7.0))
    airport.rewrite(4, ("JFK", datetime(2013, 4, 9, tzinfo=UTC), 2.0))
    march = airport.materialize_months(declared(), "2013-03")["2013-03"]
    assert march["after_clock"] == 1
    assert march["first_after_clock"] == "view 'departures', origin=JFK at 2013-04-02T00:00+0000"
    assert airport.served_value(declared()) == 1.0
    april = airport.materialize_months(declared(), "2013-04")["2013-04"]  # the lookback of April finds the fact
    assert (april["dagster/row_count"], april["after_clock"]) == (2, 0)


def test_fact_after_the_data_clock_beyond_any_lookback_fails_the_run(airport: Airport) -> None:
    airport.rewrite(3, ("JFK", datetime(2013, 4, 2, tzinfo=UTC), 7.0))
    with pytest.raises(Exception, match=r"'departures': expected no fact known at or after .*origin=JFK at 2013-04-02"):
        airport.materialize_months(declared(lookback_days=0), "2013-03")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            "naive",
            r"'known_at': expected instants with a time zone, found .* view 'departures', origin=JFK at 2013-02-01",
        ),
        ("renamed", r"view 'departures', function .*1 missing \('delay'\) and 1 not declared \('delays'\)"),
    ],
)
def test_function_that_breaks_its_contract_fails_the_run_and_changes_nothing(
    airport: Airport, function: str, message: str
) -> None:
    published = declared(code_version="1")
    airport.materialize_months(published, "2013-01", "2013-03")
    version = airport.lake.version(published.settings().table)
    with pytest.raises(Exception, match=message):
        airport.materialize_months(declared(code_version="1", function=f"{__name__}:{function}"), "2013-03")
    assert airport.lake.version(published.settings().table) == version
    assert airport.served_value(published) == pytest.approx(3.2)


def test_unknown_entity_gets_no_value_online_or_offline(airport: Airport) -> None:
    airport.materialize_months(declared(), "2013-01", "2013-03")
    features = FeatureSet([declared().settings()])
    requests = pl.DataFrame({"origin": ["JFK", "XXX", None], "predict_at": [datetime(2013, 4, 1, tzinfo=UTC)] * 3})
    online = features.serve(requests, airport.store)
    offline = features.as_of(requests.lazy(), features.logs(airport.lake)).collect()
    for read_back in (online.frame, offline):
        assert read_back["departures__delay"].to_list() == [pytest.approx(3.2), None, None]
    assert online.ages["departures"].to_list() == [4 * 24 * 60, None, None]


def test_changed_function_is_backfilled_in_one_run_without_changing_the_table_of_a_pinned_model(
    airport: Airport,
) -> None:
    before = declared()
    airport.materialize_months(before, "2013-01", "2013-03")
    pinned = FeatureSet([before.settings()])  # as in features.json of a served model
    version = airport.lake.version(before.settings().table)
    after = declared(function=f"{__name__}:doubled")
    metadata = airport.materialize_months(after, "2013-01", "2013-03")
    assert list(metadata) == ["2013-01", "2013-02", "2013-03"]
    assert after.settings().table != before.settings().table
    assert airport.lake.version(before.settings().table) == version
    requests = pl.DataFrame({"origin": ["JFK"], "predict_at": [datetime(2013, 4, 1, tzinfo=UTC)]})
    for features, value in ((pinned, 3.2), (FeatureSet([after.settings()]), 6.4)):
        assert features.online(requests, airport.store)["departures__delay"].to_list() == [pytest.approx(value)]
        again = features.as_of(requests.lazy(), features.logs(airport.lake)).collect()
        assert again["departures__delay"].to_list() == [pytest.approx(value)]
    restored = FeatureSet.from_dict(pinned.to_dict())
    assert restored.online(requests, airport.store)["departures__delay"].to_list() == [pytest.approx(3.2)]
