"""The columns of a feature view for the UI: their schema, and their lineage to source columns."""

import dagster as dg

from ml_platform.components.metadata import description_with_unit
from ml_platform.features.lineage import EVERY, source_columns
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
    """Return the source columns of each feature: those in ``derived_from``, or all columns that the view reads.

    A source that is read as a whole adds none, because a view does not know the columns of its datasets.
    """
    return dg.TableColumnLineage(
        deps_by_column={
            feature: [
                dg.TableColumnDep(dg.AssetKey(["datasets", each.dataset]), each.column)
                for each in columns
                if each.column != EVERY
            ]
            for feature, columns in source_columns(view).items()
        }
    )
