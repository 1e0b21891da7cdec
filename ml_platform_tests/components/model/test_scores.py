"""The asset `scores`: the answers of the served version for the rows of a table, with the facts of their time."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest
from dagster._core.definitions.asset_daemon_cursor import AssetDaemonCursor

from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.model.scores import scores
from ml_platform.data.lake import PARTITION
from ml_platform.serving.bento_build import build_bento
from ml_platform.serving.bento_locks import BentoLocks
from ml_platform.serving.desired_state import (
    DesiredState,
    ServedVersion,
    relative_bento,
    swap_desired_state,
)
from ml_platform.serving.in_process import ServedModel, ServedModelError
from ml_platform.serving.scored_table import score_table
from ml_platform.steps.batch_scoring import ScoredRowsError, score_partitions
from ml_platform.steps.candidates import build_training_sets, read_training_set, split_of
from ml_platform.training.candidate import fit_candidate
from ml_platform.training.model_directory import read_model, write_model
from ml_platform_tests.components.delivery_home import REPOSITORY, PlatformFixture, open_platform
from ml_platform_tests.components.delivery_model import (
    MONTHS,
    delivery_minutes_model,
    delivery_model,
    delivery_speed_model,
)
from resources.state import open_state

pytestmark = pytest.mark.slow

SCORES = {"dataset": "deliveries", "keep": ["delivery", "late"]}
IDENTIFIED = {
    "function": "assets.shop_deliveries:examples",
    "sources": ["deliveries"],
    "identity": ["shop", "ordered_at"],
}
LATER = datetime(2014, 1, 1, tzinfo=UTC)
CASES = {"late": delivery_model, "minutes": delivery_minutes_model, "speed": delivery_speed_model}


def scored_model(case: str = "late", **changes: object) -> ModelAssets:
    made = CASES[case]()
    declared = made.declared.model_copy(update={"scores": None})
    return ModelAssets(
        type(declared).model_validate(declared.model_dump(exclude_unset=True) | {"scores": SCORES} | changes),
        made.views,
    )


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformFixture]:
    with open_platform(tmp_path_factory.mktemp("repository") / ".ml_platform") as made:
        made.land()
        for name in CASES:
            serve(made, scored_model(name))
        yield made


def serve(platform: PlatformFixture, model: ModelAssets) -> None:
    """Fit ``model`` for March and let its bento serve as version 1, without registry and evaluation."""
    build_training_sets(model, MONTHS, platform.lake)
    split = split_of(model, "2013-03", read_training_set(model, "2013-03", platform.lake))
    settings = model.declared.trainers["lightgbm"]
    candidate = fit_candidate(split, model.feature_set.feature_names, settings, task=model.declared.task)
    home, directory = platform.home, model_folder(platform, model.name)
    write_model(
        directory,
        candidate,
        name=model.name,
        target=model.declared.target,
        threshold=0.5 if model.declared.task.has_threshold else None,
        features=model.feature_set.to_dict(),
        contract=model.contract.model_dump(mode="json"),
    )
    locks = BentoLocks(REPOSITORY / "requirements.lock")
    built = build_bento(directory, model.contract, version="1", bentos_root=home.bentos, locks=locks)
    stable = ServedVersion(version="1", bento=relative_bento(built.path, home.bentos))
    swap_desired_state(open_state(home), model.name, DesiredState(stable=stable, weights={"stable": 100}), 0)


def model_folder(platform: PlatformFixture, name: str) -> Path:
    return platform.home.models / name / "1"


@pytest.mark.parametrize("name", list(CASES))
def test_scores_of_past_rows_equal_those_of_training_to_the_last_bit(platform: PlatformFixture, name: str) -> None:
    model = scored_model(name)
    stores = platform.stores
    (written,) = score_partitions(model, ["2013-04"], stores, LATER)
    assert written.table_name is not None
    found = platform.lake.scan(written.table_name, partitions=["2013-04"]).drop(PARTITION).collect().sort("delivery")
    training = platform.lake.scan(model.table, partitions=["2013-04"]).collect().sort("example_id")
    expected = read_model(model_folder(platform, name)).answer_numbers(training)
    assert (found["score"].to_numpy() == (expected if expected.ndim == 1 else expected[:, 0])).all()
    assert found.height == 840
    assert found["predict_at"].equals(training["predict_at"])
    assert found["as_of"].equals(found["predict_at"].rename("as_of"))
    assert (found["version"] == "1").all()
    assert written.refused == 0
    details = {
        "late": {"label"},
        "minutes": {"interval__lower", "interval__upper"},
        "speed": {"label", "probabilities__slow"},
    }[name]
    assert details <= set(found.columns)
    if name == "minutes":
        assert "label" not in found.columns
        np.testing.assert_array_equal(found.select("interval__lower", "interval__upper").to_numpy(), expected[:, 1:])


def test_rows_of_the_future_are_scored_with_what_the_endpoint_knows_now(platform: PlatformFixture) -> None:
    model = scored_model()
    stores = platform.stores
    served = ServedModel.in_home("late", stores.home.root, stores.state)
    now = datetime(2013, 4, 20, 12, tzinfo=UTC)
    rows = pl.DataFrame(
        {
            "shop": ["s0", "s1", "new"],
            "distance": [0.1, None, 3.0],
            "ordered_at": pl.Series([now + timedelta(days=1)] * 3, dtype=pl.Datetime("us", "UTC")),
        }
    )
    logs = served.predictor.features.logs(stores.lake)
    scored = score_table(served, rows, logs, now, ["shop"])
    assert scored.refused == 1
    assert [(each.row, each.reason) for each in scored.refusals] == [(1, "field")]
    assert scored.refusals[0].message == "distance: expected a finite number, found null"
    assert scored.rows["shop"].to_list() == ["s0", "new"]
    assert scored.rows["as_of"].to_list() == [now, now]
    assert scored.rows.select("missing", "rules", "degraded").rows() == [([], [], False), (["shops"], [], True)]
    # The same rows rest on newer facts a day later.
    later = score_table(served, rows, logs, now + timedelta(days=1))
    assert later.rows["as_of"].to_list() == [now + timedelta(days=1)] * 2
    assert model.scored_columns == ["shop", "distance", "ordered_at", "delivery", "late"]


def test_asset_scores_partitions_in_one_run_and_replaces_them(platform: PlatformFixture) -> None:
    model = scored_model(examples=IDENTIFIED)
    months = ["2013-03", "2013-04"]

    def run() -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [scores(model)],
            resources=platform.resources,
            tags={"dagster/asset_partition_range_start": months[0], "dagster/asset_partition_range_end": months[1]},
        )

    done = run()
    assert done.success
    shown = [
        {name: value.value for name, value in each.metadata.items()}
        for each in done.asset_materializations_for_node("late__scores")
    ]
    assert [each["dagster/row_count"] for each in shown] == [840, 840]
    table = str(shown[0]["dagster/table_name"])
    assert platform.lake.partitions(table) == months
    (check,) = done.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("all_rows_scored", True)
    version = platform.lake.version(table)
    assert run().success
    assert platform.lake.version(table) == version

    # Other columns make another table, and a row stays in one of them only.
    narrow = scored_model(examples=IDENTIFIED, scores={"dataset": "deliveries"})
    (written,) = score_partitions(narrow, ["2013-03"], platform.stores, LATER)
    assert written.table_name not in (None, table)
    assert platform.lake.partitions(table) == ["2013-04"]


def test_a_model_that_does_not_serve_and_rows_without_columns_are_named(platform: PlatformFixture) -> None:
    unserved = scored_model(name="unserved")
    with pytest.raises(ServedModelError, match=r"'unserved'.*expected a served model"):
        score_partitions(unserved, ["2013-04"], platform.stores, LATER)
    wrong = scored_model(scores={**SCORES, "keep": ["customer"]})
    with pytest.raises(ScoredRowsError, match=r"expected the columns 'customer', found only .*scores\.keep"):
        score_partitions(wrong, ["2013-04"], platform.stores, LATER)


def test_new_rows_are_scored_once_a_version_serves_and_old_ones_are_not(platform: PlatformFixture) -> None:
    model = scored_model()
    key, dataset, rollout = model.key("scores"), dg.AssetKey(["datasets", "deliveries"]), model.key("rollout")
    months = model.partitions_def
    features = dg.AssetKey(["features", "shops"])
    upstream = [dg.AssetSpec(each, partitions_def=months) for each in (dataset, rollout, features)]
    defs = dg.Definitions(assets=[scores(model), *upstream], resources=platform.resources)
    with dg.DagsterInstance.ephemeral() as instance:
        seen: list[AssetDaemonCursor] = []

        def land(asset: dg.AssetKey, month: str) -> None:
            instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=month))

        def requested() -> set[str | None]:
            found = dg.evaluate_automation_conditions(defs, instance, cursor=seen[-1] if seen else None)
            seen.append(found.cursor)
            return set(found.get_requested_partitions(key))

        land(dataset, "2013-01")
        assert requested() == set()  # it landed before the first look
        land(dataset, "2013-02")
        assert requested() == set()  # nothing serves yet
        land(rollout, "2013-02")
        assert requested() == {"2013-02"}
        land(rollout, "2013-03")
        land(features, "2013-02")
        assert requested() == set()  # neither a new version nor later features score it again
        land(dataset, "2013-02")
        assert requested() == {"2013-02"}
