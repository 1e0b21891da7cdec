"""Dataset, FeatureView, Model: what a team declares in defs.yaml, and the only place that builds Dagster assets."""

from ml_platform.components.dataset import Dataset
from ml_platform.components.feature_view import FeatureView
from ml_platform.components.model import Model

__all__ = ["Dataset", "FeatureView", "Model"]
