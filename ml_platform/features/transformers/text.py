"""Words of text as features: TF-IDF of the most frequent words and pairs of words (Spärck Jones, 1972)."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl

from ml_platform.features.feature import Feature
from ml_platform.features.transformers.transformer import TransformerError, chosen_columns, one_vector

_FILE = "terms.json"
_WORD = re.compile(r"\w+")


class WordTerms:
    """The weights of the most frequent terms in a text, as one vector of length 1; a null text has a null vector.

    A term is a word in lower case, or up to ``words_per_term`` words in a row. The vocabulary has as many terms as the
    declared vector has components: those in most texts of the train rows, in at least ``minimum_texts``. Ties are
    ordered by the alphabet. A text without any of them has zeros. ``columns`` names the texts, without it all count; a
    row's texts are joined.
    """

    def __init__(
        self,
        features: Sequence[Feature],
        columns: Sequence[str] | None = None,
        words_per_term: int = 2,
        minimum_texts: int = 2,
    ) -> None:
        """Make a transformer for the one vector of ``features``. Raises :class:`TransformerError` for others."""
        self.name, self.size = one_vector("text", features, "{name: term, type: vector, size: 256}")
        if words_per_term < 1 or minimum_texts < 1:
            raise TransformerError(
                "Transformer text",
                expected="words_per_term and minimum_texts of at least 1",
                found=f"{words_per_term} and {minimum_texts}",
                fix="Correct its parameters.",
            )
        self.columns = None if columns is None else list(columns)
        self.words_per_term, self.minimum_texts = words_per_term, minimum_texts
        self.weights: dict[str, float] = {}
        self._places: dict[str, int] = {}

    def fit(self, frame: pl.DataFrame, seed: int) -> None:
        """Choose the vocabulary and its weights. Raises :class:`TransformerError` when no term is frequent enough."""
        texts = [set(self._terms(text)) for text in self._texts(frame) if text is not None]
        frequency = Counter(term for terms in texts for term in terms)
        frequent = [(term, count) for term, count in frequency.items() if count >= self.minimum_texts]
        chosen = sorted(frequent, key=lambda each: (-each[1], each[0]))[: self.size]
        if not chosen:
            raise TransformerError(
                "Transformer text",
                expected=f"a word in at least {self.minimum_texts} of the texts",
                found=f"none in {len(texts)} texts",
                fix="Lower minimum_texts in its parameters, or add rows.",
            )
        # A count above that of the texts keeps the weight of a term in all texts above zero.
        self._set({term: math.log((1 + len(texts)) / (1 + count)) + 1 for term, count in sorted(chosen)})

    def transform(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the weights of the terms of each row, in 32 bits."""
        rows: list[list[float] | None] = [None if text is None else self._row(text) for text in self._texts(frame)]
        return pl.DataFrame([pl.Series(self.name, rows, dtype=pl.Array(pl.Float32, self.size))])

    def save(self, folder: Path) -> None:
        """Write the settings and the vocabulary with its weights."""
        settings = {
            "name": self.name,
            "size": self.size,
            "columns": self.columns,
            "words_per_term": self.words_per_term,
            "minimum_texts": self.minimum_texts,
            "weights": self.weights,
        }
        (folder / _FILE).write_text(json.dumps(settings, indent=2))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the transformer in ``folder``."""
        settings = json.loads((folder / _FILE).read_text())
        feature = Feature(name=settings["name"], type="vector", size=settings["size"], description="Terms.")
        loaded = cls([feature], settings["columns"], settings["words_per_term"], settings["minimum_texts"])
        loaded._set(settings["weights"])
        return loaded

    def _set(self, weights: dict[str, float]) -> None:
        self.weights = weights
        self._places = {term: place for place, term in enumerate(weights)}

    def _row(self, text: str) -> list[float]:
        values = [0.0] * self.size
        for term, count in Counter(self._terms(text)).items():
            place = self._places.get(term)
            if place is not None:
                values[place] = count * self.weights[term]
        length = math.sqrt(math.fsum(value * value for value in values))
        return [float(np.float32(value / length)) for value in values] if length else values

    def _terms(self, text: str) -> Iterator[str]:
        words = _WORD.findall(text.lower())
        for count in range(1, self.words_per_term + 1):
            for start in range(len(words) - count + 1):
                yield " ".join(words[start : start + count])

    def _texts(self, frame: pl.DataFrame) -> list[str | None]:
        columns = chosen_columns(frame, self.columns, "Transformer text")
        other = [name for name in columns if frame.schema[name] not in (pl.String, pl.Null)]
        if other:
            raise TransformerError(
                "Transformer text",
                expected="columns of text",
                found=f"{frame.schema[other[0]]} in '{other[0]}'",
                fix="Name the texts in 'columns' of its parameters.",
            )
        rows = frame.select(columns).rows()
        return [None if all(each is None for each in row) else "\n".join(filter(None, row)) for row in rows]
