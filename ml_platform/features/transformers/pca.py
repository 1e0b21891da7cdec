"""Principal components of vectors and numbers: fewer features that keep most of the variance (Pearson, 1901)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl

from ml_platform.features.feature import Feature
from ml_platform.features.transformers.transformer import TransformerError, chosen_columns, numeric_matrix, one_vector

CHUNK_ROWS = 4_096
"""Rows that are transformed together: the product needs one matrix of this height."""

_SETTINGS, _MEAN, _COMPONENTS = "pca.json", "mean.npy", "components.npy"


class Pca:
    """The first components of the numbers that the view reads, as one vector; a row with a null has a null vector.

    ``columns`` names fields and inputs, without it all count; the name of a vector means its components. The size is
    that of the declared feature. The sign of a component is such that its largest weight is positive.
    """

    def __init__(self, features: Sequence[Feature], columns: Sequence[str] | None = None) -> None:
        """Make a transformer for the one vector of ``features``. Raises :class:`TransformerError` for others."""
        self.name, self.size = one_vector("pca", features, "{name: component, type: vector, size: 16}")
        self.columns = None if columns is None else list(columns)
        self.mean: npt.NDArray[np.float64] = np.empty(0)
        self.components: npt.NDArray[np.float64] = np.empty((0, 0))

    def fit(self, frame: pl.DataFrame, seed: int) -> None:
        """Find the components of the rows without nulls. Raises :class:`TransformerError` for fewer rows than two."""
        values = self._values(frame)
        values = values[~np.isnan(values).any(axis=1)]
        if len(values) < 2 or values.shape[1] < self.size:
            raise TransformerError(
                "Transformer pca",
                expected=f"at least 2 rows without nulls and {self.size} numbers in each",
                found=f"{len(values)} rows with {values.shape[1]} numbers",
                fix="Declare a smaller size, or add rows.",
            )
        self.mean = values.mean(axis=0)
        centred = values - self.mean
        _, vectors = np.linalg.eigh(centred.T @ centred / len(values))
        largest = vectors.T[::-1][: self.size]
        signs = np.sign(largest[np.arange(self.size), np.abs(largest).argmax(axis=1)])
        self.components = largest * signs[:, None]

    def transform(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the components of each row, in 32 bits."""
        centred = self._values(frame) - self.mean
        # Each row is summed alone and in 64 bits, so that one row gives what it gives among many.
        parts = [
            np.einsum("ij,kj->ik", centred[start : start + CHUNK_ROWS], self.components)
            for start in range(0, len(centred), CHUNK_ROWS)
        ]
        found = np.concatenate(parts) if parts else np.empty((0, self.size))
        missing = pl.Series(np.isnan(found).any(axis=1))
        vectors = pl.Series(self.name, found.astype(np.float32), dtype=pl.Array(pl.Float32, self.size))
        return pl.DataFrame([vectors.set(missing, None) if missing.any() else vectors])

    def save(self, folder: Path) -> None:
        """Write the settings, the mean and the components."""
        settings = {"name": self.name, "size": self.size, "columns": self.columns}
        (folder / _SETTINGS).write_text(json.dumps(settings, indent=2))
        np.save(folder / _MEAN, self.mean, allow_pickle=False)
        np.save(folder / _COMPONENTS, self.components, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the transformer in ``folder``."""
        settings = json.loads((folder / _SETTINGS).read_text())
        feature = Feature(name=settings["name"], type="vector", size=settings["size"], description="Components.")
        loaded = cls([feature], settings["columns"])
        loaded.mean = np.load(folder / _MEAN, allow_pickle=False)
        loaded.components = np.load(folder / _COMPONENTS, allow_pickle=False)
        return loaded

    def _values(self, frame: pl.DataFrame) -> npt.NDArray[np.float64]:
        return numeric_matrix(frame.select(chosen_columns(frame, self.columns, "Transformer pca")), "Transformer pca")
