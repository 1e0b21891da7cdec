"""Retention settings: values of a dataset or a model replace those of the platform, and null keeps for ever."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from ml_platform.steps.retention import (
    DatasetRetention,
    ModelPolicy,
    ModelRetention,
    RetentionPolicies,
    RetentionSettings,
    read_retention,
)

PLATFORM = RetentionSettings(table_versions_days=30, raw_files_days=90, predictions_days=None)


def test_only_declared_values_replace_those_of_the_platform() -> None:
    own = PLATFORM.with_values_of(DatasetRetention(raw_files_days=None))
    assert (own.raw_files_days, own.table_versions_days) == (None, 30)
    model = PLATFORM.with_values_of(ModelRetention(predictions_days=400, bentos_days=None))
    assert (model.predictions_days, model.bentos_days, model.candidates_days) == (400, None, 90)
    assert PLATFORM.with_values_of(None) is PLATFORM


def test_table_has_the_retention_of_its_dataset_or_model() -> None:
    def days(count: int) -> RetentionSettings:
        return RetentionSettings(table_versions_days=count)

    policies = RetentionPolicies(days(1), {"orders": days(2)}, {"late": ModelPolicy(days(3))})
    tables = [
        "datasets/orders",
        "datasets/other",
        "models/late/training_set/ab",
        "models/gone/outcomes",
        "features/x/y",
    ]
    assert [policies.of_table(table).table_versions_days for table in tables] == [2, 1, 3, 1, 1]


def test_predictions_have_an_end_and_their_outcomes_have_none_unless_it_is_declared() -> None:
    found = RetentionSettings()
    assert (found.predictions_days, found.outcomes_days) == (730, None)
    kept = found.with_values_of(ModelRetention(predictions_days=None))
    assert kept.predictions_days is None


@pytest.mark.parametrize("days", [0, -1])
def test_less_than_a_day_is_refused(days: int) -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        RetentionSettings(table_versions_days=days)


@pytest.mark.parametrize(("predictions", "outcomes"), [(None, 100), (200, 100)])
def test_outcomes_stay_as_long_as_their_predictions(predictions: int | None, outcomes: int) -> None:
    with pytest.raises(ValidationError, match="expected at least predictions_days"):
        ModelRetention(predictions_days=predictions, outcomes_days=outcomes)
    with pytest.raises(ValidationError, match="expected at least predictions_days"):
        RetentionSettings(predictions_days=predictions).with_values_of(
            ModelRetention.model_construct(_fields_set={"outcomes_days"}, outcomes_days=outcomes)
        )


def test_parameters_of_a_repository_are_read(tmp_path: Path) -> None:
    assert read_retention(tmp_path) == RetentionSettings()
    (tmp_path / "params.yaml").write_text("retention: {runs_days: 7, logs_days: null}\n")
    found = read_retention(tmp_path)
    assert (found.runs_days, found.logs_days, found.bentos_days) == (7, None, 30)
    (tmp_path / "params.yaml").write_text("retention: {run_days: 7}\n")
    with pytest.raises(ValidationError, match="Did you mean 'runs_days'"):
        read_retention(tmp_path)


def test_parameters_of_this_repository_name_every_setting_with_its_default() -> None:
    repository = Path(__file__).parents[2]
    assert read_retention(repository) == RetentionSettings()
    text = (repository / "params.yaml").read_text()
    assert [name for name in RetentionSettings.model_fields if f"  {name}: " not in text] == []
