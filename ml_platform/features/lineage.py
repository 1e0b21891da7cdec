"""The lineage of columns: from which columns of datasets a feature comes, and which views read a column.

It follows the declarations of views. A feature without ``derived_from`` may come from every column that its view reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ml_platform.data.names import short_name
from ml_platform.features.view import FeatureView

EVERY = "*"
"""Name that stands for all columns of a dataset: a source that declares no columns is read as a whole."""


@dataclass(frozen=True, order=True)
class SourceColumn:
    """A column of a dataset; :data:`EVERY` stands for all of them."""

    dataset: str
    column: str

    def __str__(self) -> str:
        return f"{self.dataset}.{self.column}"

    def covers(self, other: "SourceColumn") -> bool:
        """Return whether ``other`` is this column, or one of all columns that this stands for."""
        return self.dataset == other.dataset and self.column in (EVERY, other.column)


def columns_read(view: FeatureView) -> list[SourceColumn]:
    """Return the columns that the function of a stored view gets, with the times from which they are available.

    Empty for a request view.
    """
    return list(
        dict.fromkeys(
            SourceColumn(source.dataset, column)
            for source in view.sources
            for column in ([*source.visible_columns, *source.available_from] if source.visible_columns else [EVERY])
        )
    )


def source_columns(view: FeatureView) -> dict[str, list[SourceColumn]]:
    """Return the source columns of each feature of ``view``, by name: those in ``derived_from``, or all that it reads.

    The dataset of ``derived_from`` may be written without its domain. The features of a request view without
    ``derived_from`` have none: see :func:`inherited_columns`.

    >>> view = FeatureView.model_validate({
    ...     "name": "late", "function": "m:f", "features": [{"name": "mean", "description": "…"}],
    ...     "sources": [{"dataset": "flights", "columns": ["origin", "delay"]}]})
    >>> print(*source_columns(view)["mean"])
    flights.origin flights.delay
    """
    datasets = {short_name(source.dataset): source.dataset for source in view.sources}
    read = [
        SourceColumn(source.dataset, column) for source in view.sources for column in source.visible_columns or [EVERY]
    ]
    found = {}
    for feature in view.features:
        written = [name.rpartition(".") for name in feature.derived_from]
        own = [SourceColumn(datasets.get(short_name(dataset), dataset), column) for dataset, _, column in written]
        found[feature.name] = own or read
    return found


def inherited_columns(
    view: FeatureView,
    views: Mapping[str, FeatureView],
    recorded: Mapping[str, Mapping[str, list[SourceColumn]]] | None = None,
) -> dict[str, list[SourceColumn]]:
    """Return the source columns of each feature, through the views that a request view takes as inputs.

    ``views`` has the inputs by name; an unknown one adds nothing. ``recorded`` has the columns of views as they were
    materialized, by view and feature, which count in place of the declared ones.
    """
    through = [
        column
        for name in view.inputs
        if name in views
        for columns in inherited_columns(views[name], views, recorded).values()
        for column in columns
    ]
    known = (recorded or {}).get(view.name, {})
    return {
        name: known.get(name) or columns or list(dict.fromkeys(through))
        for name, columns in source_columns(view).items()
    }
