"""Metadata that the UI draws in place: images, column schemas, and the table of tuning trials."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from ml_platform.steps.labels import LabelCounts
    from ml_platform.steps.model import BoundModel
    from ml_platform.training.tuning import TuningResult


def inline_image(png: bytes) -> dg.MarkdownMetadataValue:
    """Return a PNG image as Markdown metadata."""
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{base64.b64encode(png).decode()})")


def description_with_unit(description: str, unit: str | None) -> str:
    """Return the description of a column, with its unit in brackets if it has one."""
    return f"{description} [{unit}]" if unit else description


def training_set_schema(model: "BoundModel") -> dg.TableSchema:
    """Return the columns of a training set in order: example, label, request fields, and features by view."""
    views = model.feature_set.views
    meaning = {
        view.column(name): description_with_unit(each.description, each.stored_unit)
        for view in views
        for each in view.features
        for name in each.columns
    }
    ages = {view.age_column: f"Age of the values of view '{view.name}' [min]" for view in views}
    types = {name: str(dtype) for view in views for name, dtype in view.columns.items()}
    label, known_at = model.declared.task.label_type, "Time at which the label became known (UTC)."
    return dg.TableSchema(
        [
            dg.TableColumn("example_id", "String", "Identifier of the example."),
            *([dg.TableColumn("predict_at", "Datetime", "Prediction time (UTC).")] if model.has_time else []),
            dg.TableColumn("label", label, f"Label: {model.declared.target}. Null: never known, or not yet."),
            *([dg.TableColumn("label_known_at", "Datetime", known_at)] if model.has_time else []),
            *(
                dg.TableColumn(
                    field.name, field.type, field.description, dg.TableColumnConstraints(nullable=field.nullable)
                )
                for field in model.declared.request
            ),
            *(dg.TableColumn(name, description="Column of the split.") for name in model.kept_columns),
            *(dg.TableColumn(name, types[name], (meaning | ages)[name]) for name in model.feature_set.training_columns),
        ]
    )


def records_table(rows: Iterable[Mapping[str, Any]], names: Sequence[str] = ()) -> dg.TableMetadataValue:
    """Return ``rows`` as a table with the columns ``names`` and those of all rows, in the order of their first use.

    Every table of the UI is made here: Dagster refuses records with unequal fields, and the rows of a report differ; a
    period without enough labels, for example, has no metrics. A field that a row lacks is null. A column has the type
    of its values, and is text if they differ.
    """
    listed = [dict(row) for row in rows]
    columns = list(dict.fromkeys([*names, *(name for row in listed for name in row)]))
    kinds = {name: _column_type(row.get(name) for row in listed) for name in columns}
    return dg.MetadataValue.table(
        [dg.TableRecord({name: row.get(name) for name in columns}) for row in listed],
        schema=dg.TableSchema([dg.TableColumn(name, kind) for name, kind in kinds.items()]),
    )


def _column_type(values: Iterable[Any]) -> str:
    kinds = {type(value) for value in values if value is not None}
    return _COLUMN_TYPES.get(kinds.pop(), "string") if len(kinds) == 1 else "string"


_COLUMN_TYPES: Mapping[type, str] = {float: "float", int: "int", bool: "bool"}


def label_metadata(counts: "LabelCounts | None") -> dict[str, Any]:
    """Return how far a training set is labelled; empty for examples that have labels themselves."""
    if counts is None:
        return {}
    return {
        "labelled": counts.labelled,
        "unlabelled": counts.unlabelled,
        "labels_until": counts.until.isoformat(),
        "labels_due": counts.due.isoformat(),
        "label_rows_without_example": counts.without_example,
    }


def trials_table(tuning: "TuningResult") -> dg.TableMetadataValue:
    """Return the trials as a table, one row per trial, in the order of their numbers."""
    records = [
        {
            "number": trial.number,
            "state": trial.state,
            "loss": trial.loss,
            "rounds": trial.rounds,
            "seconds": round(trial.seconds, 1),
            **trial.settings,
        }
        for trial in tuning.trials
    ]
    return records_table(records, ["number", "state", "loss", "rounds", "seconds", *tuning.best])
