"""Dataset, FeatureView, Model: what a team declares in defs.yaml, and the only place that builds Dagster assets."""

from ml_platform.components.dataset import Dataset

__all__ = ["Dataset"]
