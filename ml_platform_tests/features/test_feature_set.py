"""Feature sets: request views and stored views run in order, and both reads return equal values."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.features.encoder import Encoder
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.online_store import latest_facts
from ml_platform.features.served_features import MAX_PLANS
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.features.view import INSTANT, FeatureView, ViewError

NOON = datetime(2013, 3, 1, 12, tzinfo=UTC)


def clock(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the hour, which is a feature and the key of another view."""
    return rows.select(hour=pl.col("due").dt.hour().cast(pl.Int64))


def slack(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the time between the fact's value and the request's field, and the number of visible columns."""
    return rows.select(left=(pl.col("due") - pl.col("leg__ready")).dt.total_minutes(), seen=pl.lit(rows.width))


def too_short(rows: pl.DataFrame) -> pl.DataFrame:
    """Return one row too few."""
    return clock(rows).head(rows.height - 1)


def misnamed(rows: pl.DataFrame) -> pl.DataFrame:
    """Return a column of another name."""
    return clock(rows).rename({"hour": "hours"})


def declared(name: str, **attributes: object) -> FeatureView:
    features = attributes.pop("features")
    return FeatureView.model_validate(
        {
            "name": name,
            "function": f"{__name__}:clock",
            "features": [{"description": "…", **feature} for feature in features],  # type: ignore[attr-defined]
            "code_version": "1",
            **attributes,
        }
    )


CLOCK = declared("clock", kind="request", fields=["due"], features=[{"name": "hour", "type": "int64"}])
HOURLY = declared("hourly", entity=["place", "hour"], features=[{"name": "busy", "type": "float32"}], age=True)
LEG = declared(
    "leg",
    entity=["tail"],
    tolerance_minutes=60,
    features=[{"name": "ready", "type": "datetime", "hidden": True}, {"name": "model", "type": "category"}],
)
SLACK = declared(
    "slack",
    kind="request",
    inputs=["leg"],
    fields=["due"],
    function=f"{__name__}:slack",
    features=[{"name": "left", "type": "int32"}, {"name": "seen", "type": "int8"}],
)
VIEWS = [CLOCK, HOURLY, LEG, SLACK]
LOGS = {
    "hourly": pl.LazyFrame(
        [("JFK", 14, NOON - timedelta(days=1), 0.5), ("JFK", 15, NOON, 0.75)],
        schema={"place": pl.String, "hour": pl.Int64, "known_at": INSTANT, "busy": pl.Float32},
        orient="row",
    ),
    "leg": pl.LazyFrame(
        [("N1", NOON - timedelta(minutes=30), NOON, "A320"), ("N2", NOON - timedelta(minutes=61), NOON, None)],
        schema={"tail": pl.String, "known_at": INSTANT, "ready": INSTANT, "model": pl.String},
        orient="row",
    ),
}


def rows(*requests: tuple[str | None, int], late: int = 0) -> pl.DataFrame:
    """Return requests (tail, hours until due) with predict_at ``late`` minutes after noon; labels are positions."""
    return pl.DataFrame(
        [
            ("JFK", tail, NOON + timedelta(hours=hours), NOON + timedelta(minutes=late), place)
            for place, (tail, hours) in enumerate(requests)
        ],
        schema={"place": pl.String, "tail": pl.String, "due": INSTANT, "predict_at": INSTANT, "label": pl.Int64},
        orient="row",
    )


def store(folder: Path, watermark: datetime = NOON + timedelta(microseconds=1)) -> SnapshotStore:
    published = SnapshotStore(folder)
    for view in (HOURLY, LEG):
        published.publish(latest_facts(view, LOGS[view.name], watermark))
    return published


def test_features_come_in_the_order_of_the_views_without_hidden_ones() -> None:
    assert FeatureSet(VIEWS).feature_names == [
        "clock__hour", "hourly__busy", "hourly__age_minutes", "leg__model", "slack__left", "slack__seen"
    ]  # fmt: skip


def test_stored_view_is_read_by_a_derived_key() -> None:
    read = FeatureSet(VIEWS).as_of(rows(("N1", 3)).lazy(), LOGS).collect()
    assert read.select("clock__hour", "hourly__busy", "hourly__age_minutes").rows() == [(15, 0.75, 0.0)]


def test_values_of_stored_views_are_inputs_of_a_later_request_view() -> None:
    read = FeatureSet(VIEWS).as_of(rows(("N1", 3), ("N2", 3)).lazy(), LOGS).collect()
    assert read["slack__left"].to_list() == [180, None]  # the leg of N2 is a minute too old


def test_request_view_gets_its_fields_and_no_label() -> None:
    read = FeatureSet(VIEWS).as_of(rows(("N1", 3)).lazy(), LOGS).collect()
    # due, predict_at, as_of, and leg's ready, model, age_minutes.
    assert read["slack__seen"].to_list() == [6]


def test_other_columns_come_back_unchanged() -> None:
    read = FeatureSet(VIEWS).as_of(rows(("N1", 3), ("N2", 2)).lazy(), LOGS).collect()
    assert read["label"].to_list() == [0, 1]


def test_set_of_some_views_keeps_what_they_read_and_gives_their_features_only() -> None:
    some = FeatureSet(VIEWS, leave_out=["slack__seen", "leg__model"]).only(["slack"])
    assert [view.name for view in some.views] == ["leg", "slack"]
    assert some.feature_names == ["slack__left"]
    assert FeatureSet(VIEWS).only(["clock", "hourly"]).feature_names == [
        "clock__hour",
        "hourly__busy",
        "hourly__age_minutes",
    ]


def test_left_out_features_are_not_given_to_models() -> None:
    chosen = FeatureSet(VIEWS, leave_out=["leg__model"])
    assert "leg__model" not in chosen.feature_names
    assert "leg__model" not in chosen.as_of(rows(("N1", 3)).lazy(), LOGS).collect().columns


tails = st.none() | st.sampled_from(["N1", "N2", "N3"])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(tails, st.integers(0, 5)), min_size=1, max_size=8), st.integers(1, 90))
def test_both_reads_give_equal_values(
    tmp_path_factory: pytest.TempPathFactory, requests: list[tuple[str | None, int]], late: int
) -> None:
    chosen, request = FeatureSet(VIEWS), rows(*requests, late=late)
    offline = chosen.as_of(request.lazy(), LOGS).select("label", *chosen.feature_names).collect().sort("label")
    online = chosen.online(request, store(tmp_path_factory.mktemp("online")))
    assert offline.drop("label").equals(online)
    assert offline.drop("label").schema == online.schema


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(tails, st.integers(0, 5)), min_size=1, max_size=20), st.integers(1, 90))
def test_matrix_encoded_without_the_frame_equals_the_encoded_frame(
    tmp_path_factory: pytest.TempPathFactory, requests: list[tuple[str | None, int]], late: int
) -> None:
    chosen, request = FeatureSet(VIEWS), rows(*requests, late=late)
    encoder = Encoder.fit(chosen.as_of(rows(("N1", 3)).lazy(), LOGS).collect(), chosen.feature_names)
    served = chosen.serve(request, store(tmp_path_factory.mktemp("online")))
    np.testing.assert_array_equal(served.encode(encoder), encoder.transform(served.frame))


def test_encoders_that_come_and_go_are_forgotten(tmp_path: Path) -> None:
    chosen, request = FeatureSet(VIEWS), rows(("N1", 3), late=5)
    history = chosen.as_of(rows(("N1", 3)).lazy(), LOGS).collect()
    served = chosen.serve(request, store(tmp_path))
    first = Encoder.fit(history, chosen.feature_names)
    for _ in range(MAX_PLANS + 3):
        encoder = Encoder.fit(history, chosen.feature_names)
        for each in (first, encoder):
            np.testing.assert_array_equal(served.encode(each), each.transform(served.frame))
    assert len(chosen.serving_plan.columns._plans) == MAX_PLANS


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(tails, st.integers(0, 5)), min_size=1, max_size=20), st.integers(1, 90))
def test_records_made_without_the_frame_equal_those_of_the_frame(
    tmp_path_factory: pytest.TempPathFactory, requests: list[tuple[str | None, int]], late: int
) -> None:
    shown = [feature.model_copy(update={"hidden": False}) for feature in LEG.features]
    chosen = FeatureSet([CLOCK, HOURLY, LEG.model_copy(update={"features": shown}), SLACK])
    served = chosen.serve(rows(*requests, late=late), store(tmp_path_factory.mktemp("online")))
    assert served.records() == served.frame.to_dicts()
    assert served.age_records() == served.ages.to_dicts()


def test_set_of_request_views_alone_is_served_without_a_snapshot(tmp_path: Path) -> None:
    served = FeatureSet([CLOCK]).serve(rows(("N1", 3)), SnapshotStore(tmp_path))
    assert served.records() == served.frame.to_dicts() == [{"clock__hour": 15}]
    assert served.age_records() == [{}]


def test_prediction_before_the_watermark_is_read_as_of_the_watermark(tmp_path: Path) -> None:
    watermark = NOON + timedelta(minutes=20)
    served = FeatureSet(VIEWS).serve(rows(("N1", 3)), store(tmp_path, watermark))
    assert served.as_of.to_list() == [watermark]
    assert served.ages.row(0, named=True) == {"hourly": 20.0, "leg": 50.0}
    assert served.watermarks == {"hourly": watermark, "leg": watermark}


def test_logged_as_of_reads_the_same_features_offline(tmp_path: Path) -> None:
    watermark = NOON + timedelta(minutes=20)
    chosen, request = FeatureSet(VIEWS), rows(("N1", 3), ("N2", 1))
    served = chosen.serve(request, store(tmp_path, watermark))
    logged = request.with_columns(served.as_of.alias("as_of")).lazy()
    again = chosen.as_of(logged, LOGS, known_before=served.watermarks).collect().sort("label")
    assert again.select(chosen.feature_names).equals(served.frame)


@pytest.mark.parametrize("late", [0, 30, 31])
def test_facts_of_rows_give_the_features_of_the_whole_logs(late: int) -> None:
    chosen, request = FeatureSet(VIEWS), rows(("N1", 3), (None, 2), late=late)
    facts = chosen.facts_of(request, LOGS)
    expected, found = (chosen.as_of(request.lazy(), logs).collect() for logs in (LOGS, facts))
    assert found.equals(expected)
    # No row reads the aircraft N2, and the fact about N1 is as old as its tolerance after 30 minutes.
    assert {name: each.collect().height for name, each in facts.items()} == {"hourly": 2, "leg": int(late <= 30)}


def test_set_read_from_its_dictionary_is_equal_and_keeps_code_versions() -> None:
    chosen = FeatureSet([CLOCK.model_copy(update={"code_version": ""}), HOURLY, LEG, SLACK], leave_out=["leg__model"])
    again = FeatureSet.from_dict(chosen.to_dict())
    assert again.feature_names == chosen.feature_names
    assert [view.code_version for view in again.views] == [view.code_version for view in chosen.views]


def test_set_written_before_attributes_were_renamed_is_read() -> None:
    source = {"dataset": "legs", "beforehand": ["due"], "revealed": {"left": ["left"]}, "revealed_after_minutes": 5}
    stored = FeatureSet([HOURLY]).to_dict()
    stored["views"][0]["sources"] = [source]  # type: ignore[index]
    read = FeatureSet.from_dict(stored).views[0].sources[0]
    assert (read.known_upfront, read.available_from, read.available_after_minutes) == (["due"], {"left": ["left"]}, 5)


def test_fields_are_the_columns_that_a_request_needs() -> None:
    assert FeatureSet(VIEWS).fields == ["due", "place", "tail"]


def test_error_names_a_missing_field() -> None:
    with pytest.raises(ViewError, match=r"no 'tail' among"):
        FeatureSet(VIEWS).as_of(rows(("N1", 3)).drop("tail").lazy(), LOGS)


def test_request_view_that_loses_a_row_is_rejected() -> None:
    short = CLOCK.model_copy(update={"function": f"{__name__}:too_short"})
    with pytest.raises(ViewError, match=r"'clock'.* expected a DataFrame of 1 rows.*found 0 rows"):
        FeatureSet([short]).as_of(rows(("N1", 3)).lazy(), {}).collect()


def test_request_view_with_another_column_is_rejected() -> None:
    other = CLOCK.model_copy(update={"function": f"{__name__}:misnamed"})
    with pytest.raises(ViewError, match=r"1 missing \('hour'\) and 1 not declared \('hours'\)"):
        FeatureSet([other]).as_of(rows(("N1", 3)).lazy(), {}).collect()


def test_input_that_is_not_in_the_set_is_rejected() -> None:
    with pytest.raises(ViewError, match=r"'slack': expected inputs among the views .*found 'leg'"):
        FeatureSet([CLOCK, HOURLY, SLACK])


def test_view_named_twice_is_rejected() -> None:
    with pytest.raises(ViewError, match="expected each view once, found 'leg' twice"):
        FeatureSet([LEG, LEG])


def test_left_out_name_that_is_no_feature_is_rejected() -> None:
    with pytest.raises(ViewError, match="Did you mean 'leg__model'"):
        FeatureSet(VIEWS, leave_out=["leg__modell"])
