"""The join of logged predictions with the labels that are known by now.

Labels arrive late and may change, while a logged prediction never changes.
"""

from collections.abc import Sequence
from datetime import datetime

import polars as pl

from ml_platform.errors import PlatformError, listed

OUTCOME = "outcome"
OUTCOME_KNOWN_AT = "outcome_known_at"


class OutcomeError(PlatformError):
    """Raised when predictions and labels cannot be joined without ambiguity."""


def outcomes_table(model: str) -> str:
    """Return the lake table of the predictions of ``model`` and their outcomes."""
    return f"models/{model}/outcomes"


def with_outcomes(
    predictions: pl.DataFrame, labels: pl.DataFrame, *, keys: Sequence[str], known_by: datetime
) -> pl.DataFrame:
    """Return one row per predicted example, model, version and role, with ``outcome`` and ``outcome_known_at``.

    ``labels`` has the columns ``keys`` (unique together), ``label`` (null for an example that never gets one) and
    ``label_known_at``. ``predictions`` has ``keys`` too, for example unpacked from the request. Both new columns are
    null if the label was not known by ``known_by``, and if no label row matches.

    Of several predictions of one example by the same model, version and role, only the one logged last counts: a client
    that repeats requests has no more weight than others. A null key matches a null key, because an example with a null
    in one of its keys is still one example.
    Raises :class:`OutcomeError` when a key column is missing, its type differs between the two tables, or a key occurs
    twice in the labels.
    """
    _require_unambiguous_keys(predictions, labels, keys)
    latest = predictions.sort("logged_at", "request_id", "row").unique(
        [*keys, "model", "version", "role"], keep="last", maintain_order=True
    )
    known = labels.filter(pl.col("label").is_not_null(), pl.col("label_known_at") <= known_by).select(
        *keys, pl.col("label").cast(pl.Float64).alias(OUTCOME), pl.col("label_known_at").alias(OUTCOME_KNOWN_AT)
    )
    return latest.join(known, on=list(keys), how="left", nulls_equal=True, maintain_order="left")


def _require_unambiguous_keys(predictions: pl.DataFrame, labels: pl.DataFrame, keys: Sequence[str]) -> None:
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
        first = repeated.sort(list(keys), nulls_last=True).row(0, named=True)
        raise OutcomeError(
            "Outcomes, labels",
            expected=f"one row per {listed(keys)}",
            found=f"{repeated.height} keys with several rows (first: {first})",
            fix="Add a key that distinguishes these rows, or remove the duplicates.",
        )
