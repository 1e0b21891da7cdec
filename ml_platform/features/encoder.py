"""The encoder: it turns a table of features into the float matrix of a model, in training and in serving.

The fitted encoder is stored with the model, so both reads use the same order of features and the same category codes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import polars as pl

from ml_platform.errors import PlatformError, did_you_mean, listed

FORMAT = "ml_platform.encoder/1"
FEW_ROWS = 16
"""Up to this many rows, a Python dictionary encodes faster than a Polars expression."""


class EncoderError(PlatformError):
    """Raised when a table lacks a feature, or has it in another type than the one that the encoder was fitted on."""


@dataclass(frozen=True)
class Encoder:
    """The order of the features and the codes of their categories.

    ``categories`` maps each text feature to its sorted values; the code of a value is its position among them.
    """

    feature_names: tuple[str, ...]
    categories: dict[str, tuple[str, ...]]

    @classmethod
    def fit(cls, frame: pl.DataFrame, feature_names: Sequence[str]) -> Self:
        """Return the encoder of ``feature_names``, with the categories found in ``frame`` (String, Categorical, Enum).

        Raises :class:`EncoderError` when a feature is absent, or its type is not number, boolean, text or null.
        """
        _require_columns(frame, feature_names)
        texts = [name for name in feature_names if _is_text(frame.schema[name])]
        unsupported = [name for name in feature_names if name not in texts and not _is_number(frame.schema[name])]
        if unsupported:
            raise EncoderError(
                "Encoder",
                expected="numbers, flags or categories",
                found=", ".join(f"'{name}' ({frame.schema[name]})" for name in unsupported[:5]),
                fix="Declare these features hidden, or convert them to numbers.",
            )
        found = {name: tuple(frame[name].cast(pl.String).drop_nulls().unique().sort()) for name in texts}
        return cls(tuple(feature_names), found)

    @property
    def category_indices(self) -> list[int]:
        """Positions of the categorical features, for trainers that treat categories separately."""
        return [position for position, name in enumerate(self.feature_names) if name in self.categories]

    def transform(self, frame: pl.DataFrame) -> np.ndarray:
        """Return a float32 matrix of shape (rows, features), row-major, in the order of ``feature_names``.

        Null, NaN, infinite values and categories unknown to the encoder become NaN; booleans become 0 and 1. Raises
        :class:`EncoderError` when a feature is absent, or is text although numbers were fitted (or the reverse).
        """
        _require_columns(frame, self.feature_names)
        matrix = np.empty((frame.height, len(self.feature_names)), dtype=np.float32)
        for position, name in enumerate(self.feature_names):
            matrix[:, position] = self.encode_column(name, frame[name])
        matrix[np.isinf(matrix)] = np.nan
        return matrix

    def encode_column(self, name: str, column: pl.Series) -> np.ndarray:
        """Return feature ``name`` as float32 (n): the column of :meth:`transform`, but with infinite values kept."""
        self.require_kind(name, column.dtype)
        if name not in self.categories:
            # Polars converts a null to NaN.
            return column.cast(pl.Float32).to_numpy()
        if len(column) <= FEW_ROWS:
            codes = self.codes(name)
            return np.array([codes.get(text, np.nan) for text in column.to_list()], dtype=np.float32)
        return _codes(column, self.categories[name]).to_numpy()

    def require_kind(self, name: str, dtype: pl.DataType) -> None:
        """Raise :class:`EncoderError` when feature ``name`` is a category and ``dtype`` is not text, or the reverse."""
        if dtype != pl.Null and _is_text(dtype) != (name in self.categories):
            raise EncoderError(
                f"Feature '{name}'",
                expected="a category" if name in self.categories else "a number",
                found=str(dtype),
                fix="Pass the features of the views that the model was trained on.",
            )

    def codes(self, name: str) -> dict[str, int]:
        """Return the code of each category of feature ``name``."""
        return self._codes[name]

    @cached_property
    def _codes(self) -> dict[str, dict[str, int]]:
        return {name: {text: code for code, text in enumerate(values)} for name, values in self.categories.items()}

    def to_json(self) -> str:
        """Return the encoder as JSON; :meth:`from_json` returns an equal encoder."""
        return json.dumps({"format": FORMAT, "feature_names": self.feature_names, "categories": self.categories})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the encoder that ``text`` describes. Raises :class:`EncoderError` for another format."""
        fields = json.loads(text)
        if fields.get("format") != FORMAT:
            raise EncoderError(
                "encoder.json",
                expected=FORMAT,
                found=str(fields.get("format")),
                fix="Use the release of the platform that wrote the file.",
            )
        return cls(
            tuple(fields["feature_names"]), {name: tuple(values) for name, values in fields["categories"].items()}
        )


def _codes(column: pl.Series, categories: tuple[str, ...]) -> pl.Series:
    known = pl.Series(categories, dtype=pl.String)
    codes = pl.Series(range(len(categories)), dtype=pl.Float32)
    return column.cast(pl.String).replace_strict(known, codes, default=None, return_dtype=pl.Float32)


def _require_columns(frame: pl.DataFrame, names: Sequence[str]) -> None:
    absent = [name for name in names if name not in frame.columns]
    if absent:
        raise EncoderError(
            "Encoder",
            expected=f"all {len(names)} features",
            found=f"{len(absent)} absent: {listed(absent)}",
            fix=f"Read the features with the model's FeatureSet.{did_you_mean(absent[0], frame.columns)}",
        )


def _is_text(dtype: pl.DataType) -> bool:
    return dtype == pl.String or isinstance(dtype, pl.Categorical | pl.Enum)


def _is_number(dtype: pl.DataType) -> bool:
    return dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)
