"""Features that depend on request fields which a log hides, and the part of a feature set that does not."""

from collections.abc import Collection

from ml_platform.features.feature_set import FeatureSet


def columns_computed_from(features: FeatureSet, request_fields: Collection[str]) -> frozenset[str]:
    """Return the columns of request views that read one of ``request_fields``, also by way of another view."""
    found = set(request_fields)
    for view in features.read_order:
        if view.kind == "request" and features.reads(view) & found:
            found |= set(view.columns)
    return frozenset(found - set(request_fields))


def without_fields(features: FeatureSet, request_fields: Collection[str], keys: Collection[str] = ()) -> FeatureSet:
    """Return the set of the views that can be read although ``request_fields`` are unknown.

    A stored view can also be read if its keys of these fields are among ``keys``, whose values were found otherwise.
    """
    unknown, absent_keys = set(request_fields), set(request_fields) - set(keys)
    lost: set[str] = set()
    for view in features.read_order:
        if (view.kind == "request" and features.reads(view) & unknown) or set(view.entity) & absent_keys:
            lost.add(view.name)
            unknown |= set(view.columns)
            # A request view without inputs may derive the keys of others.
            absent_keys |= set(view.dtypes) if view.kind == "request" and not view.inputs else set()
    views = [view for view in features.views if view.name not in lost]
    names = {name for view in views for name in view.feature_names}
    transformers = {name: each for name, each in features.transformers.items() if name not in lost}
    return FeatureSet(views, [name for name in features.leave_out if name in names], transformers)


def with_pii(features: FeatureSet, fields: Collection[str], columns: Collection[str]) -> FeatureSet:
    """Return the set with ``fields`` and feature ``columns`` as PII columns of its views, which messages then hide.

    A set that was stored beside a model has none.
    """
    views = [
        view.model_copy(
            update={
                "pii_columns": [
                    *fields,
                    *(
                        each.name
                        for each in view.features
                        if {view.column(name) for name in each.columns} & set(columns)
                    ),
                ]
            }
        )
        for view in features.views
    ]
    return FeatureSet(views, features.leave_out, features.transformers)
