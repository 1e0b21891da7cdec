"""The pages of the lineage of columns: all models and datasets, the features of a model, the columns of a dataset."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from ml_platform.console.lineage import ProjectLineage, RecordedLineage
from ml_platform.console.site.pages import render

RecordReader = Callable[[Collection[str]], Mapping[str, RecordedLineage]]
"""Returns the recorded lineage of views by name."""

OPEN_VIEWS = 6
"""Greatest number of views whose features a page shows unfolded."""


@dataclass(frozen=True)
class ModelRow:
    """A model of the overview: its number of features, and the datasets from which its rows and features come."""

    name: str
    features: int
    datasets: Sequence[str]


@dataclass(frozen=True)
class DatasetRow:
    """A dataset of the overview: its number of columns, and the models that use it."""

    name: str
    columns: int
    models: Sequence[str]


def lineage_overview(lineage: ProjectLineage) -> str:
    """Return the page with all models and datasets as HTML."""
    models = [
        ModelRow(
            name=name,
            features=sum(len(lineage.views[view].feature_names) for view in model.views if view in lineage.views),
            datasets=lineage.datasets_of(name),
        )
        for name, model in sorted(lineage.models.items())
    ]
    datasets = [
        DatasetRow(name, len(each.columns), [model.name for model in models if name in model.datasets])
        for name, each in sorted(lineage.datasets.items())
    ]
    return render("lineage.html.j2", models=models, datasets=datasets)


def model_lineage_page(lineage: ProjectLineage, recorded: RecordReader, name: str) -> str | None:
    """Return the page of the features of the model ``name`` as HTML; None if it is not declared."""
    if name not in lineage.models:
        return None
    found = lineage.model(name, recorded(lineage.views))
    return render("model_lineage.html.j2", found=found, unfolded=len(found.views) <= OPEN_VIEWS)


def dataset_lineage_page(lineage: ProjectLineage, recorded: RecordReader, name: str) -> str | None:
    """Return the page of the columns of the dataset ``name`` as HTML; None if it is not declared."""
    if name not in lineage.datasets:
        return None
    return render("dataset_lineage.html.j2", found=lineage.dataset(name, recorded(lineage.views)))
