"""The outcomes of logged predictions, joined with the labels that are known by now.

Labels arrive late and may change, while a logged prediction never changes. The outcomes table contains facts: one row
when the outcome of a prediction becomes known, and one more when it changes or is withdrawn. The fact recorded last
counts. A prediction without a fact has no known outcome yet.

The facts of a prediction are in the partition of the day on which it was logged, as the prediction itself.
"""

from collections.abc import Collection, Sequence
from datetime import datetime

import polars as pl

from ml_platform.data.lake import PARTITION, Lake
from ml_platform.data.pii import shown_rows
from ml_platform.errors import PlatformError, listed
from ml_platform.monitoring.known_ids import PREDICTION_ID

OUTCOME = "outcome"
OUTCOME_KNOWN_AT = "outcome_known_at"
RECORDED_AT = "outcome_recorded_at"

_UTC = pl.Datetime("us", "UTC")

FACT_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    PREDICTION_ID: pl.String,
    "request_id": pl.String,
    "row": pl.Int64,
    "model": pl.String,
    "version": pl.String,
    "role": pl.String,
    "predict_at": _UTC,
    "logged_at": _UTC,
    "score": pl.Float64,
    OUTCOME: pl.Float64,
    OUTCOME_KNOWN_AT: _UTC,
    RECORDED_AT: _UTC,
}
"""Columns of the outcomes table; ``outcome`` is null in a fact that withdraws an earlier one.

For a task whose outcomes are classes, ``outcome`` is text.
"""


class OutcomeError(PlatformError):
    """Raised when predictions and labels cannot be joined without ambiguity."""


def outcomes_table(model: str) -> str:
    """Return the lake table of the outcomes of the predictions of ``model``."""
    return f"models/{model}/outcomes"


def current_outcomes(
    lake: Lake, model: str, days: Sequence[str], outcome_type: pl.DataType | None = None
) -> pl.DataFrame:
    """Return the outcomes of predictions logged on ``days``: one row per prediction with a known outcome.

    The columns are those of the outcomes table. Days without facts are skipped.
    """
    return latest_facts(lake, model, days, outcome_type).filter(pl.col(OUTCOME).is_not_null())


def latest_facts(lake: Lake, model: str, days: Sequence[str], outcome_type: pl.DataType | None = None) -> pl.DataFrame:
    """Return the latest fact of each prediction logged on ``days``; its outcome is null if it was withdrawn."""
    table = outcomes_table(model)
    stored = sorted(str(day) for day in lake.digests(table, days))
    if not stored:
        return pl.DataFrame(schema=FACT_SCHEMA | {OUTCOME: outcome_type or FACT_SCHEMA[OUTCOME]})
    facts = lake.scan(table, partitions=stored).drop(PARTITION).collect()
    return facts.sort(RECORDED_AT).unique(PREDICTION_ID, keep="last", maintain_order=True)


def latest_per_example(predictions: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """Return the prediction logged last of each example, model, version and role, in the order of logging.

    A client that repeats requests has no more weight than others. A null key matches a null key, because an example
    with a null in one of its keys is still one example.
    """
    return predictions.sort("logged_at", "request_id", "row").unique(
        [*keys, "model", "version", "role"], keep="last", maintain_order=True
    )


def with_outcomes(
    predictions: pl.DataFrame, labels: pl.DataFrame, *, keys: Sequence[str], known_by: datetime
) -> pl.DataFrame:
    """Return one row per predicted example, model, version and role, with ``outcome`` and ``outcome_known_at``.

    Of several predictions of one example only :func:`latest_per_example` counts; the columns are those of
    :func:`match_labels`, which says what it raises.
    """
    require_unambiguous_keys(predictions, labels, keys)
    return match_labels(latest_per_example(predictions, keys), labels, keys=keys, known_by=known_by)


def match_labels(
    predictions: pl.DataFrame,
    labels: pl.DataFrame,
    *,
    keys: Sequence[str],
    known_by: datetime,
    pii_columns: Collection[str] = (),
    outcome_type: pl.DataType | None = None,
) -> pl.DataFrame:
    """Return ``predictions`` with ``outcome`` and ``outcome_known_at``, null if no label is known by ``known_by``.

    ``labels`` has the columns ``keys`` (unique together), ``label`` (null for an example that never gets one) and
    ``label_known_at``. ``predictions`` has ``keys`` too, for example unpacked from the request.
    ``outcome_type`` is Float64 unless outcomes are classes, which are text.

    Raises :class:`OutcomeError` when a key column is missing, its type differs between the two tables, or a key occurs
    twice in the labels. The message masks the values of ``pii_columns``.
    """
    require_unambiguous_keys(predictions, labels, keys, pii_columns)
    known = labels.filter(pl.col("label").is_not_null(), pl.col("label_known_at") <= known_by).select(
        *keys,
        pl.col("label").cast(outcome_type or pl.Float64()).alias(OUTCOME),
        pl.col("label_known_at").alias(OUTCOME_KNOWN_AT),
    )
    return predictions.join(known, on=list(keys), how="left", nulls_equal=True, maintain_order="left")


def require_unambiguous_keys(
    predictions: pl.DataFrame, labels: pl.DataFrame, keys: Sequence[str], pii_columns: Collection[str] = ()
) -> None:
    """Raise :class:`OutcomeError` unless both tables have ``keys`` in the same types, once each in the labels."""
    for name, side in (("predictions", predictions), ("labels", labels)):
        missing = [key for key in keys if key not in side.columns]
        if missing:
            raise OutcomeError(
                f"Outcomes, {name}",
                expected=f"key columns {listed(keys)}",
                found=f"{len(missing)} missing: {listed(missing)}",
                fix="Unpack the keys from the request, or name other keys.",
            )
    for key in keys:
        if predictions.schema[key] != labels.schema[key]:
            raise OutcomeError(
                f"Outcomes, key '{key}'",
                expected="the same type on both sides",
                found=f"{predictions.schema[key]} in the predictions, {labels.schema[key]} in the labels",
                fix="Cast the predictions' keys to the types of the labels.",
            )
    repeated = labels.group_by(list(keys)).len().filter(pl.col("len") > 1)
    if repeated.height:
        (first,) = shown_rows(repeated.sort(list(keys), nulls_last=True).head(1), pii_columns)
        raise OutcomeError(
            "Outcomes, labels",
            expected=f"one row per {listed(keys)}",
            found=f"{repeated.height} keys with several rows (first: {first})",
            fix="Add a key that distinguishes these rows, or remove the duplicates.",
        )
