"""Dataset, FeatureView, Model: what a team declares in defs.yaml, and the only place that builds Dagster assets."""

__all__: list[str] = []
