"""Split of examples by time: training months, then validation months, then the test month.

Fitting, tuning, early stopping and calibration never see the test month, and no row is used before its label is known.
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

MARGIN_MONTHS = 1
"""Months by which the partition of an example and the month of its prediction time may differ."""


class SplitError(PlatformError):
    """Raised when a part of the split has too few rows, or labels of one class only."""


class SplitSettings(Settings):
    """Lengths of the parts. The test part is always the candidate's own month."""

    validation_months: int = Field(
        default=1, ge=1, description="Months before the test month, for early stopping, tuning and calibration."
    )
    train_months: int | None = Field(
        default=None, ge=1, description="Months before validation, for fitting; none: all months."
    )
    minimum_rows: int = Field(default=100, ge=1, description="Lowest number of labelled rows of each part.")

    def first_month(self, month: str) -> str | None:
        """Return the first partition that may contain rows of the split for the candidate of ``month``; None: all.

        It lies one month before the training months, because an example of a partition may have its prediction time in
        the next month.

        >>> SplitSettings(train_months=6, validation_months=2).first_month("2013-12")
        '2013-03'
        """
        if self.train_months is None:
            return None
        return shift_month(month, -self.validation_months - self.train_months - MARGIN_MONTHS)


@dataclass(frozen=True)
class Split:
    """Tables with the columns of the training set, in which every row has a label.

    The labels of ``train`` were known when validation began, and the labels of ``validation`` when the test month
    began. ``late`` has training rows whose labels became known between the two; only a refit uses them. ``embargoed``
    counts rows whose labels became known later, and ``unlabelled`` counts rows without a label by part.
    """

    train: pl.DataFrame
    validation: pl.DataFrame
    test: pl.DataFrame
    late: pl.DataFrame
    embargoed: int
    unlabelled: dict[str, int]

    @property
    def known(self) -> pl.DataFrame:
        """Return train, late and validation, in this order: all rows known before the test month begins."""
        return pl.concat([self.train, self.late, self.validation])

    def counts(self) -> dict[str, int]:
        """Return the number of rows of each part and of those in no part, under stable names."""
        return {
            "train_rows": self.train.height,
            "late_rows": self.late.height,
            "validation_rows": self.validation.height,
            "test_rows": self.test.height,
            "embargoed_rows": self.embargoed,
            **{f"unlabelled_{part}_rows": count for part, count in self.unlabelled.items()},
        }


def split_by_time(frame: pl.DataFrame, month: str, time_zone: str, settings: SplitSettings, *, model: str) -> Split:
    """Return the split of ``frame`` (``predict_at``, ``label``, ``label_known_at``, …) for the candidate of ``month``.

    Test rows are predicted within the month, validation rows in the months before it, and train rows earlier. Months
    begin at midnight in ``time_zone``. The embargo leaves out train rows whose label became known after validation
    began, and validation rows whose label became known after the test month began. Rows without a label are in no part.

    Raises :class:`SplitError` when a column is missing, times are not in UTC, or a part has fewer than
    ``minimum_rows`` rows. It also raises when train or validation has labels of one value only.
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
            fix="Convert them to Datetime('us', 'UTC').",
        )


def _require_rows(subject: str, part: pl.DataFrame, minimum: int) -> None:
    if part.height < minimum:
        raise SplitError(
            subject,
            expected=f"at least {minimum} rows with a known label",
            found=f"{part.height}",
            fix="Materialize the training sets of the earlier months, or choose a later month.",
        )


def _require_two_labels(subject: str, part: pl.DataFrame) -> None:
    if part[LABEL].n_unique() < 2:
        raise SplitError(
            subject,
            expected="labels of more than one value",
            found=f"{part.height} times {part[LABEL][0]}",
            fix="Correct the label rule in the examples function: no model can learn from a constant.",
        )
