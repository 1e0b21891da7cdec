"""Cutting examples by time: fit on the past, tune on the month after it, judge on the month after that.

Apart because every promise about honesty rests on it: the test month is never seen by fitting, tuning, early stopping
or calibration, and no row is used before its label was known.
"""

from dataclasses import dataclass

import polars as pl
from pydantic import Field

from ml_platform.data.partitions import month_bounds, shift_month
from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError, did_you_mean, listed
from ml_platform.features.view import PREDICT_AT

LABEL = "label"
LABEL_KNOWN_AT = "label_known_at"


class SplitError(PlatformError):
    """Raised when a part of the split has no rows, or labels of one kind only."""


class SplitSettings(Settings):
    """How time is cut. The test part is always the candidate's own month."""

    validation_months: int = Field(default=1, ge=1, description="Months before the test month, for tuning.")
    train_months: int | None = Field(
        default=None, ge=1, description="Months before these, for fitting; none takes all there are."
    )
    minimum_rows: int = Field(default=100, ge=1, description="Labelled rows that each part must have.")


@dataclass(frozen=True)
class Split:
    """Three tables with the columns of the training set; every row of them has a label.

    ``train`` was known before the first validation prediction is made, ``validation`` before the first test prediction.
    ``late`` are train rows whose label came between the two: too late while validation is looked at, early enough for a
    refit. ``embargoed`` counts the rows whose label came later still, ``unlabelled`` those without one, by part.
    """

    train: pl.DataFrame
    validation: pl.DataFrame
    test: pl.DataFrame
    late: pl.DataFrame
    embargoed: int
    unlabelled: dict[str, int]

    @property
    def known(self) -> pl.DataFrame:
        """Return train, late and validation, in this order: all that may be learned before the test month begins."""
        return pl.concat([self.train, self.late, self.validation])

    def counts(self) -> dict[str, int]:
        """Return how many rows each part has, and how many are in none, under stable names."""
        return {
            "train_rows": self.train.height,
            "late_rows": self.late.height,
            "validation_rows": self.validation.height,
            "test_rows": self.test.height,
            "embargoed_rows": self.embargoed,
            **{f"unlabelled_{part}_rows": count for part, count in self.unlabelled.items()},
        }


def split_by_time(frame: pl.DataFrame, month: str, time_zone: str, settings: SplitSettings, *, model: str) -> Split:
    """Cut ``frame`` (``predict_at``, ``label``, ``label_known_at``, …) for the candidate of ``month``.

    Test: predicted within the month. Validation: predicted in the months before it. Train: predicted earlier. A train
    row whose label was known only after validation began is left out, and so is a validation row whose label was known
    only after the test month began (the embargo). Rows without a label are in no part.

    Raises :class:`SplitError` when a column is missing or has times that are not in UTC, a part has fewer than
    ``minimum_rows`` rows, or train or validation holds one kind of label only.
    """
    test_start, test_end = month_bounds(month, time_zone)
    validation_start, _ = month_bounds(shift_month(month, -settings.validation_months), time_zone)
    train_start = None
    if settings.train_months is not None:
        train_start, _ = month_bounds(
            shift_month(month, -settings.validation_months - settings.train_months), time_zone
        )
    _require_columns(f"Model '{model}', {month}", frame)
    predicted_at, known = pl.col(PREDICT_AT), pl.col(LABEL_KNOWN_AT)
    parts = {
        "train": frame.filter(
            (predicted_at < validation_start) & (pl.lit(True) if train_start is None else predicted_at >= train_start)
        ),
        "validation": frame.filter((predicted_at >= validation_start) & (predicted_at < test_start)),
        "test": frame.filter((predicted_at >= test_start) & (predicted_at < test_end)),
    }
    labelled = {name: part.filter(pl.col(LABEL).is_not_null()) for name, part in parts.items()}
    split = Split(
        train=labelled["train"].filter(known <= validation_start),
        validation=labelled["validation"].filter(known <= test_start),
        test=labelled["test"],
        late=labelled["train"].filter((known > validation_start) & (known <= test_start)),
        embargoed=sum(labelled[name].filter(known > test_start).height for name in ("train", "validation")),
        unlabelled={name: part.height - labelled[name].height for name, part in parts.items()},
    )
    for name, rows in (("train", split.train), ("validation", split.validation), ("test", split.test)):
        _require_rows(f"Model '{model}', {month}, {name} part", rows, settings.minimum_rows)
    for name, rows in (("train", split.train), ("validation", split.validation)):
        _require_two_labels(f"Model '{model}', {month}, {name} part", rows)
    return split


def _require_columns(subject: str, frame: pl.DataFrame) -> None:
    absent = [name for name in (LABEL, LABEL_KNOWN_AT, PREDICT_AT) if name not in frame.columns]
    if absent:
        raise SplitError(
            subject,
            expected=f"the columns {listed([LABEL, LABEL_KNOWN_AT, PREDICT_AT])}",
            found=f"no {listed(absent)}",
            fix=f"Pass the training set.{did_you_mean(absent[0], frame.columns)}",
        )
    naive = [name for name in (LABEL_KNOWN_AT, PREDICT_AT) if getattr(frame.schema[name], "time_zone", None) != "UTC"]
    if naive:
        raise SplitError(
            subject,
            expected="times in UTC",
            found=", ".join(f"{frame.schema[name]} in '{name}'" for name in naive),
            fix="Give them as Datetime('us', 'UTC').",
        )


def _require_rows(subject: str, part: pl.DataFrame, minimum: int) -> None:
    if part.height < minimum:
        raise SplitError(
            subject,
            expected=f"at least {minimum} rows with a known label",
            found=f"{part.height}",
            fix="Materialize the training sets of the months before, or choose a later month.",
        )


def _require_two_labels(subject: str, part: pl.DataFrame) -> None:
    if part[LABEL].n_unique() < 2:
        raise SplitError(
            subject,
            expected="labels of more than one kind",
            found=f"{part.height} times {part[LABEL][0]}",
            fix="Mend the label rule in the examples function: nothing can be learned from a constant.",
        )
