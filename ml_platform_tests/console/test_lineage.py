"""The lineage of columns: from a feature to columns of datasets, and from such a column to features and models."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from ml_platform.components.materializations import LINEAGE
from ml_platform.console.lineage import (
    DatasetColumns,
    DatasetLineage,
    LineageError,
    ModelInputs,
    ModelLineage,
    ProjectLineage,
    RecordedLineage,
    as_json,
    lineage_of,
    recorded_lineage,
)
from ml_platform.data.contract import ColumnRule
from ml_platform.features.lineage import SourceColumn
from ml_platform.features.view import FeatureView


def project() -> ProjectLineage:
    """Return two models on one dataset: both read the delays, one of them through a request view."""
    hourly = FeatureView.model_validate(
        {
            "name": "hourly",
            "function": "shop:hourly",
            "features": [{"name": "mean", "description": "Mean delay", "derived_from": ["flights.delay"]}],
            "sources": [{"dataset": "flights", "known_upfront": ["origin"], "available_from": {"left": ["delay"]}}],
        }
    )
    ratio = FeatureView.model_validate(
        {
            "name": "ratio",
            "kind": "request",
            "function": "shop:ratio",
            "inputs": ["hourly"],
            "features": [{"name": "share", "description": "Share of the delay"}],
        }
    )
    rules = [ColumnRule(name=name, type="float", description=name) for name in ("origin", "left", "delay", "gate")]
    return ProjectLineage(
        views={"hourly": hourly, "ratio": ratio},
        models={
            "late": ModelInputs("late", "air", ["hourly"], "shop:rows", ["flights"], []),
            "early": ModelInputs(
                "early", "air", ["ratio", "hourly"], "shop:others", ["plans"], [SourceColumn("flights", "gate")]
            ),
        },
        datasets={
            "flights": DatasetColumns("flights", "air", {rule.name: rule for rule in rules}, []),
            "plans": DatasetColumns("plans", "air", {rule.name: rule for rule in rules[:1]}, ["flights"]),
        },
    )


def test_model_shows_the_columns_of_each_feature() -> None:
    found = lineage_of(project(), {}, "early", dataset=False)
    assert [(each["column"], each["from"], each["function"]) for each in as_json(found)["features"]] == [
        ("ratio__share", ["flights.delay"], "shop:ratio"),
        ("hourly__mean", ["flights.delay"], "shop:hourly"),
    ]


def test_changed_column_concerns_its_features_the_views_that_read_it_and_their_models() -> None:
    found = as_json(lineage_of(project(), {}, "flights", dataset=False))
    delay = ["hourly.mean", "ratio.share"]
    assert [(each["features"], each["read_by"], each["labels_of"], each["models"]) for each in found["columns"]] == [
        ([], ["hourly"], [], ["late", "early"]),
        ([], ["hourly"], [], ["late", "early"]),
        (delay, [], [], ["late", "early"]),
        ([], [], ["early"], ["early"]),
    ]
    assert (found["examples_of"], found["lookup_of"]) == (["late"], ["plans"])


def test_record_of_the_materialization_counts_before_the_declaration() -> None:
    record = RecordedLineage(datetime(2024, 1, 1, tzinfo=UTC), "2024-01", {"mean": [SourceColumn("flights", "origin")]})
    found = lineage_of(project(), {"hourly": record}, "late", dataset=False)
    assert isinstance(found, ModelLineage)
    (view,) = found.views
    assert (list(map(str, view.features[0].sources)), view.changed) == (["flights.origin"], ["mean"])
    use = lineage_of(project(), {"hourly": record}, "flights", "origin", dataset=False)
    assert isinstance(use, DatasetLineage)
    assert [each.features for each in use.columns] == [{"hourly": ["mean"], "ratio": ["share"]}]


@pytest.mark.parametrize(("column", "columns"), [("mean", ["hourly__mean"]), ("ratio__share", ["ratio__share"])])
def test_column_narrows_the_features(column: str, columns: list[str]) -> None:
    found = as_json(lineage_of(project(), {}, "early", column, dataset=False))
    assert [each["column"] for each in found["features"]] == columns


@pytest.mark.parametrize(
    ("name", "column", "dataset", "message"),
    [
        ("flihts", "", False, r"expected a model or a dataset, found none .* Did you mean 'flights'\?"),
        ("late", "", True, "Name 'late': expected a dataset, found none .* 'flights', 'plans'"),
        ("flights", "delays", False, r"Column 'delays' of dataset 'flights': .* Did you mean 'delay'\?"),
        ("late", "mode", False, "Column 'mode' of model 'late': expected a feature of the model, as <view>__<feature>"),
    ],
)
def test_unknown_name_is_refused(name: str, column: str, dataset: bool, message: str) -> None:
    with pytest.raises(LineageError, match=message):
        lineage_of(project(), {}, name, column, dataset=dataset)


def test_latest_materialization_gives_the_record(tmp_path: Path) -> None:
    def made(partition: str, column: str) -> dg.AssetMaterialization:
        deps = {"mean": [dg.TableColumnDep(dg.AssetKey(["datasets", "flights"]), column)]}
        lineage = dg.TableColumnLineage(deps_by_column=deps)
        return dg.AssetMaterialization(["features", "hourly"], partition=partition, metadata={LINEAGE: lineage})

    with dg.DagsterInstance.ephemeral(str(tmp_path)) as instance:
        assert recorded_lineage(instance, ["hourly", "ratio"]) == {}
        instance.report_runless_asset_event(made("2024-01", "origin"))
        instance.report_runless_asset_event(made("2024-02", "delay"))
        instance.report_runless_asset_event(dg.AssetMaterialization(["features", "ratio"]))
        found = recorded_lineage(instance, ["hourly", "ratio"])
    assert list(found) == ["hourly"]
    assert found["hourly"].partition == "2024-02"
    assert found["hourly"].columns == {"mean": [SourceColumn("flights", "delay")]}
