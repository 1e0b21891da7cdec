"""How long each kind of content is kept: settings of the platform, and of single datasets and models.

``params.yaml`` contains the settings of the platform under ``retention``. A ``retention`` of a dataset or a model in
``defs.yaml`` replaces single values of them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, model_validator

from ml_platform.data.settings import Settings

Days = Annotated[int | None, Field(ge=1)]
"""A number of days; None keeps the content for ever."""


class DatasetRetention(Settings):
    """How long the content of a dataset is kept (days); null keeps it for ever."""

    raw_files_days: Days = Field(
        default=None, description="Landed files after their content was published (days); null: for ever."
    )
    table_versions_days: Days = Field(
        default=30, description="Replaced versions of tables that no model version pins (days); null: for ever."
    )
    reports_days: Days = Field(default=365, description="Data Docs and drift reports (days); null: for ever.")


class ModelRetention(Settings):
    """How long the content of a model is kept (days); null keeps it for ever."""

    table_versions_days: Days = Field(
        default=30, description="Replaced versions of tables that no model version pins (days); null: for ever."
    )
    predictions_days: Days = Field(
        default=730,
        description="Logged predictions (days); null: for ever. Their outcomes and measured performance stay.",
    )
    prediction_pii_days: Days = Field(
        default=365,
        description="Values in logged predictions that identify a person (days); null: as long as the predictions.",
    )
    outcomes_days: Days = Field(
        default=None, description="Outcomes of predictions (days), at least predictions_days; null: for ever."
    )
    prediction_logs_days: Days = Field(
        default=7, description="Log files of services after their ingestion (days); null: for ever."
    )
    bentos_days: Days = Field(
        default=30, description="Bentos of versions that are not protected (days); null: for ever."
    )
    candidates_days: Days = Field(
        default=90, description="Versions that were never champion, with their artifacts (days); null: for ever."
    )
    champions_days: Days = Field(
        default=365, description="Former champions since they were replaced (days); null: for ever."
    )
    checkpoints_days: Days = Field(
        default=30, description="Checkpoints, searches and downloaded copies of models (days); null: for ever."
    )
    reports_days: Days = Field(default=365, description="Data Docs and drift reports (days); null: for ever.")

    @model_validator(mode="after")
    def _outcomes_stay_as_long_as_predictions(self) -> Self:
        # The join would add the removed outcomes of a stored prediction again.
        if self.outcomes_days is not None and (self.predictions_days or float("inf")) > self.outcomes_days:
            raise ValueError(
                f"outcomes_days: expected at least predictions_days ({self.predictions_days or 'for ever'}), "
                f"found {self.outcomes_days}"
            )
        return self


class RetentionSettings(DatasetRetention, ModelRetention):
    """How long each kind of content is kept (days); null keeps it for ever."""

    runs_days: Days = Field(
        default=90, description="Ended Dagster runs without the latest result of an asset (days); null: for ever."
    )
    step_costs_days: Days = Field(
        default=40, description="Costs of single steps (days); null: for ever. Their sums by asset and day stay."
    )
    cost_days: Days = Field(
        default=1100, description="Costs of an asset on a day (days), about three years; null: for ever."
    )
    logs_days: Days = Field(default=30, description="Log files that no process writes any more (days).")
    dead_letters_days: Days = Field(
        default=180, description="Records of runs that the tracking server rejected (days); null: for ever."
    )

    def with_values_of(self, own: DatasetRetention | ModelRetention | None) -> "RetentionSettings":
        """Return these settings with the values that ``own`` sets."""
        if own is None:
            return self
        return RetentionSettings.model_validate(self.model_dump() | own.model_dump(include=own.model_fields_set))


@dataclass(frozen=True)
class ModelPolicy:
    """Retention of one model, with the columns that identify a person and the fields that identify an example."""

    retention: RetentionSettings
    pii_columns: Collection[str] = frozenset()
    identity: Collection[str] = ()


@dataclass(frozen=True)
class RetentionPolicies:
    """Retention of the platform, of each declared dataset and of each declared model.

    ``current_tables`` are the tables of training sets and change logs for the code of now. With ``keeps_tables``, all
    versions of tables stay.
    """

    platform: RetentionSettings
    datasets: Mapping[str, RetentionSettings] = field(default_factory=dict)
    models: Mapping[str, ModelPolicy] = field(default_factory=dict)
    current_tables: Collection[str] = frozenset()
    keeps_tables: bool = False

    def of_dataset(self, name: str) -> RetentionSettings:
        """Return the retention of the dataset ``name``, declared or not."""
        return self.datasets.get(name, self.platform)

    def of_model(self, name: str) -> ModelPolicy:
        """Return the retention of the model ``name``, declared or not."""
        return self.models.get(name) or ModelPolicy(self.platform)

    def of_table(self, table: str) -> RetentionSettings:
        """Return the retention of a table of the lake."""
        area, _, rest = table.partition("/")
        name = rest.partition("/")[0]
        if area == "datasets":
            return self.of_dataset(name)
        return self.of_model(name).retention if area == "models" else self.platform


def read_retention(repository: Path) -> RetentionSettings:
    """Return the settings under ``retention`` in `params.yaml` of ``repository``, or the defaults."""
    path = repository / "params.yaml"
    parameters: dict[str, Any] = yaml.safe_load(path.read_text()) if path.exists() else {}
    return RetentionSettings.model_validate((parameters or {}).get("retention") or {})
