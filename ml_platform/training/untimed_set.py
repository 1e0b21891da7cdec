"""Training set of examples without a time: one table, replaced as a whole, with the last facts as features."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import polars as pl
import polars.selectors as cs

from ml_platform.errors import did_you_mean, listed
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.view import INSTANT, PREDICT_AT
from ml_platform.training.labels import LABEL, LABEL_KNOWN_AT
from ml_platform.training.training_set import EXAMPLE_ID, ExamplesError, NoExamplesError, in_request_types

AFTER_ALL_FACTS = datetime(9999, 1, 1, tzinfo=UTC)
"""Time of the reads of examples without a time: each gets the last fact."""


def assemble_untimed_set(
    examples: pl.LazyFrame,
    feature_set: FeatureSet,
    logs: Mapping[str, pl.LazyFrame],
    request_types: Mapping[str, pl.DataType],
    *,
    model: str,
    kept: Sequence[str] = (),
) -> pl.DataFrame:
    """Return one row per example: id, label, request fields, the columns ``kept``, and every feature of the set.

    ``examples`` has ``example_id`` (unique), the request fields, ``label`` (null where it is not known) and the columns
    ``kept``, for example the groups of a split. Fractional features are stored as Float32; rows are sorted by id.

    Raises :class:`NoExamplesError` when there is no row, and :class:`ExamplesError` when a column is missing, an id
    occurs twice or is null, or the examples have a time, which this model would ignore.
    """
    subject = f"Examples of '{model}'"
    rows = examples.collect()
    own = list(dict.fromkeys([EXAMPLE_ID, LABEL, *request_types, *kept]))
    _require_columns(subject, rows, own)
    rows = in_request_types(subject, rows, request_types)
    _require_ids(subject, rows)
    features = feature_set.feature_names
    clocked = rows.lazy().select(own).with_columns(pl.lit(AFTER_ALL_FACTS, INSTANT).alias(PREDICT_AT))
    joined = feature_set.as_of(clocked, logs).select(*own, *(name for name in features if name not in own))
    return joined.with_columns((cs.float() - cs.by_name(own)).cast(pl.Float32)).sort(EXAMPLE_ID).collect()


def _require_columns(subject: str, rows: pl.DataFrame, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in rows.columns]
    if missing:
        raise ExamplesError(
            subject,
            expected=f"the columns {listed(names, 20)}",
            found=f"no {listed(missing)} among {listed(rows.columns, 20)}",
            fix="Return them from the examples function, or correct 'request' and 'split' in the model's defs.yaml."
            + did_you_mean(missing[0], rows.columns),
        )
    timed = [name for name in (PREDICT_AT, LABEL_KNOWN_AT) if name in rows.columns]
    if timed:
        raise ExamplesError(
            subject,
            expected="no columns of time, because the model declares 'time: none'",
            found=listed(timed),
            fix="Remove them from the examples function, or declare partitions and prediction_time.",
        )


def _require_ids(subject: str, rows: pl.DataFrame) -> None:
    if rows.is_empty():
        raise NoExamplesError(
            subject, expected="at least one example", found="none", fix="Land and materialize the data first."
        )
    nulls, repeated = rows[EXAMPLE_ID].null_count(), rows.height - rows[EXAMPLE_ID].n_unique()
    if nulls or repeated:
        raise ExamplesError(
            subject,
            expected="an example_id of its own in every row",
            found=f"{nulls} nulls and {repeated} repeated ids in {rows.height} rows",
            fix="Correct the examples function that the model's defs.yaml names.",
        )
