"""Training set: examples with the features that were known at their prediction times.

The rows of a window do not change once they are known. Each window adds rows, and all candidates read the same ones.
Labels that land later in a dataset of their own fill rows in until their horizon is over.
"""

from collections.abc import Mapping, Sequence

import polars as pl
import polars.selectors as cs

from ml_platform.errors import PlatformError, listed
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.prediction_time import PredictionTime
from ml_platform.features.view import INSTANT, PREDICT_AT
from ml_platform.training.labels import LABEL, LABEL_KNOWN_AT, LandedLabels, with_labels

EXAMPLE_ID = "example_id"
RESERVED = (EXAMPLE_ID, PREDICT_AT, LABEL, LABEL_KNOWN_AT)


class ExamplesError(PlatformError):
    """Raised when the examples function returns a table that is unfit for training or evaluation."""


class NoExamplesError(ExamplesError):
    """Raised when a partition has no example at all."""


def assemble_training_set(
    examples: pl.LazyFrame,
    feature_set: FeatureSet,
    logs: Mapping[str, pl.LazyFrame],
    request_types: Mapping[str, pl.DataType],
    prediction_time: PredictionTime,
    *,
    model: str,
    partition: str,
    labels: LandedLabels | None = None,
) -> pl.DataFrame:
    """Return one row per example of ``partition``: id, request fields, times, label, and every feature of the set.

    ``examples`` has ``example_id`` (unique), the request fields, ``label`` (null where the outcome is never known) and
    ``label_known_at`` (UTC). With ``labels``, it has no such columns, and :func:`~.labels.with_labels` joins them. The
    declared rule adds ``predict_at``, as in serving. Fractional features are stored as Float32, and rows are sorted by
    ``predict_at`` and ``example_id``.

    Raises :class:`NoExamplesError` when there is no row, and :class:`ExamplesError` when a column is missing, an id
    occurs twice, or a time is naive or missing. It also raises when a label has no ``label_known_at`` or was known
    before its prediction. Raises :class:`~.labels.LabelsError` when ``labels`` cannot be joined.
    """
    subject = f"Examples of '{model}', partition {partition}"
    rows = examples.collect()
    _check_columns(subject, rows, list(request_types), own_labels=labels is None)
    rows = in_request_types(subject, rows, request_types).with_columns(prediction_time.expression())
    if labels is not None and not rows.is_empty():
        rows = with_labels(subject, rows, labels)
    _check_rows(subject, rows)
    own = [*RESERVED, *request_types]
    features = feature_set.training_columns
    joined = feature_set.as_of(rows.lazy().select(own), logs).select(
        *own, *(name for name in features if name not in own)
    )
    narrow = joined.with_columns((cs.float() - cs.by_name(own)).cast(pl.Float32))
    return narrow.sort(PREDICT_AT, EXAMPLE_ID).collect()


def _check_columns(subject: str, rows: pl.DataFrame, request_fields: Sequence[str], *, own_labels: bool) -> None:
    labels = (LABEL, LABEL_KNOWN_AT)
    if not own_labels and (extra := [name for name in labels if name in rows.columns]):
        raise ExamplesError(
            subject,
            expected="no label columns, because 'labels' in the model's defs.yaml joins them",
            found=listed(extra),
            fix="Remove them from the examples function, or remove 'labels'.",
        )
    needed = (EXAMPLE_ID, *(labels if own_labels else ()), *request_fields)
    missing = [name for name in needed if name not in rows.columns]
    if missing:
        raise ExamplesError(
            subject,
            expected=f"the columns {listed(missing)}",
            found=f"only {listed(rows.columns, 20)}",
            fix="Return them from the examples function, or correct 'request' in the model's defs.yaml.",
        )
    naive = [
        name
        for name in (*(labels[1:] if own_labels else ()), *request_fields)
        if isinstance(dtype := rows.schema[name], pl.Datetime) and dtype != INSTANT
    ]
    if naive:
        raise ExamplesError(
            subject,
            expected="times in UTC",
            found=", ".join(f"{rows.schema[name]} in '{name}'" for name in naive),
            fix="Convert them in the examples function: .dt.convert_time_zone('UTC').",
        )


def in_request_types(subject: str, rows: pl.DataFrame, request_types: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Return ``rows`` with the request fields in their declared types; raises :class:`ExamplesError` for others."""
    wrong = {name: dtype for name, dtype in request_types.items() if not _same_type(rows.schema[name], dtype)}
    if wrong:
        raise ExamplesError(
            subject,
            expected="request fields in their declared types: "
            + ", ".join(f"'{name}' {dtype}" for name, dtype in wrong.items()),
            found=", ".join(f"'{name}' {rows.schema[name]}" for name in wrong),
            fix="Correct the types in the examples function, or in 'request' of the model's defs.yaml.",
        )
    vectors = {name: dtype for name, dtype in request_types.items() if isinstance(dtype, pl.Array)}
    for name, dtype in vectors.items():
        if rows[name].dtype != pl.Null:
            lengths = rows[name].arr.len() if isinstance(rows[name].dtype, pl.Array) else rows[name].list.len()
            others = (lengths != dtype.size).sum()
            if others:
                raise ExamplesError(
                    subject,
                    expected=f"vectors of {dtype.size} components in '{name}'",
                    found=f"{others} of {rows.height} rows with others",
                    fix="Correct the examples function, or the size in 'request' of the model's defs.yaml.",
                )
    return rows.with_columns(pl.col(name).cast(dtype) for name, dtype in request_types.items())


def _same_type(found: pl.DataType, declared: pl.DataType) -> bool:
    """Return whether a service gets the same values: another width of whole numbers, whole numbers for floats."""
    if found in (declared, pl.Null):
        return True
    if isinstance(declared, pl.Array):
        return isinstance(found, (pl.Array, pl.List)) and found.inner.is_float()
    if isinstance(declared, pl.Duration):
        return isinstance(found, pl.Duration)
    if declared == pl.String:
        return isinstance(found, pl.Categorical | pl.Enum)
    return found.is_integer() if declared == pl.Int64 else declared == pl.Float64 and found.is_numeric()


def _check_rows(subject: str, rows: pl.DataFrame) -> None:
    if rows.is_empty():
        raise NoExamplesError(
            subject, expected="at least one example", found="none", fix="Land and materialize the window's data first."
        )
    faults = {
        "a unique example_id": rows.height - rows[EXAMPLE_ID].n_unique(),
        "a predict_at in every row": rows[PREDICT_AT].null_count(),
        "a label_known_at wherever there is a label": rows.filter(
            pl.col(LABEL).is_not_null() & pl.col(LABEL_KNOWN_AT).is_null()
        ).height,
        "a label_known_at after predict_at": rows.filter(pl.col(LABEL_KNOWN_AT) <= pl.col(PREDICT_AT)).height,
    }
    for expected, count in faults.items():
        if count:
            raise ExamplesError(
                subject,
                expected=expected,
                found=f"{count} of {rows.height} rows without",
                fix="Correct the examples function that the model's defs.yaml names.",
            )
