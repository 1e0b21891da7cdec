"""Examples with the features that were known when each was predicted: the one table that models are made from.

Apart because a month's rows never change once known: each month adds its own, and every candidate reads the same.
"""

from collections.abc import Mapping, Sequence

import polars as pl
import polars.selectors as cs

from ml_platform.errors import PlatformError, listed
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.prediction_time import PredictionTime
from ml_platform.features.view import INSTANT, PREDICT_AT

EXAMPLE_ID = "example_id"
LABEL = "label"
LABEL_KNOWN_AT = "label_known_at"
RESERVED = (EXAMPLE_ID, PREDICT_AT, LABEL, LABEL_KNOWN_AT)


class ExamplesError(PlatformError):
    """Raised when the examples function returns a table that no model could be trained or judged on."""


def assemble_training_set(
    examples: pl.LazyFrame,
    feature_set: FeatureSet,
    logs: Mapping[str, pl.LazyFrame],
    request_fields: Sequence[str],
    prediction_time: PredictionTime,
    *,
    model: str,
    partition: str,
) -> pl.DataFrame:
    """Return one row per example of ``partition``: id, request fields, times, label, and every feature of the set.

    ``examples`` has ``example_id`` (unique), the request fields, ``label`` (null where the outcome will never be known)
    and ``label_known_at`` (UTC); ``predict_at`` is added by the declared rule, as it is when serving. Fractional
    features are stored as Float32. Raises :class:`ExamplesError` when a column is missing, an id is repeated, a time is
    naive or missing, a label has no time at which it was known or was known when it was predicted, or there is no row.
    """
    subject = f"Examples of '{model}', partition {partition}"
    rows = examples.collect()
    _check_columns(subject, rows, request_fields)
    rows = rows.with_columns(prediction_time.expression())
    _check_rows(subject, rows)
    own = [*RESERVED, *request_fields]
    features = feature_set.feature_names
    joined = feature_set.as_of(rows.lazy().select(own), logs).select(
        *own, *(name for name in features if name not in own)
    )
    narrow = joined.with_columns((cs.float() - cs.by_name(own)).cast(pl.Float32))
    return narrow.sort(PREDICT_AT, EXAMPLE_ID).collect()


def _check_columns(subject: str, rows: pl.DataFrame, request_fields: Sequence[str]) -> None:
    missing = [name for name in (EXAMPLE_ID, LABEL, LABEL_KNOWN_AT, *request_fields) if name not in rows.columns]
    if missing:
        raise ExamplesError(
            subject,
            expected=f"the columns {listed(missing)}",
            found=f"only {listed(rows.columns, 20)}",
            fix="Return them from the examples function, or mend 'request' in the model's defs.yaml.",
        )
    naive = [
        name
        for name in (LABEL_KNOWN_AT, *request_fields)
        if (dtype := rows.schema[name]).is_temporal() and dtype != INSTANT
    ]
    if naive:
        raise ExamplesError(
            subject,
            expected="times in UTC",
            found=", ".join(f"{rows.schema[name]} in '{name}'" for name in naive),
            fix="Convert them in the examples function: .dt.convert_time_zone('UTC').",
        )


def _check_rows(subject: str, rows: pl.DataFrame) -> None:
    if rows.is_empty():
        raise ExamplesError(
            subject, expected="at least one example", found="none", fix="Land and materialize the month's data first."
        )
    faults = {
        "a unique example_id": rows.height - rows[EXAMPLE_ID].n_unique(),
        "a predict_at in every row": rows[PREDICT_AT].null_count(),
        "a label_known_at wherever there is a label": rows.filter(
            pl.col(LABEL).is_not_null() & pl.col(LABEL_KNOWN_AT).is_null()
        ).height,
        "labels known after the prediction": rows.filter(pl.col(LABEL_KNOWN_AT) <= pl.col(PREDICT_AT)).height,
    }
    for expected, count in faults.items():
        if count:
            raise ExamplesError(
                subject,
                expected=expected,
                found=f"{count} of {rows.height} rows without",
                fix="Mend the examples function that the model's defs.yaml names.",
            )
