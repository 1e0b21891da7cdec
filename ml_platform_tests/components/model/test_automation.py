"""A model is retrained once per content of its training sets, and assets follow their inputs month by month."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from dagster._core.definitions.data_version import CODE_VERSION_TAG

from ml_platform.components.loading import bound_model
from ml_platform.components.model.automation import due_window, new_window_sensor, training_schedule
from ml_platform.components.model.evaluation import evaluation
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.data.partitions import PartitionScheme
from ml_platform.definitions import defs
from ml_platform.steps.arriving import record_parts, sources_of_parts
from ml_platform.steps.candidate_inputs import candidate_version
from ml_platform.steps.model_settings import RetrainingSettings
from ml_platform.training.splits import TimeSplit
from resources.home import Home
from resources.lake import LakeResource
from resources.mlflow import MlflowResource

NOW = datetime(2014, 1, 1, tzinfo=UTC)
TRAINING_SET = dg.AssetKey(["departure_risk", "training_set"])


@pytest.fixture(scope="module")
def model() -> ModelAssets:
    """Return the model, with partitions from May on."""
    found = bound_model("departure_risk")
    partitions = found.partitions.model_copy(update={"start": "2013-05"})
    return ModelAssets(found.declared.model_copy(update={"partitions": partitions}), found.views)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def lake(tmp_path: Path) -> LakeResource:
    return LakeResource.for_home(Home(tmp_path / "home"))


MLFLOW = MlflowResource(tracking_uri="http://127.0.0.1:9")
"""No server; none is needed while no budget is declared."""


def make(instance: dg.DagsterInstance, key: dg.AssetKey, month: str) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=month))


def make_training_set(
    model: ModelAssets, instance: dg.DagsterInstance, lake: LakeResource, month: str, row: str
) -> None:
    lake.lake().write(model.table, pl.DataFrame({"example_id": [row]}), month)
    make(instance, TRAINING_SET, month)


def make_candidates(instance: dg.DagsterInstance, model: ModelAssets, month: str) -> None:
    for key in model.candidate_keys.values():
        make(instance, key, month)


def evaluate_sensor(
    model: ModelAssets, instance: dg.DagsterInstance, lake: LakeResource
) -> dg.RunRequest | dg.SkipReason:
    with dg.build_sensor_context(instance=instance, resources={"lake": lake, "mlflow": MLFLOW}) as context:
        result = new_window_sensor(model)(context)
    assert isinstance(result, dg.RunRequest | dg.SkipReason)
    return result


def test_sensor_skips_without_a_training_set(
    model: ModelAssets, instance: dg.DagsterInstance, lake: LakeResource
) -> None:
    result = evaluate_sensor(model, instance, lake)

    assert isinstance(result, dg.SkipReason)
    assert "No training set" in str(result.skip_message)


def test_sensor_requests_the_training_cycle_of_the_latest_month(
    model: ModelAssets, instance: dg.DagsterInstance, lake: LakeResource
) -> None:
    for month in ("2013-05", "2013-06"):
        make_training_set(model, instance, lake, month, "a")
    result = evaluate_sensor(model, instance, lake)

    assert isinstance(result, dg.RunRequest)
    assert result.partition_key == "2013-06"
    assert {key.path[1] for key in result.asset_selection or ()} >= {"candidate_lightgbm", "evaluation", "rollout"}
    assert TRAINING_SET not in (result.asset_selection or ())


def test_run_key_is_equal_for_equal_rows_and_differs_for_other_rows(
    model: ModelAssets, instance: dg.DagsterInstance, lake: LakeResource
) -> None:
    make_training_set(model, instance, lake, "2013-05", "a")
    make_training_set(model, instance, lake, "2013-06", "a")
    first = evaluate_sensor(model, instance, lake)
    make_training_set(model, instance, lake, "2013-06", "a")
    again = evaluate_sensor(model, instance, lake)
    make_training_set(model, instance, lake, "2013-05", "b")
    corrected = evaluate_sensor(model, instance, lake)

    assert isinstance(first, dg.RunRequest)
    assert isinstance(again, dg.RunRequest)
    assert isinstance(corrected, dg.RunRequest)
    assert first.run_key == again.run_key
    assert corrected.run_key != first.run_key
    assert corrected.partition_key == "2013-06"


def test_gap_in_the_training_sets_is_named_and_not_trained_on(
    model: ModelAssets, instance: dg.DagsterInstance, lake: LakeResource
) -> None:
    for month in ("2013-05", "2013-08"):
        make_training_set(model, instance, lake, month, "a")
    result = evaluate_sensor(model, instance, lake)

    assert isinstance(result, dg.SkipReason)
    assert "waits for the training sets of '2013-06', '2013-07': 2013-08 needs them" in str(result.skip_message)


def test_partial_week_is_named_with_its_missing_days(
    model: ModelAssets, instance: dg.DagsterInstance, lake: LakeResource
) -> None:
    days = PartitionScheme(cadence="day", start="2013-01-01", time_zone="America/New_York")
    weeks = PartitionScheme(cadence="week", start="2013-06-02", time_zone="America/New_York")
    declared = model.declared.model_copy(update={"partitions": weeks, "first_candidate": None})
    weekly = ModelAssets(declared, model.views, schemes={"flights": days})
    for day in days.between("2013-06-02", "2013-06-06"):
        lake.lake().write("datasets/flights", pl.DataFrame({"flight": [1]}), day)
    result = due_window(instance, weekly, lake.lake(), NOW)

    assert isinstance(result, dg.SkipReason)
    assert (
        "2013-06-02 is not closed: it waits for 2 of 7 partitions of datasets/flights ('2013-06-07', '2013-06-08')"
        in str(result.skip_message)
    )


def test_window_is_trained_once_every_step_and_days_between_cause_no_training(
    model: ModelAssets, instance: dg.DagsterInstance, lake: LakeResource
) -> None:
    days = PartitionScheme(cadence="day", start="2013-06-01")
    split = TimeSplit(evaluation="28d", step="7d", validation="7d", train="7d")
    update = {"partitions": days, "first_candidate": "2013-07-20", "split": split}
    stepped = ModelAssets(model.declared.model_copy(update=update), model.views)

    def build(first: str, last: str) -> None:
        for day in days.between(first, last):
            make_training_set(stepped, instance, lake, day, "a")

    def due() -> object:
        found = due_window(instance, stepped, lake.lake(), NOW)
        return str(found.skip_message) if isinstance(found, dg.SkipReason) else found[0]

    build("2013-06-01", "2013-07-19")
    assert due() == f"No test part of '{model.name}' has ended yet: the first one ends with 2013-07-20."
    build("2013-07-20", "2013-07-22")
    assert due() == "2013-07-20"
    make_candidates(instance, stepped, "2013-07-20")
    build("2013-07-23", "2013-07-26")
    assert "The candidates of 2013-07-20 are newer" in str(due())
    build("2013-07-02", "2013-07-02")  # a correction of rows that these candidates read
    assert due() == "2013-07-20"
    build("2013-07-27", "2013-07-28")
    assert due() == "2013-07-27"


def test_manually_materialized_candidates_are_not_requested_again(
    model: ModelAssets, instance: dg.DagsterInstance, lake: LakeResource
) -> None:
    for month in ("2013-05", "2013-06"):
        make_training_set(model, instance, lake, month, "a")
    make_candidates(instance, model, "2013-06")

    result = evaluate_sensor(model, instance, lake)
    assert isinstance(result, dg.SkipReason)
    assert "The candidates of 2013-06 are newer than the latest training set" in str(result.skip_message)


def test_months_before_the_first_candidate_are_skipped(
    model: ModelAssets, instance: dg.DagsterInstance, lake: LakeResource
) -> None:
    later = ModelAssets(model.declared.model_copy(update={"first_candidate": "2013-04"}), model.views)
    make_training_set(later, instance, lake, "2013-02", "a")

    result = due_window(instance, later, lake.lake(), NOW)
    assert isinstance(result, dg.SkipReason)
    assert "trained from 2013-04 on" in str(result.skip_message)


def test_schedule_requests_the_latest_month(model: ModelAssets, lake: LakeResource, tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        make_training_set(model, instance, lake, "2013-05", "a")
        make_training_set(model, instance, lake, "2013-06", "a")
        with dg.build_schedule_context(instance=instance, resources={"lake": lake, "mlflow": MLFLOW}) as context:
            result = training_schedule(model, "0 3 * * *")(context)

    assert isinstance(result, dg.RunRequest)
    assert result.partition_key == "2013-06"


@pytest.mark.parametrize(
    ("declared", "sensors", "schedules"),
    [
        ({}, {"departure_risk_new_window"}, set()),
        ({"on_new_partition": False}, set(), set()),
        ({"cron": "0 3 * * *"}, {"departure_risk_new_window"}, {"departure_risk_retrain"}),
    ],
)
def test_declared_retraining_settings_select_sensors_and_schedules(
    model: ModelAssets, declared: dict[str, object], sensors: set[str], schedules: set[str]
) -> None:
    settings = RetrainingSettings.model_validate(declared)
    made = model.declared.model_copy(update={"retraining": settings}).automation_definitions(model)  # type: ignore[attr-defined]

    assert {each.name for each in made.sensors or ()} == sensors | {"departure_risk_waiting_candidates"}
    assert {each.name for each in made.schedules or ()} == schedules | {
        "departure_risk_monitor",
        "departure_risk_reproduce",
    }


def test_months_follow_their_inputs_when_the_data_clock_is_years_behind_the_calendar(
    instance: dg.DagsterInstance,
) -> None:
    """Only May and June 2013 have landed, years before the current date."""
    loaded = defs()
    for name in ("airports", "planes"):
        instance.report_runless_asset_event(dg.AssetMaterialization(dg.AssetKey(["datasets", name])))
    for name in ("flights", "weather"):
        for month in ("2013-05", "2013-06"):
            make(instance, dg.AssetKey(["datasets", name]), month)
    for key in (
        check for check in loaded.resolve_asset_graph().asset_check_keys if check.asset_key.path[0] == "datasets"
    ):
        instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(asset_key=key.asset_key, check_name=key.name, passed=True, metadata={})
        )

    requested = dg.evaluate_automation_conditions(loaded, instance)
    weather = requested.get_requested_partitions(dg.AssetKey(["features", "weather"]))
    assert "2013-06" in weather
    assert "2013-07" not in weather


def test_request_views_do_not_wait_for_missing_months_of_their_inputs(
    instance: dg.DagsterInstance,
) -> None:
    requested = dg.evaluate_automation_conditions(defs(), instance)

    assert requested.get_num_requested(dg.AssetKey(["features", "outlook"])) == 1
    assert requested.get_num_requested(dg.AssetKey(["features", "weather"])) == 0


def test_evaluation_is_of_another_code_version_without_one_of_its_trainers(model: ModelAssets) -> None:
    trainers = dict(model.declared.trainers)
    assert len(trainers) > 1
    _, fewer = trainers.popitem(), trainers
    without = ModelAssets(model.declared.model_copy(update={"trainers": fewer}), model.views)
    versions = [evaluation(each).get_asset_spec().code_version for each in (model, without)]
    assert versions[0] != versions[1]
    assert versions[0] == evaluation(model).get_asset_spec().code_version


def test_evaluation_is_of_another_code_version_with_other_gates(model: ModelAssets) -> None:
    changed = ModelAssets(model.declared.model_copy(update={"gates": model.declared.gates[:1]}), model.views)
    (code, rules), (same_code, other_rules) = (
        str(evaluation(each).get_asset_spec().code_version).split("-") for each in (model, changed)
    )
    assert code == same_code
    assert rules != other_rules


def make_with_code(instance: dg.DagsterInstance, model: ModelAssets, month: str, version: str | None = None) -> None:
    """Report the candidates of ``month``, made by the code version ``version``, or by that of today."""
    for name, key in model.candidate_keys.items():
        made_by = version or candidate_version(model, model.declared.trainers[name])
        made = dg.AssetMaterialization(key, partition=month, tags={CODE_VERSION_TAG: made_by})
        instance.report_runless_asset_event(made)


def test_changed_code_of_the_candidates_waits_for_the_next_month_or_is_trained_at_once_as_declared(
    model: ModelAssets, instance: dg.DagsterInstance, lake: LakeResource
) -> None:
    at_once = RetrainingSettings.model_validate({"on_code_change": "automatic"})
    automatic = ModelAssets(model.declared.model_copy(update={"retraining": at_once}), model.views)
    for month in ("2013-05", "2013-06"):
        make_training_set(model, instance, lake, month, "a")
    first = evaluate_sensor(automatic, instance, lake)
    make_with_code(instance, model, "2013-06", "of-before")
    waiting, requested = evaluate_sensor(model, instance, lake), evaluate_sensor(automatic, instance, lake)
    make_training_set(model, instance, lake, "2013-06", "b")  # by changed code of a view
    still_waiting = evaluate_sensor(model, instance, lake)
    make_with_code(instance, model, "2013-06")
    done = [evaluate_sensor(each, instance, lake) for each in (model, automatic)]
    make_with_code(instance, model, "2013-06", "of-before")
    make_training_set(model, instance, lake, "2013-07", "a")
    next_month = evaluate_sensor(model, instance, lake)

    for each in (waiting, still_waiting):
        assert isinstance(each, dg.SkipReason)
        assert "The code behind 'lightgbm', 'torch' has changed since the candidates of 2013-06" in str(
            each.skip_message
        )
    assert isinstance(first, dg.RunRequest)
    assert isinstance(requested, dg.RunRequest)
    assert requested.partition_key == "2013-06"
    assert requested.run_key != first.run_key
    for each in done:
        assert isinstance(each, dg.SkipReason)
        assert "The candidates of 2013-06 are newer than the latest training set" in str(each.skip_message)
    assert isinstance(next_month, dg.RunRequest)
    assert next_month.partition_key == "2013-07"


def test_month_that_has_not_ended_is_not_trained_on(
    model: ModelAssets, instance: dg.DagsterInstance, lake: LakeResource
) -> None:
    def land_july(until: datetime) -> None:
        instants = {name: [until] for name in ("departed_at", "arrived_at", "observed_at")}
        for dataset in ("flights", "weather"):
            lake.lake().write(f"datasets/{dataset}", pl.DataFrame(instants), "2013-07")

    for month in ("2013-05", "2013-06", "2013-07"):
        make_training_set(model, instance, lake, month, "a")
    land_july(datetime(2013, 7, 25, 18, 40, tzinfo=UTC))
    requested = evaluate_sensor(model, instance, lake)
    make_candidates(instance, model, "2013-06")
    make_training_set(model, instance, lake, "2013-07", "b")
    skipped = evaluate_sensor(model, instance, lake)
    land_july(datetime(2013, 8, 1, 3, 59, tzinfo=UTC))
    ended = evaluate_sensor(model, instance, lake)

    assert isinstance(requested, dg.RunRequest)
    assert requested.partition_key == "2013-06"
    assert isinstance(skipped, dg.SkipReason)
    assert "datasets/flights has arrived until 2013-07-25 15:00" in str(skipped.skip_message)
    assert isinstance(ended, dg.RunRequest)
    assert ended.partition_key == "2013-07"


def test_training_set_of_a_part_is_built_again_before_its_month_is_trained_on(
    model: ModelAssets, instance: dg.DagsterInstance, lake: LakeResource
) -> None:
    def land_july(until: datetime, rows: int = 1) -> None:
        instants = {name: [until] * rows for name in ("departed_at", "arrived_at", "observed_at")}
        for dataset in ("flights", "weather"):
            lake.lake().write(f"datasets/{dataset}", pl.DataFrame(instants), "2013-07")

    def build_july(content: str) -> None:
        tables = lake.lake()
        parts = sources_of_parts(model, ["2013-07"], tables)
        make_training_set(model, instance, lake, "2013-07", content)
        record_parts(model, ["2013-07"], parts, tables)

    for month in ("2013-05", "2013-06"):
        make_training_set(model, instance, lake, month, "a")
    make_candidates(instance, model, "2013-06")
    land_july(datetime(2013, 7, 31, 18, 40, tzinfo=UTC))
    build_july("a")
    land_july(datetime(2013, 8, 1, 3, 59, tzinfo=UTC))
    of_a_part = evaluate_sensor(model, instance, lake)
    build_july("b")
    whole = evaluate_sensor(model, instance, lake)
    land_july(datetime(2013, 8, 1, 3, 59, tzinfo=UTC), rows=2)
    corrected = evaluate_sensor(model, instance, lake)

    assert isinstance(of_a_part, dg.SkipReason)
    assert "its training set was built before the last rows of 'datasets/flights'" in str(of_a_part.skip_message)
    for each in (whole, corrected):  # a later correction is another content, of which a run of its own follows
        assert isinstance(each, dg.RunRequest)
        assert each.partition_key == "2013-07"
