"""The lineage of columns, for the pages and `ml-platform lineage`: where features come from, and who uses a column.

Dagster keeps the column lineage of an asset and does not show it without Dagster+.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from ml_platform.components.materializations import LINEAGE
from ml_platform.errors import PlatformError, did_you_mean, listed
from ml_platform.features.feature import Feature
from ml_platform.features.lineage import EVERY, SourceColumn, columns_read, inherited_columns
from ml_platform.features.view import FeatureView

if TYPE_CHECKING:
    from rich.console import Console

    from ml_platform.components.project import Project
    from ml_platform.data.contract import ColumnRule


class LineageError(PlatformError):
    """Raised for a name that is neither a model nor a dataset, and for an unknown column."""


@dataclass(frozen=True)
class ModelInputs:
    """The views of a model with those that they take as inputs, and the origin of its rows and labels."""

    name: str
    domain: str
    views: Sequence[str]
    examples: str
    sources: Sequence[str]
    labels: Sequence[SourceColumn]


@dataclass(frozen=True)
class DatasetColumns:
    """A dataset with the rules of its columns, by name, and the datasets that its loader reads."""

    name: str
    domain: str
    columns: Mapping[str, "ColumnRule"]
    lookups: Sequence[str]


@dataclass(frozen=True)
class RecordedLineage:
    """The source columns of each feature of a view, as its latest materialization recorded them."""

    at: datetime
    partition: str | None
    columns: Mapping[str, list[SourceColumn]]


@dataclass(frozen=True)
class FeatureColumn:
    """A feature, its name in a training set, and the columns of datasets from which it comes."""

    feature: Feature
    column: str
    sources: Sequence[SourceColumn]


@dataclass(frozen=True)
class ViewLineage:
    """A view with its features; ``recorded`` is None before its first materialization with a record.

    ``changed`` are the features whose declared columns differ from the recorded ones.
    """

    view: FeatureView
    recorded: RecordedLineage | None
    features: Sequence[FeatureColumn]
    changed: Sequence[str]


@dataclass(frozen=True)
class ModelLineage:
    """The columns of a model's training set by view."""

    model: ModelInputs
    views: Sequence[ViewLineage]


@dataclass(frozen=True)
class ColumnUse:
    """The uses of a column: features by view, views that read it otherwise, as a key, a time or a filter, and models.

    ``labels`` are the models whose labels come from it; ``models`` are all that a change of the column concerns.
    """

    name: str
    rule: "ColumnRule"
    features: Mapping[str, Sequence[str]]
    read_by: Sequence[str]
    labels: Sequence[str]
    models: Sequence[str]


@dataclass(frozen=True)
class DatasetLineage:
    """The uses of each column of a dataset.

    ``examples`` are the functions of examples that get all columns, by model; ``lookup_of`` are the datasets whose
    loader reads it.
    """

    dataset: DatasetColumns
    columns: Sequence[ColumnUse]
    examples: Mapping[str, str]
    lookup_of: Sequence[str]


