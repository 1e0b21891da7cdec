"""Rows with a known rule, small enough to be fitted in a moment."""

import numpy as np
import pytest

from ml_platform.training.trainer import Matrix


@pytest.fixture
def matrix() -> Matrix:
    """1,200 rows: `strong` and `place` decide the label, `weak` does not, `empty` has no value, a tenth are gaps."""
    rng = np.random.default_rng(5)
    features = rng.normal(size=(1200, 4)).astype(np.float32)
    features[:, 2] = rng.integers(0, 6, 1200)
    score = features[:, 0] + 0.5 * (features[:, 2] % 3) + 0.4 * rng.normal(size=1200)
    features[rng.random(1200) < 0.1, 0] = np.nan
    features[:, 3] = np.nan
    return Matrix(features, (score > 0.5).astype(np.float64), ["strong", "weak", "place", "empty"], {2: 6})
