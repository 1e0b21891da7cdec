"""Keys and values are equal in both reads, or refused by name: in the change log, the join, and both online stores."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ml_platform.features.change_log import Window, build
from ml_platform.features.encoder import Encoder
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.key_types import MAX_KEY_BYTES, KeyTypeError
from ml_platform.features.online_store import OnlineStore, Snapshot, latest_facts
from ml_platform.features.point_in_time import point_in_time_join
from ml_platform.features.snapshot_file import SnapshotError
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.features.valkey_store import ValkeyStore
from ml_platform.features.view import INSTANT, FeatureView, ViewError
from ml_platform_tests.features.test_online_store import valkey_url

__all__ = ["valkey_url"]

NOON = datetime(2013, 3, 1, 12, tzinfo=UTC)
WINDOW = Window(NOON - timedelta(days=1), NOON + timedelta(days=1))
RETURNED: dict[str, pl.DataFrame] = {}


def given_facts(sources: Mapping[str, pl.LazyFrame]) -> pl.DataFrame:
    """Return the facts that the test stored; the function of the views below."""
    return RETURNED["facts"]


def given_column(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the field `raw` as the feature `x` of a request view."""
    return rows.select(x="raw")


def view(feature_type: str = "float32", **changes: Any) -> FeatureView:
    return FeatureView.model_validate(
        {
            "name": "shops",
            "entity": ["shop"],
            "features": [{"name": "x", "type": feature_type, "description": "…"}],
            "function": f"{__name__}:given_facts",
            "code_version": "1",
            "lookback_days": 1,
            **changes,
        }
    )


def facts(keys: Any, key_dtype: pl.DataType | type[pl.DataType], x: Any = 1.0) -> pl.DataFrame:
    return pl.DataFrame(
        {"shop": pl.Series(keys, dtype=key_dtype), "known_at": pl.Series([NOON] * len(keys), dtype=INSTANT), "x": x}
    )


def built(frame: pl.DataFrame, of: FeatureView) -> pl.DataFrame:
    RETURNED["facts"] = frame
    return build(of, {}, WINDOW).frame


def requests(keys: Any, dtype: Any = None) -> pl.DataFrame:
    at = pl.Series([NOON + timedelta(minutes=1)] * len(keys), dtype=INSTANT)
    return pl.DataFrame({"shop": pl.Series(keys, dtype=dtype), "predict_at": at})


