"""The columns of a feature view for the UI: their schema, and their lineage to source columns."""

import dagster as dg

from ml_platform.components.metadata import description_with_unit
from ml_platform.features.view import KNOWN_AT
from ml_platform.features.view import FeatureView as FeatureViewSettings


def column_schema(view: FeatureViewSettings) -> dg.TableSchema:
    """Return the entity columns, ``known_at`` for a stored view, and the features with type, description and unit."""
    keys = [
        dg.TableColumn(
            name=name, type=view.key_types.get(name, "string"), description="Key of the entity", tags={"role": "entity"}
        )
        for name in view.entity
    ]
    known = dg.TableColumn(name=KNOWN_AT, type="datetime", description="Time at which the fact became known (UTC)")
    return dg.TableSchema(
        columns=[
            *keys,
            *([known] if view.kind == "stored" else []),
            *(
                dg.TableColumn(
                    name=feature.name,
                    type=feature.full_type,
                    description=description_with_unit(feature.description, feature.stored_unit),
                    tags={"role": "input of other views"} if feature.hidden else {"role": "feature"},
                )
                for feature in view.features
            ),
        ]
    )


def column_lineage(view: FeatureViewSettings) -> dg.TableColumnLineage:
    """Return the source columns of each feature: those in ``derived_from``, or all columns that the view reads."""
    every = [f"{source.dataset}.{column}" for source in view.sources for column in source.visible_columns]
    return dg.TableColumnLineage(
        deps_by_column={
            feature.name: [
                dg.TableColumnDep(dg.AssetKey(["datasets", dataset]), column)
                for dataset, _, column in (name.partition(".") for name in feature.derived_from or every)
            ]
            for feature in view.features
        }
    )
