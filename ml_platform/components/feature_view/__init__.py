"""The component `FeatureView`: a change log with its online snapshot, or a request view."""
