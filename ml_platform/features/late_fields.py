"""Fields of a request that are known only after the prediction: found by the leak test's own scramble.

Apart from `leak` because it asks something else: not whether a view lets the future in, but whether the examples claim
to know at the prediction what no app could send yet, such as the actual departure of a flight that has not left.
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
"""By dataset, by its time column: the columns that are known only from that time on."""


@dataclass(frozen=True)
class LateField:
    """A field that changes with what became known later: in how many examples, and up to five of them."""

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
    """Return those of ``fields`` that are not known when the prediction is made, the most frequent first.

    ``build`` makes examples (example_id, fields…) from ``sources``. For each cut T, all that became known after T is
    scrambled and the examples are built again: a field of an example predicted at or before T that differs was not
    known then. Columns of which ``known`` says nothing stay as they are. Examples that are no longer there, because
    their label vanished, are not compared.
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
    """Return, by dataset, when columns become known: as the views say of those that they read, and as ``declared``.

    Unlike the leak test, which must know of every column that a view reads, this takes what is said and no more.
    """
    known: dict[str, dict[str, tuple[str, int]]] = {}
    for view in feature_set.stored:
        for source in view.sources:
            for at, columns in source.available_from.items():
                columns_of_dataset = known.setdefault(source.dataset, {})
                columns_of_dataset |= dict.fromkeys([at, *columns], (at, source.available_after_minutes))
    for dataset, times in declared.items():
        for time, names in times.items():
            known.setdefault(dataset, {}).update(dict.fromkeys([time, *names], (time, 0)))
    # A column known upfront keeps the scramble from dropping rows: the examples must stay to be compared.
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
