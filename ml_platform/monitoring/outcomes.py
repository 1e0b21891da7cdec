"""What then happened: logged predictions beside the labels that have become known.

Apart from `prediction_log` because outcomes come late and more than once, while a prediction never changes.
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
    """Return the lake table of what ``model`` answered, beside what then happened."""
    return f"models/{model}/outcomes"


def join_outcomes(
    predictions: pl.DataFrame, labels: pl.DataFrame, *, keys: Sequence[str], known_by: datetime
) -> pl.DataFrame:
    """Return one row per predicted example, model, version and role, with ``outcome`` and ``outcome_known_at``.

    ``labels`` has ``keys`` (unique), ``label`` (null where there never will be one) and ``label_known_at``;
    ``predictions`` has ``keys`` too, for example unpacked from the request. A label counts only if it was known by
    ``known_by``; otherwise, and where no label row matches, both new columns are null. Of several predictions of the
    same example by the same model, version and role the one logged last counts, so that an app that asks often does
    not weigh more. A null key matches a null key: an example without a tail number is still one example. Raises
    :class:`OutcomeError` when a key column is missing, of another type on either side, or repeated in the labels.
    """
    _refuse_ambiguous(predictions, labels, keys)
    last = predictions.sort("logged_at", "request_id", "row").unique(
        [*keys, "model", "version", "role"], keep="last", maintain_order=True
    )
    known = labels.filter(pl.col("label").is_not_null(), pl.col("label_known_at") <= known_by).select(
        *keys, pl.col("label").cast(pl.Float64).alias(OUTCOME), pl.col("label_known_at").alias(OUTCOME_KNOWN_AT)
    )
    return last.join(known, on=list(keys), how="left", nulls_equal=True, maintain_order="left")


def _refuse_ambiguous(predictions: pl.DataFrame, labels: pl.DataFrame, keys: Sequence[str]) -> None:
    for name, side in (("predictions", predictions), ("labels", labels)):
        missing = [key for key in keys if key not in side.columns]
        if missing:
            raise OutcomeError(
                f"Outcomes, {name}",
                expected=f"key columns {listed(keys)}",
                found=f"{len(missing)} missing: {listed(missing)}",
                mend="Unpack them from the request, or name other keys.",
            )
    for key in keys:
        if predictions.schema[key] != labels.schema[key]:
            raise OutcomeError(
                f"Outcomes, key '{key}'",
                expected="the same type on both sides",
                found=f"{predictions.schema[key]} in the predictions, {labels.schema[key]} in the labels",
                mend="Cast the predictions' keys to the types of the labels.",
            )
    repeated = labels.group_by(list(keys)).len().filter(pl.col("len") > 1)
    if repeated.height:
        first = repeated.sort(list(keys), nulls_last=True).row(0, named=True)
        raise OutcomeError(
            "Outcomes, labels",
            expected=f"one row per {listed(keys)}",
            found=f"{repeated.height} keys with several rows (first: {first})",
            mend="Add a key that tells them apart, or drop the duplicates.",
        )
