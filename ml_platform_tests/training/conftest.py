"""Small rows with a known rule, and databases for the studies of a search."""

from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from ml_platform.training.trainer import Matrix


@pytest.fixture
def matrix() -> Matrix:
    """Return 1,200 rows whose label depends on `strong` and `place`.

    `weak` has no effect, `empty` has no values, and a tenth of `strong` is missing.
    """
    rng = np.random.default_rng(5)
    features = rng.normal(size=(1200, 4)).astype(np.float32)
    features[:, 2] = rng.integers(0, 6, 1200)
    score = features[:, 0] + 0.5 * (features[:, 2] % 3) + 0.4 * rng.normal(size=1200)
    features[rng.random(1200) < 0.1, 0] = np.nan
    features[:, 3] = np.nan
    return Matrix(features, (score > 0.5).astype(np.float64), ["strong", "weak", "place", "empty"], {2: 6})


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty database for studies."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/study.db"
    import psycopg

    server, name = request.getfixturevalue("postgres"), f"studies_{uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"create database {name}")
    return server.replace("/postgres?", f"/{name}?")