@pytest.fixture(params=["snapshot", pytest.param("valkey", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> OnlineStore:
    if request.param == "snapshot":
        return SnapshotStore(tmp_path, refresh_seconds=0.0)
    return ValkeyStore(request.getfixturevalue("valkey_url"), prefix=str(tmp_path))


def publish(store: OnlineStore, frame: pl.DataFrame, of: FeatureView) -> None:
    store.publish(latest_facts(of, frame.lazy(), NOON + timedelta(minutes=1)))


def test_change_log_stores_keys_in_the_declared_type() -> None:
    for key_type, keys, dtype, stored in (
        ("int", [1, 2], pl.Int8, pl.Int64),
        ("int", [1, 2], pl.UInt32, pl.Int64),
        ("string", ["a", "b"], pl.Categorical, pl.String),
        ("bool", [False, True], pl.Boolean, pl.Boolean),
    ):
        log = built(facts(keys, dtype), view(key_types={"shop": key_type}))
        assert log.schema["shop"] == stored
        assert log["shop"].to_list() == keys


@pytest.mark.parametrize(
    ("keys", "dtype", "key_type"),
    [(["1"], pl.String, "int"), ([1], pl.Int64, "string"), ([1], pl.Int64, "bool"), ([True], pl.Boolean, "int")],
)
def test_change_log_refuses_keys_of_another_type_than_declared(keys: Any, dtype: Any, key_type: str) -> None:
    with pytest.raises(
        KeyTypeError, match=f"view 'shops', key 'shop': expected keys of type {key_type}, found {dtype}"
    ):
        built(facts(keys, dtype), view(key_types={"shop": key_type}))


def test_change_log_refuses_a_key_type_that_no_request_can_have() -> None:
    with pytest.raises(KeyTypeError, match="keys of type string, int or bool, found Float64"):
        built(facts([1.5], pl.Float64), view())


@pytest.mark.parametrize("key", ["a\0", "\0", "a\0b", "é" * MAX_KEY_BYTES])
def test_text_keys_that_a_snapshot_cannot_keep_are_refused(key: str, store: OnlineStore) -> None:
    frame = facts(["a", key], pl.String)
    with pytest.raises(KeyTypeError, match=r"key 'shop': expected text keys without NUL, .*found 1 others"):
        built(frame, view())
    with pytest.raises(KeyTypeError, match=r"Snapshot of .*'shops', key 'shop': expected text keys without NUL"):
        publish(store, frame.with_columns(pl.col("x").cast(pl.Float32)), view())


def test_key_declared_twice_with_different_types_is_refused() -> None:
    other = view(name="others", key_types={"shop": "int"})
    with pytest.raises(ViewError, match=r"'shops', key 'shop': expected one type .*declares int, found string"):
        FeatureSet([view(key_types={"shop": "string"}), other])


def test_request_view_that_derives_a_key_of_another_type_is_refused() -> None:
    derived = FeatureView.model_validate(
        {
            "name": "derived",
            "kind": "request",
            "function": f"{__name__}:given_column",
            "features": [{"name": "shop", "type": "category", "description": "…"}],
        }
    )
    with pytest.raises(ViewError, match=r"feature 'shop', which is a key .*key type int, found String"):
        FeatureSet([derived, view(key_types={"shop": "int"})])
    assert FeatureSet([derived, view(key_types={"shop": "string"})]).key_fields == []


@pytest.mark.parametrize(
    ("fact_keys", "fact_dtype", "request_keys"),
    [(["1", "2"], pl.String, [1, 2]), ([1, 2], pl.Int64, ["1", "2"]), ([0, 1], pl.Int64, [False, True])],
    ids=["text and numbers", "numbers and text", "numbers and flags"],
)
def test_keys_of_another_type_are_refused_in_both_reads(
    store: OnlineStore, fact_keys: list[Any], fact_dtype: Any, request_keys: list[Any]
) -> None:
    """Offline, a cast once matched the text "1" with the number 1, and online every value was null, in silence."""
    log = built(facts(fact_keys, fact_dtype), view())
    publish(store, log, view())
    chosen, logs = FeatureSet([view()]), {"shops": log.lazy()}
    for rows in (requests(request_keys), requests(request_keys[:1])):
        with pytest.raises(KeyTypeError, match=r"Examples for .*'shops', key 'shop': expected keys of type"):
            chosen.as_of(rows.lazy(), logs).collect()
        with pytest.raises(KeyTypeError, match=r"Examples for .*'shops', key 'shop': expected keys of type"):
            point_in_time_join(rows.lazy(), logs, [view()]).collect()
        with pytest.raises(KeyTypeError, match=r"Online lookup, key 'shop': expected a key of the published type"):
            chosen.online(rows, store)
    assert chosen.online(requests(fact_keys), store)["shops__x"].to_list() == [1.0, 1.0]
    assert chosen.as_of(requests(fact_keys).lazy(), logs).collect()["shops__x"].to_list() == [1.0, 1.0]


def test_declared_key_type_is_checked_before_either_read(store: OnlineStore) -> None:
    chosen = FeatureSet([view(key_types={"shop": "string"})])
    for read in (
        lambda: chosen.online(requests([1]), store),
        lambda: chosen.as_of(requests([1]).lazy(), {"shops": facts(["1"], pl.String).lazy()}).collect(),
    ):
        with pytest.raises(KeyTypeError, match="Rows of a feature set, key 'shop': expected keys of type string"):
            read()


def test_snapshot_of_another_key_type_than_declared_is_refused(store: OnlineStore) -> None:
    publish(store, built(facts([1], pl.Int64), view()), view())
    chosen = FeatureSet([view(key_types={"shop": "string"})])
    with pytest.raises((SnapshotError, KeyTypeError), match=r"expected keys of .*string.*Materialize features/shops"):
        chosen.online(requests(["1"]), store)


def test_snapshot_written_before_key_types_were_stored_is_read_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    dumps = json.dumps
    monkeypatch.setattr(
        "ml_platform.features.snapshot_file.json.dumps",
        lambda header: dumps({name: value for name, value in header.items() if name != "key_types"}),
    )
    store = SnapshotStore(tmp_path, refresh_seconds=0.0)
    publish(store, built(facts(["1"], pl.String), view()), view())
    assert FeatureSet([view()]).online(requests(["1"]), store)["shops__x"].to_list() == [1.0]
    with pytest.raises(KeyTypeError, match="expected a key of the published type 'str', found int"):
        FeatureSet([view()]).online(requests([1]), store)


def test_missing_keys_fit_every_type(store: OnlineStore) -> None:
    log = built(facts([1], pl.Int64), view())
    publish(store, log, view())
    for rows in (requests([None, None]), requests([None], pl.Int64)):
        online = FeatureSet([view()]).online(rows, store)
        offline = FeatureSet([view()]).as_of(rows.lazy(), {"shops": log.lazy()}).collect()
        assert online["shops__x"].to_list() == offline["shops__x"].to_list() == [None] * rows.height


def test_whole_number_keys_beyond_2_to_the_53_are_equal_in_both_reads(store: OnlineStore) -> None:
    keys = [2**53, 2**53 + 1, -(2**63), 2**63 - 1]
    log = built(facts(keys, pl.Int64, [1.0, 2.0, 3.0, 4.0]), view())
    publish(store, log, view())
    rows = requests([2**53 + 1, *keys, 2**53 - 1])
    online = FeatureSet([view()]).online(rows, store)["shops__x"].to_list()
    assert online == [2.0, 1.0, 2.0, 3.0, 4.0, None]
    offline = FeatureSet([view()]).as_of(rows.lazy(), {"shops": log.lazy()}).collect()
    assert offline["shops__x"].to_list() == online


@pytest.mark.parametrize(
    ("feature_type", "value", "dtype", "expected"),
    [
        ("int8", 3.7, pl.Float64, "whole numbers"),
        ("int64", -0.5, pl.Float32, "whole numbers"),
        ("int8", 128, pl.Int64, "values of Int8"),
        ("int8", float("inf"), pl.Float64, "values of Int8"),
        ("int64", 2**53 + 1, pl.Int64, "whole numbers within ±2⁵³"),
        ("int64", -(2**53) - 1, pl.Int64, "whole numbers within ±2⁵³"),
        ("int64", 1e17, pl.Float64, "whole numbers within ±2⁵³"),
        ("datetime", datetime(2256, 1, 1, tzinfo=UTC), INSTANT, "whole numbers within ±2⁵³"),
    ],
)
def test_value_that_one_read_would_round_or_cut_is_refused(
    feature_type: str, value: Any, dtype: Any, expected: str
) -> None:
    frame = facts(["a", "b"], pl.String, pl.Series([None, value], dtype=dtype))
    with pytest.raises(ViewError, match=rf"column 'x': expected {expected}.* found 1 of 2 .*shop=b"):
        built(frame, view(feature_type))


def test_request_view_refuses_the_same_values_in_both_reads(tmp_path: Path) -> None:
    declared = FeatureView.model_validate(
        {
            "name": "request",
            "kind": "request",
            "function": f"{__name__}:given_column",
            "fields": ["raw"],
            "features": [{"name": "x", "type": "int8", "description": "…"}],
        }
    )
    chosen, store = FeatureSet([declared]), SnapshotStore(tmp_path)
    for value, message in ((3.7, "whole numbers, found 3.7"), (300.0, "values of Int8, found 300.0")):
        rows = requests(["a"] * 2).with_columns(raw=pl.Series([None, value]))
        for read in (lambda: chosen.online(rows, store), lambda: chosen.as_of(rows.lazy(), {}).collect()):  # noqa: B023
            with pytest.raises(ViewError, match=rf"'request', function .*, column 'x': expected {message}"):
                read()
    rows = requests(["a"] * 3).with_columns(raw=pl.Series([None, 3.0, -128.0]))
    assert chosen.online(rows, store)["request__x"].to_list() == [None, 3, -128]


def test_snapshot_refuses_values_of_a_log_that_it_would_round(store: OnlineStore) -> None:
    frame = facts(["a"], pl.String, pl.Series([2**53 + 1]))
    with pytest.raises(
        ViewError, match=r"'shops', column 'x': expected values within ±9007199254740992.*found 1 beyond"
    ):
        store.publish(Snapshot(view("int64"), frame, NOON + timedelta(minutes=1)))


def test_largest_exact_values_are_equal_in_both_reads_and_in_the_matrix(store: OnlineStore) -> None:
    values = [2**53, -(2**53), 0]
    log = built(facts(["a", "b", "c"], pl.String, pl.Series(values)), view("int64"))
    publish(store, log, view("int64"))
    chosen, rows = FeatureSet([view("int64")]), requests(["a", "b", "c"])
    served = chosen.serve(rows, store)
    offline = chosen.as_of(rows.lazy(), {"shops": log.lazy()}).collect()
    assert served.frame["shops__x"].to_list() == offline["shops__x"].to_list() == values
    encoder = Encoder.fit(offline, chosen.feature_names)
    np.testing.assert_array_equal(served.encode(encoder), encoder.transform(offline))
