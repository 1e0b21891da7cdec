"""A model without time, and one with request features only: rows, keys, splits, baselines and what does not apply."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import polars as pl
import pytest
from pydantic import ValidationError

from ml_platform.components.declaration import DeclarationError
from ml_platform.components.model.automation import due_table
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.model.training import training_set
from ml_platform.components.model.validation import validate_declaration
from ml_platform.data.lake import LakeError
from ml_platform.features.view import FeatureView
from ml_platform.registry.manifest import Manifest
from ml_platform.steps.candidate_inputs import declared_inputs
from ml_platform.steps.candidates import (
    build_training_sets,
    data_clock,
    fitted_examples,
    read_training_set,
    split_of,
)
from ml_platform.steps.evaluation import leaking_features
from ml_platform.steps.feature_checks import NOT_APPLICABLE, check_late_fields, screen_training_set
from ml_platform.steps.model import ModelWithoutTimeError
from ml_platform.steps.packaging import reference_rows
from ml_platform.steps.untimed import training_set_key
from ml_platform.training.training_set import ExamplesError, NoExamplesError
from ml_platform_tests.components.delivery_home import PlatformFixture, open_platform
from ml_platform_tests.components.delivery_model import FUNCTIONS, VIEWS, deliveries, delivery_model

ROWS = deliveries("2013-01")
REQUEST = [{"name": "shop", "type": "string"}, {"name": "distance", "type": "float"}]
ORDER = [view for view in VIEWS if view.name == "order"]


def untimed(views: list[FeatureView] | None = None, **changes: Any) -> ModelAssets:
    """Return the delivery model without time: one table, and request features only."""
    table: dict[str, Any] = {
        "time": "none",
        "partitions": None,
        "prediction_time": None,
        "examples": {"function": f"{FUNCTIONS}:table_of_examples", "sources": ["deliveries"]},
        "request": REQUEST,
        "features": ["order"],
        "evaluation": {"bootstrap": {"resamples": 200}},
    }
    model = delivery_model(**(table | changes))
    return ModelAssets(model.declared, ORDER if views is None else views, schemes={"deliveries": None})


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformFixture]:
    """A home with one whole table of deliveries, and the training set of the model without time."""
    with open_platform(tmp_path_factory.mktemp("repository") / ".ml_platform") as made:
        made.lake.write("datasets/deliveries", ROWS, None)
        build_training_sets(untimed(), [], made.lake)
        yield made


def test_training_set_is_one_table_under_the_key_of_its_rows(platform: PlatformFixture) -> None:
    model = untimed()
    key = training_set_key(model, platform.lake)
    rows = read_training_set(model, key, platform.lake)

    assert list(build_training_sets(model, [], platform.lake)) == [key]  # equal rows have one key
    assert rows.columns == ["example_id", "label", "shop", "distance", "order__distance"]
    assert rows["example_id"].to_list() == sorted(ROWS["delivery"])
    assert platform.lake.partitions(model.table) == []


def test_replaced_table_has_another_key_and_old_rows_stay_readable(platform: PlatformFixture) -> None:
    model = untimed(name="replaced")
    (old,) = build_training_sets(model, [], platform.lake)
    pinned = (model.table, platform.lake.version(model.table))
    clock = data_clock(model, platform.lake)
    frame = read_training_set(model, old, platform.lake).tail(500)
    platform.lake.write(model.table, frame, None)

    new = training_set_key(model, platform.lake)
    assert new != old
    assert read_training_set(model, new, platform.lake).height == 500
    with pytest.raises(LakeError, match=f"expected the rows {old}, found the rows {new}, because the table was"):
        read_training_set(model, old, platform.lake)
    assert platform.lake.scan(*pinned).collect().height == ROWS.height
    assert data_clock(model, platform.lake) > clock


def test_default_split_is_by_hash_and_stratified(platform: PlatformFixture) -> None:
    model = untimed()
    split = split_of(model, "any", read_training_set(model, training_set_key(model, platform.lake), platform.lake))
    late, tested = (int(labels.sum()) for labels in (ROWS["late"], split.test["label"]))
    assert abs(tested - 0.2 * late) <= 1
    assert "time_zone" not in declared_inputs(model)
    assert declared_inputs(model)["split"]["by"] == "hash"


def test_group_of_the_split_need_not_be_in_the_request(platform: PlatformFixture) -> None:
    model = untimed(name="by_day", split={"by": "group", "column": "order_day"})
    (key,) = build_training_sets(model, [], platform.lake)
    split = split_of(model, key, read_training_set(model, key, platform.lake))
    assert not set(split.train["order_day"]) & set(split.test["order_day"])
    # The rows of a day are alike, so the intervals draw whole days.
    assert model.declared.evaluation.bootstrap.unit == "order_day"
    assert untimed().declared.evaluation.bootstrap.unit == "row"


def test_rows_on_which_a_version_was_fitted_are_those_of_its_own_split(platform: PlatformFixture) -> None:
    model = untimed()
    key = training_set_key(model, platform.lake)
    split = split_of(model, key, read_training_set(model, key, platform.lake))
    tables = {model.table: platform.lake.version(model.table) or 0}
    manifest = Manifest.model_construct(tables=tables, partition=key, first_month=None, declared=declared_inputs(model))

    assert sorted(fitted_examples(model, manifest, platform.lake)) == sorted(split.known["example_id"])
    other = untimed(split={"by": "hash", "seed": 9})
    assert sorted(fitted_examples(other, manifest, platform.lake)) == sorted(split.known["example_id"])


def test_what_needs_a_time_is_not_applicable(platform: PlatformFixture) -> None:
    model = untimed()
    assert check_late_fields(model, platform.lake) == screen_training_set(model, platform.lake) == NOT_APPLICABLE
    assert NOT_APPLICABLE.reason == "Not applicable: the model has no time."
    assert leaking_features(model, training_set_key(model, platform.lake), platform.lake) == []
    with pytest.raises(ModelWithoutTimeError, match="expected partitions of time, found time: none"):
        _ = model.partitions
    assert reference_rows(model, "any", platform.lake)["predict_at"].n_unique() == 1


def test_assets_have_no_partitions_and_the_sensor_waits_for_other_rows(platform: PlatformFixture) -> None:
    model = untimed()
    with dg.DagsterInstance.ephemeral() as instance:
        key = training_set_key(model, platform.lake)
        assert due_table(instance, model, platform.lake) == (key, key)
        done = dg.materialize([training_set(model)], resources=platform.resources, instance=instance)
        assert done.success
        (event,) = done.get_asset_materialization_events()
        assert event.materialization.partition is None
        checks = {each.check_name: each.description for each in done.get_asset_check_evaluations()}
        assert checks["known_in_time"] == "Not evaluated: Not applicable: the model has no time."
        assert due_table(instance, untimed(name="never_built"), platform.lake).skip_message == (  # type: ignore[union-attr]
            "No training set of 'never_built' is materialized yet."
        )


def test_model_of_request_features_only_is_its_own_baseline(platform: PlatformFixture) -> None:
    assert (untimed().is_request_only, untimed().request_only) == (True, [])
    assert (delivery_model().is_request_only, delivery_model().request_only) == (False, ["when"])
    timed = delivery_model(features=["order", "when"], evaluation={})
    own = ModelAssets(timed.declared, [view for view in VIEWS if view.kind == "request"])
    assert (own.is_request_only, own.request_only) == (True, [])
    # Fewer views than the model has are a baseline of their own.
    fewer = delivery_model(features=["order", "when"], evaluation={"request_only": ["when"]})
    part = ModelAssets(fewer.declared, own.views)
    assert (part.is_request_only, part.request_only) == (False, ["when"])


def test_timed_model_of_request_features_only_has_no_leak(platform: PlatformFixture) -> None:
    declared = delivery_model(name="timed", features=["order", "when"], evaluation={}).declared
    model = ModelAssets(declared, [view for view in VIEWS if view.kind == "request"])
    platform.lake.write(model.table, pl.DataFrame({"example_id": ["a"]}), "2013-01")
    assert leaking_features(model, "2013-01", platform.lake) == []
    assert leaking_features(model, "2013-02", platform.lake) == []  # a month without rows


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"partitions": {"start": "2013-01"}}, ValidationError, "'time: none' has no partitions; remove them"),
        ({"prediction_time": {"field": "distance"}}, ValidationError, "'time: none' has no prediction_time"),
        ({"first_candidate": "2013-01"}, ValidationError, "has no first_candidate"),
        ({"split": {"train_months": 2}}, ValidationError, "has no split by time; declare split.by: hash"),
        ({"time": None}, ValidationError, "partitions and prediction_time missing; .* declare 'time: none'"),
        (
            {"evaluation": {"bootstrap": {"unit": "week"}}},
            DeclarationError,
            "'row' or a column of groups, because the model declares 'time: none', found 'week'",
        ),
        (
            {"gates": [{"type": "baseline", "required": ["request_only"]}]},
            DeclarationError,
            "baselines other than the model itself, which has request features only",
        ),
    ],
)
def test_declaration_that_needs_a_time_is_rejected(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        validated(**changes)


def validated(**changes: Any) -> ModelAssets:
    model = untimed(**changes)
    validate_declaration(model.declared, model)  # type: ignore[arg-type]
    return model


def test_view_with_partitions_or_an_age_is_rejected_at_load() -> None:
    (shops,) = [view for view in VIEWS if view.name == "shops"]
    model = untimed(views=[*ORDER, shops], features=["order", "shops"])
    validate_declaration(model.declared, model)  # type: ignore[arg-type] # a lookup without partitions is allowed
    aged = untimed(views=[*ORDER, shops.model_copy(update={"age": True})], features=["order", "shops"])
    with pytest.raises(DeclarationError, match="found 'shops', which has 'age'"):
        validate_declaration(aged.declared, aged)  # type: ignore[arg-type]
    partitioned = ModelAssets(model.declared, model.views, schemes={"deliveries": delivery_model().partitions})
    with pytest.raises(DeclarationError, match="found 'shops', which has partitions, months from 2013-01 to 2013-12"):
        validate_declaration(partitioned.declared, partitioned)  # type: ignore[arg-type]


def test_timed_model_may_split_by_hash_of_a_request_field_only() -> None:
    validate_declaration(
        (model := delivery_model(split={"by": "group", "column": "shop"})).declared,  # type: ignore[arg-type]
        model,
    )
    wrong = delivery_model(split={"by": "group", "column": "shopp"})
    with pytest.raises(DeclarationError, match=r"'shopp'.*Did you mean 'shop'"):
        validate_declaration(wrong.declared, wrong)  # type: ignore[arg-type]


def test_unfit_examples_are_rejected(platform: PlatformFixture) -> None:
    timed = untimed(name="timed_rows", examples={"function": f"{FUNCTIONS}:examples", "sources": ["deliveries"]})
    with pytest.raises(ExamplesError, match="no columns of time, because the model declares 'time: none'"):
        build_training_sets(timed, [], platform.lake)
    with open_platform(platform.home.root.parent / "empty") as other:
        other.lake.write("datasets/deliveries", ROWS.clear(), None)
        with pytest.raises(NoExamplesError, match="at least one example"):
            build_training_sets(untimed(), [], other.lake)
        other.lake.write("datasets/deliveries", pl.concat([ROWS, ROWS.head(3)]), None)
        with pytest.raises(ExamplesError, match="0 nulls and 3 repeated ids in 843 rows"):
            build_training_sets(untimed(), [], other.lake)
        with pytest.raises(LakeError, match="expected a training set, found none"):
            training_set_key(untimed(), other.lake)
