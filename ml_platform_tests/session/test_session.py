"""A session reads a home by name, gives the predictions of the served files, and changes nothing."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import ml_platform as mp
from ml_platform.errors import PlatformError
from ml_platform.serving.in_process import ServedModel, ServedModelError
from ml_platform.serving.request_contract import InvalidRequestError
from ml_platform.session.loaded_model import LoadedModel
from ml_platform.session.opening import SessionError
from ml_platform.session.session import Session
from ml_platform.state.migrate import VERSION_TABLE
from ml_platform.state.read_only import ReadOnlyError
from ml_platform.state.store import StateStore
from ml_platform.training.model_directory import read_model
from ml_platform_tests.components.delivery_home import PlatformFixture
from ml_platform_tests.components.delivery_model import MONTHS, deliveries, delivery_model
from ml_platform_tests.session.conftest import PROMOTED_AT

ORDER = {"shop": "s1", "distance": 0.5, "ordered_at": "2013-04-28T12:00:00+00:00"}


@pytest.fixture(scope="module")
def session(platform: PlatformFixture) -> Iterator[Session]:
    with mp.open(platform.home.root) as opened:
        yield opened


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_everything_is_read_and_no_file_of_the_home_changes(platform: PlatformFixture) -> None:
    before = digests(platform.home.root)
    assert "state.db" in before
    assert "mlflow/mlflow.db" in before
    with mp.open(platform.home.root) as session:
        assert len(session.dataset("deliveries")) == 4 * 840
        assert session.features("shops", as_of="2013-03-01T00:00:00+00:00").to_polars().height == 3
        session.training_set("late", "2013-04").split()
        assert [each.version for each in session.versions("late")] == [2, 1]
        assert session.models()[0].champion == 2
        champion = session.champion("late")
        assert champion.predict([ORDER])[0]["score"] > 0
        assert champion.explain([ORDER]).height > 0
        repr(session), repr(champion), session.datasets()._repr_html_()
    assert digests(platform.home.root) == before


def test_write_through_a_session_is_refused(session: Session) -> None:
    with pytest.raises(ReadOnlyError, match="expected reads only, found a write"):
        session.lake.write("datasets/deliveries", pl.DataFrame({"a": [1]}), "2013-05")
    with pytest.raises(ReadOnlyError, match="found the lock 'x'"), session.lake.state.lock("x"):
        pass
    with pytest.raises(ReadOnlyError, match="found a migration"):
        session.lake.state.migrate()


def test_dataset_has_the_rows_of_its_partitions_in_three_forms(session: Session) -> None:
    table = session.dataset("deliveries", "2013-02")
    assert table.to_polars().drop("partition").equals(deliveries("2013-02"))
    assert isinstance(table.to_pandas(), pd.DataFrame)
    assert isinstance(table.to_arrow(), pa.Table)
    assert table.columns["ordered_at"] == pl.Datetime("us", "UTC")
    assert repr(table).startswith("Dataset 'deliveries', 2013-02: 840 rows, 8 columns\n")
    spans = session.dataset("deliveries", "2013-02...2013-03").to_polars()["partition"].unique().sort()
    assert spans.to_list() == ["2013-02", "2013-03"]
    assert len(session.dataset("deliveries", ["2013-01", "2013-04"])) == 1680
    # The first write had the first month alone.
    assert len(session.dataset("deliveries", version=0)) == 840
    assert [each.name for each in session.datasets()] == ["deliveries"]
    (info,) = session.datasets()
    assert (info.rows, info.partitions, info.first, info.last) == (3360, 4, MONTHS[0], MONTHS[-1])
    assert session.datasets().to_pandas()["rows"].tolist() == [3360]


def test_name_may_have_the_domain_before_a_slash(session: Session) -> None:
    # The domain aviation has no namespace, so the names of its datasets have no domain.
    assert len(session.dataset("aviation/deliveries", "2013-01")) == 840
    with pytest.raises(SessionError, match=r"Dataset 'shops/deliveries'.*no such dataset.*Did you mean 'deliveries'"):
        session.dataset("shops/deliveries")


def test_unknown_names_are_answered_with_near_ones(session: Session) -> None:
    with pytest.raises(SessionError, match=r"one of 'deliveries'.*Did you mean 'deliveries'"):
        session.dataset("delivery")
    with pytest.raises(SessionError, match=r"found 4 partitions, 2013-01 to 2013-04.*Did you mean '2013-02'"):
        session.dataset("deliveries", "2013-2")
    with pytest.raises(SessionError, match=r"Model 'lat'.*Did you mean 'late'"):
        session.champion("lat")
    with pytest.raises(SessionError, match="expected a version 9, found versions '2', '1'"):
        session.model("late", 9)
    with pytest.raises(SessionError, match=r"View 'shop'.*Did you mean 'shops'"):
        session.features("shop")
    with pytest.raises(SessionError, match=r"View 'order'.*computed from each request"):
        session.features("order")
    with pytest.raises(SessionError, match="Training set of 'late': expected the partition '2013-09'"):
        session.training_set("late", "2013-09")


def test_features_are_those_that_a_prediction_at_that_time_would_read(session: Session) -> None:
    at = datetime(2013, 3, 10, 12, tzinfo=UTC)
    rows = pl.concat([deliveries(month) for month in MONTHS]).filter(pl.col("came_at") <= at)
    last = rows.sort("came_at").group_by("shop").last().sort("shop")
    found = session.features("shops", as_of=at).to_polars()
    assert found.columns == ["shop", "shops__last_late", "shops__age_minutes"]
    assert found["shop"].to_list() == ["s0", "s1", "s2"]
    assert found["shops__last_late"].cast(pl.Int8).to_list() == last["late"].to_list()
    ages = [(at - came).total_seconds() / 60 for came in last["came_at"]]
    assert found["shops__age_minutes"].to_list() == ages
    newest = session.features("shops").to_polars()
    ends = pl.concat([deliveries(month) for month in MONTHS]).group_by("shop").agg(pl.col("came_at").max()).sort("shop")
    assert newest["known_at"].to_list() == ends["came_at"].to_list()
    assert len(session.change_log("shops", "2013-02")) == 840
    with pytest.raises(PlatformError, match="a time without offset"):
        session.features("shops", as_of="2013-03-10T12:00:00")


def test_training_set_is_split_as_its_candidate_was(session: Session) -> None:
    found = session.training_set("late", "2013-04")
    assert {*delivery_model().feature_set.feature_names, "label"} <= set(found.columns)
    parts = found.split()
    assert len(parts.test) == parts.counts["test_rows"] > 800
    assert len(parts.train) + len(parts.validation) < len(found)
    tested, trained = parts.test.to_polars()["predict_at"], parts.train.to_polars()["predict_at"]
    assert tested.sort().to_list()[0] > trained.sort().to_list()[-1]


def test_champion_predicts_from_features_what_training_predicted(session: Session, platform: PlatformFixture) -> None:
    champion = session.champion("late")
    assert (champion.name, champion.version, champion.manifest.partition) == ("late", 2, "2013-04")
    rows = session.training_set("late", "2013-04").split().test.to_polars()
    registry = platform.mlflow.models
    stored = read_model(registry.download(registry.version("late", 2), platform.home.root.parent / "downloaded"))
    found = champion.predict(rows)
    assert found.columns == ["score", "label", "degraded"]
    np.testing.assert_array_equal(found["score"].to_numpy(), stored.predict(rows))
    of_pandas = champion.predict(rows.to_pandas())
    assert isinstance(of_pandas, pd.DataFrame)
    np.testing.assert_array_equal(of_pandas["score"], found["score"])
    answers = champion.predict(rows.head(2).to_dicts())
    assert [each["score"] for each in answers] == found["score"].head(2).to_list()
    names = [each.feature for each in champion.features]
    assert names == delivery_model().feature_set.feature_names
    assert champion.features[1].unit == "km"
    assert set(champion.importance()) == set(names)
    assert "request: shop, distance, ordered_at" in repr(champion)


def test_features_are_scored_although_a_request_view_has_other_code(
    session: Session, platform: PlatformFixture, tmp_path: Path
) -> None:
    registry, champion = platform.mlflow.models, session.champion("late")
    folder = registry.download(registry.version("late", 2), tmp_path / "model")
    described = json.loads((folder / "features.json").read_text())
    for view in described["views"]:
        if view["name"] == "order":
            view["code_version"] = "0" * 12 + "-" + "1" * 8
    (folder / "features.json").write_text(json.dumps(described))
    served = ServedModel.of_directory("late", "2", folder, str(platform.home.online), require_code=False)
    loaded = LoadedModel(served, champion.manifest, {})
    rows = session.training_set("late", "2013-04").split().test.to_polars()
    assert loaded.predict(rows).equals(champion.predict(rows))
    with pytest.raises(ServedModelError, match="request view 'order'"):
        loaded.predict([ORDER])


def test_mlflow_loads_the_champion_as_a_function_with_the_same_scores(
    session: Session, platform: PlatformFixture
) -> None:
    import mlflow

    mlflow.set_tracking_uri(platform.home.tracking_uri)
    loaded = mlflow.pyfunc.load_model("models:/late@champion")
    rows = session.training_set("late", "2013-04").split().test.to_polars()
    expected = session.champion("late").predict(rows)
    assert rows["shops__last_late"].null_count() == 0
    for given in (rows.to_pandas(), rows.select(delivery_model().feature_set.feature_names).to_pandas()):
        found = loaded.predict(given)
        np.testing.assert_array_equal(found["score"], expected["score"])
        assert found["label"].tolist() == expected["label"].to_list()
    # A feature that is unknown in some rows is a float with NaN in pandas.
    unknown = rows.with_columns(pl.when(pl.col("when__hour") > 10).then("when__hour").alias("when__hour"))
    np.testing.assert_array_equal(
        loaded.predict(unknown.to_pandas())["score"], session.champion("late").predict(unknown)["score"]
    )
    with pytest.raises(mlflow.exceptions.MlflowException, match="order__distance"):
        loaded.predict(rows.drop("order__distance").to_pandas())


def test_requests_get_the_features_of_the_online_store(session: Session) -> None:
    champion = session.champion("late")
    (answer,) = champion.predict([ORDER])
    table = champion.predict(pl.DataFrame([ORDER]))
    assert table["score"].to_list() == [answer["score"]]
    # The facts of the newest delivery of the shop, in the order of the features.
    newest = session.features("shops").to_polars().filter(shop="s1")["shops__last_late"].item()
    row = {"shops__last_late": [newest], "order__distance": [0.5], "when__hour": [12]}
    by_hand = {name: row[name] for name in delivery_model().feature_set.feature_names}
    assert champion.predict(pl.DataFrame(by_hand))["score"].to_list() == [answer["score"]]
    with pytest.raises(InvalidRequestError, match=r"rows\[0\]\.distance"):
        champion.predict([{**ORDER, "distance": "far"}])


def test_explanation_lists_the_strongest_features_of_each_row(session: Session) -> None:
    champion = session.champion("late")
    rows = session.training_set("late", "2013-04").split().test.to_polars().head(3)
    found = champion.explain(rows, count=2)
    assert found.columns == ["row", "feature", "value", "contribution", "method"]
    assert found.group_by("row").len()["len"].max() == 2
    assert set(found["row"]) == {0, 1, 2}
    first = found.filter(row=0)["contribution"].abs().to_list()
    assert first == sorted(first, reverse=True)
    # The distance decides these deliveries.
    assert found.filter(pl.col("row") == 0)["feature"][0] == "order__distance"
    assert isinstance(champion.explain(rows.to_pandas()), pd.DataFrame)
    chosen = champion.explain([ORDER], count=1, method="full")
    assert (chosen.height, chosen["method"][0]) == (1, "full")
    with pytest.raises(SessionError, match="expected a count from 1 to 20, found 0"):
        champion.explain(rows, count=0)


def test_rows_with_too_few_columns_are_refused(session: Session) -> None:
    champion = session.champion("late")
    rows = session.training_set("late", "2013-04").split().test.to_polars().head(3)
    # These rows have all fields of a request, but their missing feature must not come from the online store.
    with pytest.raises(SessionError, match="the features 'shops__last_late'"):
        champion.predict(rows.drop("shops__last_late"))
    assert champion.predict(rows.drop("shops__last_late"), inputs="requests").height == 3
    with pytest.raises(SessionError, match=r"fields of a request 'distance'.*Did you mean 'distances'"):
        champion.predict(pl.DataFrame([{**ORDER, "distances": 1.0}]).drop("distance"))
    with pytest.raises(SessionError, match="'requests' or 'features', found 'rows'"):
        champion.predict(rows, inputs="rows")  # type: ignore[call-overload] # the error is the point


def test_models_and_versions_are_typed_records(session: Session) -> None:
    (info,) = session.models()
    assert (info.name, info.champion, info.partition, info.since, info.served) == (
        "late", 2, "2013-04", PROMOTED_AT, None,
    )  # fmt: skip
    later, earlier = session.versions("late")
    assert (later.version, later.partition, later.aliases) == (2, "2013-04", ("champion",))
    assert (earlier.version, earlier.aliases, earlier.decision) == (1, (), None)
    assert "Versions of 'late'" in repr(session.versions("late"))
    assert session.versions("late").to_polars()["aliases"].to_list() == ["champion", ""]
    assert session.model("late", 1).manifest.partition == "2013-03"


def test_home_that_is_none_or_of_an_earlier_release_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="expected a home with data, found no such folder"):
        mp.open(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    old = tmp_path / "old"
    old.mkdir()
    (old / "home.json").write_text(json.dumps({"version": 2}))
    with pytest.raises(SessionError, match=r"version 2, written by an earlier release. Run `ml-platform upgrade`"):
        mp.open(old)
    assert [path.name for path in old.iterdir()] == ["home.json"]
    (old / "home.json").write_text(json.dumps({"version": 3}))
    store = StateStore.in_folder(old)
    with store.write() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '0001'")
    store.close()
    with pytest.raises(SessionError, match="found a state store of revision 0001, written by an earlier release"):
        mp.open(old)


def test_import_is_light_and_a_dataset_needs_neither_dagster_nor_mlflow(platform: PlatformFixture) -> None:
    program = """
import json, sys
import ml_platform as mp
light = sorted(sys.modules)
session = mp.open(sys.argv[1])
assert len(session.dataset("deliveries", "2013-01")) == 840
json.dump([light, sorted(sys.modules)], sys.stdout)
"""
    command = [sys.executable, "-c", program, str(platform.home.root)]
    printed: Any = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    light, used = (set(names) for names in json.loads(printed))
    assert light & {"polars", "pandas", "sqlalchemy", "pydantic", "dagster", "mlflow"} == set()
    assert used & {"dagster", "mlflow", "lightgbm", "sklearn", "bentoml"} == set()


def test_package_is_marked_as_typed() -> None:
    assert (files("ml_platform") / "py.typed").is_file()
    assert mp.open.__annotations__["return"] == "Session"
