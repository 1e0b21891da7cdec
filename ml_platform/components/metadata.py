"""How assets show a picture, inline, and what the columns of a table say: what the UI draws where it stands."""

import base64
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from ml_platform.steps.model import BoundModel
    from ml_platform.training.tuning import TuningResult


def inline_image(png: bytes) -> dg.MarkdownMetadataValue:
    """Return a plot as metadata."""
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{base64.b64encode(png).decode()})")


def description_with_unit(description: str, unit: str | None) -> str:
    """Return what a column says, with its unit in brackets where it has one."""
    return f"{description} [{unit}]" if unit else description


def training_set_schema(model: "BoundModel") -> dg.TableSchema:
    """Return the columns of a training set in their order: example, label, request, and features by view."""
    views = model.feature_set.views
    meaning = {
        view.column(each.name): description_with_unit(each.description, each.unit)
        for view in views
        for each in view.features
    }
    ages = {view.age_column: f"How old what '{view.name}' says is [min]" for view in views}
    types = {name: str(dtype) for view in views for name, dtype in view.columns.items()}
    label = "Int8" if model.declared.task == "classification" else "Float64"
    return dg.TableSchema(
        [
            dg.TableColumn("example_id", "String", "What identifies the example."),
            dg.TableColumn("predict_at", "Datetime", "When its prediction is made (UTC)."),
            dg.TableColumn("label", label, f"Whether, or how much: {model.declared.target}. Null: never known."),
            dg.TableColumn("label_known_at", "Datetime", "When the label became known (UTC)."),
            *(
                dg.TableColumn(
                    field.name, field.type, field.description, dg.TableColumnConstraints(nullable=field.nullable)
                )
                for field in model.declared.request
            ),
            *(dg.TableColumn(name, types[name], (meaning | ages)[name]) for name in model.feature_set.feature_names),
        ]
    )


def trials_table(tuning: "TuningResult") -> dg.TableMetadataValue:
    """Return the trials as a table, in their order."""
    names = ["number", "state", "loss", "rounds", "seconds", *tuning.best]
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
    rows: list[dict[str, Any]] = [{name: each.get(name) for name in names} for each in records]
    schema = dg.TableSchema([dg.TableColumn(name) for name in names])
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows], schema=schema)
