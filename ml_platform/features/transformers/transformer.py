"""The protocol of a transformer: fitted with a candidate, saved in files of its own, and used by training and serving.

A pickle is no such file: it runs code when it is read, and breaks with the next release of a library.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from ml_platform.errors import PlatformError, did_you_mean, listed
from ml_platform.features.feature import Feature

VIEW_SEPARATOR = "__"
"""Separates the view from the feature in a column that a transformer reads."""


class TransformerError(PlatformError):
    """Raised when a transformer cannot be made, fitted or read with its parameters and columns."""


class FeatureTransformer(Protocol):
    """Computes the features of a fitted view from its fields and inputs.

    The class is called as ``Class(features=…, **parameters)`` with the declared features and parameters of the view.
    The result of ``transform`` must not depend on the other rows of the table, because serving transforms one row.
    """

    def fit(self, frame: pl.DataFrame, seed: int) -> None:
        """Learn from the rows of ``frame``, the train rows of a candidate; equal rows and seed give an equal result."""

    def transform(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return one row for each row of ``frame``, with the declared features as columns."""

    def save(self, folder: Path) -> None:
        """Write all that :meth:`load` needs to files in the empty ``folder``."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the transformer that :meth:`save` wrote; it must need no other file."""


def one_vector(transformer: str, features: Sequence[Feature], example: str) -> tuple[str, int]:
    """Return name and size of the one vector of ``features``.

    Raises :class:`TransformerError`, which shows ``example`` as the declaration to write, for other features.
    """
    if len(features) != 1 or features[0].size is None:
        raise TransformerError(
            f"Transformer {transformer}",
            expected="one feature of type vector",
            found=f"{len(features)} features: {', '.join(each.full_type for each in features)}",
            fix=f"Declare {example}.",
        )
    return features[0].name, features[0].size


def transformer_input(rows: pl.DataFrame, columns: Sequence[str], fields: Sequence[str]) -> pl.DataFrame:
    """Return ``columns`` of ``rows`` for a transformer: ``fields`` as they are, other fractions in 32 bits.

    A training set stores features with 32 bits, so a transformer gets no more digits while serving.
    """
    return pl.DataFrame(
        [
            rows[name].cast(pl.Float32) if rows[name].dtype == pl.Float64 and name not in fields else rows[name]
            for name in columns
        ]
    )


def chosen_columns(frame: pl.DataFrame, names: Sequence[str] | None, subject: str) -> list[str]:
    """Return the columns of ``frame`` that ``names`` mean; without names, all of them.

    The name of a vector means its components. Raises :class:`TransformerError` for a name without a column.
    """
    if names is None:
        return frame.columns
    chosen: list[str] = []
    for name in names:
        found = [column for column in frame.columns if column == name or _component_of(column) == name]
        if not found:
            raise TransformerError(
                subject,
                expected="columns among the fields and inputs of the view",
                found=f"'{name}', which is not in {listed(frame.columns, 20)}",
                fix=f"Correct 'columns' in its parameters.{did_you_mean(name, frame.columns)}",
            )
        chosen += found
    return chosen


def numeric_matrix(frame: pl.DataFrame, subject: str) -> npt.NDArray[np.float64]:
    """Return the numbers and vectors of ``frame`` side by side, shape (rows, numbers); a null is NaN.

    Raises :class:`TransformerError` for a column of another type.
    """
    parts: list[npt.NDArray[np.float64]] = []
    for column in frame.get_columns():
        if isinstance(column.dtype, pl.Array):
            size = column.dtype.size
            present = column.is_not_null()
            matrix = np.full((frame.height, size), np.nan)
            matrix[present.to_numpy()] = column.filter(present).explode().cast(pl.Float64).to_numpy().reshape(-1, size)
            parts.append(matrix)
        elif column.dtype.is_numeric() or column.dtype == pl.Boolean:
            parts.append(column.cast(pl.Float64).to_numpy().reshape(-1, 1))
        else:
            raise TransformerError(
                subject,
                expected="numbers and vectors",
                found=f"{column.dtype} in '{column.name}'",
                fix="Name the numeric columns in 'columns' of its parameters.",
            )
    return np.hstack(parts) if parts else np.empty((frame.height, 0))


def _component_of(column: str) -> str:
    name, _, place = column.rpartition("_")
    return name if place.isdigit() else ""