@dataclass(frozen=True)
class ProjectLineage:
    """The declared views, models and datasets, by name."""

    views: Mapping[str, FeatureView]
    models: Mapping[str, ModelInputs]
    datasets: Mapping[str, DatasetColumns]

    def model(self, name: str, recorded: Mapping[str, RecordedLineage]) -> ModelLineage:
        """Return the lineage of the declared model ``name``; ``recorded`` counts in place of the declaration."""
        found = self.models[name]
        return ModelLineage(found, [self._view(view, recorded) for view in found.views if view in self.views])

    def dataset(self, name: str, recorded: Mapping[str, RecordedLineage]) -> DatasetLineage:
        """Return the uses of the columns of the declared dataset ``name``."""
        declared, views = self.datasets[name], [self._view(view, recorded) for view in self.views]
        return DatasetLineage(
            dataset=declared,
            columns=[self._use(SourceColumn(name, column), rule, views) for column, rule in declared.columns.items()],
            examples={each.name: each.examples for each in self.models.values() if name in each.sources},
            lookup_of=sorted(each.name for each in self.datasets.values() if name in each.lookups),
        )

    def datasets_of(self, model: str) -> list[str]:
        """Return the datasets from which the rows, labels and features of the declared ``model`` come, in order."""
        declared = self.models[model]
        read = [each.dataset for view in declared.views if view in self.views for each in self.views[view].sources]
        return list(dict.fromkeys([*declared.sources, *(each.dataset for each in declared.labels), *read]))

    def _view(self, name: str, recorded: Mapping[str, RecordedLineage]) -> ViewLineage:
        view = self.views[name]
        own = {each: found.columns for each, found in recorded.items()}
        columns, declared = inherited_columns(view, self.views, own), inherited_columns(view, self.views)
        return ViewLineage(
            view=view,
            recorded=recorded.get(name),
            features=[FeatureColumn(each, view.column(each.name), columns[each.name]) for each in view.features],
            changed=[each for each in columns if set(columns[each]) != set(declared[each])],
        )

    def _use(self, column: SourceColumn, rule: "ColumnRule", views: Sequence[ViewLineage]) -> ColumnUse:
        features = {
            each.view.name: [
                own.feature.name for own in each.features if any(source.covers(column) for source in own.sources)
            ]
            for each in views
        }
        features = {name: found for name, found in features.items() if found}
        read_by = [
            each.view.name
            for each in views
            if each.view.name not in features and any(read.covers(column) for read in columns_read(each.view))
        ]
        labels = [each.name for each in self.models.values() if column in each.labels]
        concerned = {*features, *read_by}
        models = [each.name for each in self.models.values() if concerned & set(each.views)]
        return ColumnUse(column.column, rule, features, read_by, labels, list(dict.fromkeys([*models, *labels])))


NO_LINEAGE = ProjectLineage({}, {}, {})
"""The lineage of a project without declarations."""


def declared_lineage(project: "Project") -> ProjectLineage:
    """Return the declared lineage of ``project``."""
    from ml_platform.components.dataset.component import Dataset
    from ml_platform.components.feature_view.component import FeatureView as View
    from ml_platform.components.model.component import Model

    views: dict[str, FeatureView] = {each.name: each for each in project.components(View)}
    models = {}
    for each in project.components(Model):
        names = list(each.features)
        for name in names:
            names += [needed for needed in (views[name].inputs if name in views else ()) if needed not in names]
        labels = (
            [] if each.labels is None else [SourceColumn(each.labels.dataset, name) for name in each.labels.columns]
        )
        models[each.name] = ModelInputs(
            each.name, each.domain, names, each.examples.function, each.examples.sources, labels
        )
    datasets = {
        each.name: DatasetColumns(
            each.name, each.domain, {rule.name: rule for rule in each.contract.columns}, each.lookups
        )
        for each in project.components(Dataset)
    }
    return ProjectLineage(views, models, datasets)


def recorded_lineage(instance: dg.DagsterInstance, views: Collection[str]) -> dict[str, RecordedLineage]:
    """Return the lineage that the latest materialization of each of ``views`` recorded, by view.

    Views without a record are absent. It reads one event for each view, so it costs the same after years.
    """
    found = {}
    keys = [dg.AssetKey(["features", name]) for name in views]
    for record in instance.get_asset_records(keys) if keys else ():
        entry = record.asset_entry.last_materialization
        made = None if entry is None else entry.asset_materialization
        if entry is None or made is None or LINEAGE not in made.metadata:
            continue
        columns: Any = made.metadata[LINEAGE].value
        found[record.asset_entry.asset_key.path[-1]] = RecordedLineage(
            at=datetime.fromtimestamp(entry.timestamp, UTC),
            partition=made.partition,
            columns={
                feature: [SourceColumn(each.asset_key.path[-1], each.column_name) for each in sources]
                for feature, sources in columns.deps_by_column.items()
            },
        )
    return found


