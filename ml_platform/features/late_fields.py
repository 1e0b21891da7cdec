"""Find request fields of the training examples that are known only after the prediction.

The leak test in `leak.py` finds views that use the future. This module finds request fields that no client could send
at the prediction time, such as the actual end of an event that has not started. Both scramble the sources.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl

from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.leak import EXAMPLES_SHOWN, ColumnAvailability, scramble
from ml_platform.features.prediction_time import PredictionTime
from ml_platform.features.view import PREDICT_AT

EXAMPLE_ID = "example_id"

_AFTER = "_after"

AvailabilityDeclaration = Mapping[str, Mapping[str, Sequence[str]]]
"""Dataset → time column → the columns that are known only from that time on."""


@dataclass(frozen=True)
class LateField:
    """A field that changes with later data: the number of examples in which it does, and up to five of them."""

    field: str
    rows: int
    examples: list[dict[str, object]]


def late_fields(
    build: Callable[[dict[str, pl.LazyFrame]], pl.LazyFrame],
    sources: Mapping[str, pl.DataFrame],
    known: Mapping[str, ColumnAvailability],
    fields: Sequence[str],
    prediction_time: PredictionTime,
    cuts: Sequence[datetime],
    seed: int = 0,
) -> list[LateField]:
    """Return the ``fields`` that are not known when the prediction is made, the most frequent first.

    ``build`` makes examples (example_id, fields…) from ``sources``. For each cut T, all values known only after T are
    scrambled and the examples are built again. A field that differs in an example predicted at or before T was not
    known then. Columns without an entry in ``known`` are not scrambled. Examples that disappear, because their label
    vanished, are not compared.
    """
    truth = _build_examples(build, dict(sources), prediction_time)
    found: dict[str, list[pl.DataFrame]] = {name: [] for name in fields}
    for index, cut in enumerate(cuts):
        random = np.random.default_rng([seed, index])
        scrambled = {
            name: scramble(frame, _limited_to_columns(known[name], frame), cut, random) if name in known else frame
            for name, frame in sources.items()
        }
        rebuilt = _build_examples(build, scrambled, prediction_time).select(EXAMPLE_ID, *fields)
        past = truth.filter(pl.col(PREDICT_AT) <= cut)
        both = past.join(rebuilt, on=EXAMPLE_ID, suffix=_AFTER, maintain_order="left")
        for name in fields:
            changed = both.filter(pl.col(name).ne_missing(pl.col(name + _AFTER)))
            found[name].append(changed.select(EXAMPLE_ID, PREDICT_AT, pl.col(name).alias("value")))
    late = {name: pl.concat(parts).unique(EXAMPLE_ID, maintain_order=True) for name, parts in found.items() if parts}
    counted = [
        LateField(name, rows.height, rows.head(EXAMPLES_SHOWN).to_dicts()) for name, rows in late.items() if rows.height
    ]
    return sorted(counted, key=lambda each: (-each.rows, each.field))


def availability_for_examples(
    feature_set: FeatureSet, declared: AvailabilityDeclaration
) -> dict[str, ColumnAvailability]:
    """Return, by dataset, when columns become known, according to the views that read them and to ``declared``.

    Unlike the leak test, which requires a declaration for every column that a view reads, this accepts gaps.
    """
    known: dict[str, dict[str, tuple[str, int]]] = {}
    for view in feature_set.stored:
        for source in view.sources:
            for at, columns in source.available_from.items():
                columns_of_dataset = known.setdefault(source.dataset, {})
                # The time of a planned event is known before it, if the view declares so.
                named = [at, *columns] if at not in source.known_upfront else columns
                columns_of_dataset |= dict.fromkeys(named, (at, source.available_after_minutes))
    for dataset, times in declared.items():
        for time, names in times.items():
            known.setdefault(dataset, {}).update(dict.fromkeys([time, *names], (time, 0)))
    # With a column known upfront the scramble drops no rows, so the examples can be compared.
    return {dataset: ColumnAvailability(frozenset([EXAMPLE_ID]), columns) for dataset, columns in known.items()}


def _limited_to_columns(known: ColumnAvailability, frame: pl.DataFrame) -> ColumnAvailability:
    columns = {
        name: (at, delay) for name, (at, delay) in known.available_from.items() if {name, at} <= set(frame.columns)
    }
    return ColumnAvailability(known.known_upfront, columns)


def _build_examples(
    build: Callable[[dict[str, pl.LazyFrame]], pl.LazyFrame],
    sources: Mapping[str, pl.DataFrame],
    prediction_time: PredictionTime,
) -> pl.DataFrame:
    examples = build({name: frame.lazy() for name, frame in sources.items()})
    return examples.with_columns(prediction_time.expression()).collect()
