"""Scores a table with a served version: as its endpoint would, but with the facts of the past instead of the newest.

The online store has only the newest facts. A table may have rows of any time, so their features are read from the
change logs with a point-in-time join, as for training, and then take the way of a request through the files of the
bento.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from ml_platform.data.pii import MASK
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.view import AS_OF, INSTANT, PREDICT_AT
from ml_platform.serving.in_process import ServedModel, request_body
from ml_platform.serving.request_contract import InvalidRequestError, RequestContract, answered_or_refused

CHUNK_ROWS = 20_000
"""Rows that are in memory with all their features at once."""

SHOWN_REFUSALS = 10
"""Refused rows whose errors are kept."""

VERSION, MISSING, UNKNOWN, RULES, DEGRADED = "version", "missing", "unknown", "rules", "degraded"
SCORED_COLUMNS = (PREDICT_AT, AS_OF, VERSION, "score", "label", MISSING, UNKNOWN, RULES, DEGRADED)
"""Columns that every scored table has, besides those of its rows and the details of the task."""

_ROW = "__row"
_TEXTS = pl.List(pl.String)


@dataclass(frozen=True)
class RefusedRow:
    """A row that the contract refuses, by its position (from 0), with the reason and the text of the error."""

    row: int
    reason: str
    message: str


@dataclass(frozen=True)
class ScoredTable:
    """The answered rows of a table in their order, and the first :data:`SHOWN_REFUSALS` of the ``refused`` ones."""

    rows: pl.DataFrame
    refused: int
    refusals: list[RefusedRow]


def score_table(
    model: ServedModel, rows: pl.DataFrame, logs: Mapping[str, pl.LazyFrame], at: datetime, keep: Sequence[str] = ()
) -> ScoredTable:
    """Return the answers of ``model`` for ``rows``, which have a column for each request field.

    ``logs`` has the change log of each stored view of the model by name. The features are those known at the time of
    each prediction, or at ``at`` (aware, the present) if that is earlier. A scored row has the columns ``keep`` of its
    row, and

    - ``predict_at``, and ``as_of``: the time of its features;
    - ``version``, ``score``, ``label`` unless the task answers a number, and the fields of the task, such as
      ``interval__lower`` or ``probabilities__<class>``;
    - ``degraded``, and why: the stored views without a fact (``missing``), the features whose text is ``unknown``, and
      the ``rules`` that the row breaks and is answered in spite of.

    A row that the endpoint would refuse is left out and counted. Raises the errors of the point-in-time join.
    """
    predictor = model.predictor
    valid, refusals = _valid_rows(model, rows)
    refused = len(refusals)
    if valid.is_empty():
        return ScoredTable(rows.select(keep).clear(), refused, refusals[:SHOWN_REFUSALS])
    predict_at = predictor.contract.prediction_time
    timed = valid.with_columns(pl.lit(at, INSTANT).alias(PREDICT_AT) if predict_at is None else predict_at.expression())
    clocked = timed.with_columns(pl.min_horizontal(PREDICT_AT, pl.lit(at, INSTANT)).alias(AS_OF))
    parts, predicted = [], []
    for chunk in _with_features(predictor.features, clocked, logs):
        numbers, unknown = predictor.predict_features(chunk)
        predicted.append(numbers)
        parts.append(
            chunk.select(
                *clocked.columns,
                _without_facts(predictor.features, chunk.columns),
                pl.Series(UNKNOWN, unknown, _TEXTS),
            )
        )
    scored = pl.concat(parts)
    # A task may rank the rows of a table, and rows of equal score then keep their order.
    order = scored[_ROW].arg_sort()
    scored, predictions = scored[order], np.concatenate(predicted)[order.to_numpy()]
    answers = answer_columns(predictor.answers_to(predictions, scored))
    marks = [pl.col(name).list.len() > 0 for name in (MISSING, UNKNOWN, RULES)]
    found = scored.select(
        PREDICT_AT,
        AS_OF,
        pl.lit(model.version).alias(VERSION),
        *answers.get_columns(),
        MISSING,
        UNKNOWN,
        RULES,
        pl.any_horizontal(marks).alias(DEGRADED),
    )
    kept = [rows[name].gather(scored[_ROW]) for name in keep]
    return ScoredTable(pl.DataFrame([*kept, *found.get_columns()]), refused, refusals[:SHOWN_REFUSALS])


def _valid_rows(model: ServedModel, rows: pl.DataFrame) -> tuple[pl.DataFrame, list[RefusedRow]]:
    """Return the rows that the contract allows, with their positions and broken rules, and those that it refuses."""
    contract = model.contract
    frames: list[pl.DataFrame] = [_validated(model, [])]
    refusals: list[RefusedRow] = []

    def answer(part: Sequence[tuple[int, dict[str, Any]]]) -> list[None]:
        frames.append(_validated(model, part))
        return [None] * len(part)

    def refuse(row: tuple[int, dict[str, Any]], error: InvalidRequestError) -> None:
        refusals.append(RefusedRow(row[0], error.reason, _shown(error, contract)))

    fields = rows.select(list(contract.dtypes))
    for start in range(0, rows.height, contract.max_rows):
        part = fields.slice(start, contract.max_rows).to_dicts()
        answered_or_refused(list(enumerate(part, start)), answer, refuse)
    return pl.concat(frames), refusals


def _shown(error: InvalidRequestError, contract: RequestContract) -> str:
    """Return the text of the error of a single row, without values that identify a person."""
    parts = []
    for each in error.details:
        field = each.path.removeprefix("rows[0].")
        found = MASK if field.partition("[")[0] in contract.pii_fields else each.found
        parts.append(f"{field}: expected {each.expected}, found {found}")
    return "; ".join(parts)


def _validated(model: ServedModel, part: Sequence[tuple[int, dict[str, Any]]]) -> pl.DataFrame:
    """Return ``part`` with the fields in their declared types; raises the error of a row that the contract refuses."""
    positions = pl.Series(_ROW, [row for row, _ in part], pl.UInt32)
    if not part:
        empty = pl.DataFrame(schema=dict(model.contract.dtypes))
        return empty.with_columns(positions, pl.Series(RULES, [], _TEXTS))
    request = model.contract.validate(request_body([row for _, row in part]))
    broken = [list(request.flags.get(place, ())) for place in range(len(part))]
    return request.frame().with_columns(positions, pl.Series(RULES, broken, _TEXTS))


def _with_features(
    features: FeatureSet, rows: pl.DataFrame, logs: Mapping[str, pl.LazyFrame]
) -> Iterator[pl.DataFrame]:
    """Yield ``rows`` with their features, some at a time."""
    joined = features.as_of(rows.lazy(), logs, chunk_rows=CHUNK_ROWS)
    yield from joined.collect_batches(maintain_order=True)


def _without_facts(features: FeatureSet, columns: Sequence[str]) -> pl.Expr:
    """Return the names of the stored views of which a row has no value."""
    absent = []
    for view in features.stored:
        values = [name for name in view.columns if name in columns]
        if values:
            absent.append(pl.when(pl.all_horizontal(pl.col(values).is_null())).then(pl.lit(view.name)))
    if not absent:
        return pl.lit([], _TEXTS).alias(MISSING)
    return pl.concat_list(absent).list.drop_nulls().alias(MISSING)


def answer_columns(answers: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Return ``answers`` as columns; a field with named numbers becomes a column ``<field>__<name>`` for each."""
    found = pl.DataFrame(answers, infer_schema_length=None)
    if found["label"].dtype == pl.Null:  # a task that answers a number has no label
        found = found.drop("label")
    named = [name for name, dtype in found.schema.items() if isinstance(dtype, pl.Struct)]
    for name in named:
        found = found.unnest(name, separator="__")
    return found
