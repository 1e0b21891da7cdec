"""The components Dataset, FeatureView and Model, which turn declarations in defs.yaml into Dagster assets.

No other package builds assets.
"""

from ml_platform.components.dataset.component import Dataset
from ml_platform.components.feature_view.component import FeatureView
from ml_platform.components.model.component import Model

__all__ = ["Dataset", "FeatureView", "Model"]
