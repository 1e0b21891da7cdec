"""The component `FeatureView` and what it makes: a change log with its online snapshot, or a request view."""