def lineage_of(
    lineage: ProjectLineage, recorded: Mapping[str, RecordedLineage], name: str, column: str = "", *, dataset: bool
) -> ModelLineage | DatasetLineage:
    """Return the lineage of the model ``name``, or of the dataset if no model has the name or ``dataset`` is set.

    With ``column``, only that column: ``<view>__<feature>`` or a feature of a model, a column of a dataset. Raises
    :class:`LineageError` for an unknown name or column.
    """
    if name in lineage.models and not dataset:
        model = lineage.model(name, recorded)
        names = [own.column for view in model.views for own in view.features]
        chosen = [
            ViewLineage(view.view, view.recorded, own, view.changed)
            for view in model.views
            if (own := [each for each in view.features if column in ("", each.column, each.feature.name)])
        ]
        if not chosen:
            raise _unknown_column(f"model '{name}'", column, names, "a feature of the model, as <view>__<feature>")
        return ModelLineage(model.model, chosen)
    if name in lineage.datasets:
        found = lineage.dataset(name, recorded)
        columns = [each for each in found.columns if column in ("", each.name)]
        if not columns:
            raise _unknown_column(f"dataset '{name}'", column, list(found.dataset.columns), "a column of the dataset")
        return DatasetLineage(found.dataset, columns, found.examples, found.lookup_of)
    known = [*([] if dataset else lineage.models), *lineage.datasets]
    raise LineageError(
        f"Name '{name}'",
        expected="a dataset" if dataset else "a model or a dataset",
        found=f"none of this name; declared are {listed(sorted(known), 20)}",
        fix=f"Correct the name.{did_you_mean(name, known)}",
    )


def _unknown_column(subject: str, column: str, known: Sequence[str], expected: str) -> LineageError:
    return LineageError(
        f"Column '{column}' of {subject}",
        expected=expected,
        found=f"none of this name; there are {listed(known, 20)}",
        fix=f"Correct the name.{did_you_mean(column, known)}",
    )


def as_json(found: ModelLineage | DatasetLineage) -> dict[str, Any]:
    """Return the lineage as a JSON object; columns of datasets are ``<dataset>.<column>``."""
    if isinstance(found, ModelLineage):
        return {
            "model": found.model.name,
            "examples": found.model.examples,
            "sources": list(found.model.sources),
            "labels": [str(each) for each in found.model.labels],
            "features": [
                {
                    "column": own.column,
                    "view": each.view.name,
                    "function": each.view.code,
                    "from": [str(source) for source in own.sources],
                    "request_fields": list(each.view.fields),
                    "recorded_at": None if each.recorded is None else each.recorded.at.isoformat(timespec="seconds"),
                }
                for each in found.views
                for own in each.features
            ],
        }
    return {
        "dataset": found.dataset.name,
        "examples_of": list(found.examples),
        "lookup_of": list(found.lookup_of),
        "columns": [
            {
                "column": each.name,
                "features": [f"{view}.{name}" for view, names in each.features.items() for name in names],
                "read_by": list(each.read_by),
                "labels_of": list(each.labels),
                "models": list(each.models),
            }
            for each in found.columns
        ],
    }


def show(found: ModelLineage | DatasetLineage, console: "Console") -> None:
    """Print the lineage as a table."""
    from rich.table import Table

    if isinstance(found, ModelLineage):
        table = Table("column", "from", "function", title=found.model.name)
        for each in found.views:
            fields = [f"request: {', '.join(each.view.fields)}"] if each.view.fields else []
            for own in each.features:
                table.add_row(own.column, "\n".join([*map(shown, own.sources), *fields]) or "none", each.view.code)
        console.print(table)
        console.print(f"Rows and labels: {found.model.examples}, from {listed(found.model.sources)}.", highlight=False)
        return
    table = Table("column", "features by view", "also read by", "models", title=found.dataset.name)
    for use in found.columns:
        features = ", ".join(f"{view}: {listed(names, 4)}" for view, names in use.features.items())
        labels = [f"{name} (labels)" for name in use.labels]
        table.add_row(use.name, features or "none", listed([*use.read_by, *labels], 10), listed(use.models, 10))
    console.print(table)
    for model, function in found.examples.items():
        console.print(f"Rows of {model}: {function} gets all columns.", highlight=False)


def shown(column: SourceColumn) -> str:
    """Return ``column`` in words."""
    return f"all columns of {column.dataset}" if column.column == EVERY else str(column)
