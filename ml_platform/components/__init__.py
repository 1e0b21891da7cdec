"""Dataset, FeatureView, Model: what a team declares in defs.yaml, and the only place that builds Dagster assets."""

from ml_platform.components.dataset.component import Dataset
from ml_platform.components.feature_view.component import FeatureView
from ml_platform.components.model.component import Model

__all__ = ["Dataset", "FeatureView", "Model"]
