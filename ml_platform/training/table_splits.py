"""Splits of a table that do not look at time: a stratified hash, whole groups, or a part that a column names.

They are for models without time, and for models whose rows are exchangeable within their partitions.
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import polars as pl
from pydantic import BeforeValidator, Field, TypeAdapter, model_validator

from ml_platform.data.settings import Settings
from ml_platform.errors import did_you_mean, listed
from ml_platform.training.splits import (
    LABEL,
    Split,
    SplitError,
    TimeSplit,
    require_part_rows,
    require_two_labels,
)
from ml_platform.training.training_set import EXAMPLE_ID

PARTS = ("train", "validation", "test")
MINIMUM_ROWS = 30
MINIMUM_GROUPS = 3

_PLACE = "_place"
_HASH_SPAN = 2.0**64


class TableSplit(Settings):
    """The common settings of the splits without time."""

    minimum_rows: int = Field(default=MINIMUM_ROWS, ge=1, description="Lowest number of labelled rows of each part.")

    is_by_time: ClassVar[bool] = False

    @property
    def split_column(self) -> str | None:
        """The column that the split reads besides the label; None where it reads the id only."""
        return None

    def declared_inputs(self) -> dict[str, Any]:
        """Return the settings that determine a split."""
        return self.model_dump(mode="json")

    def first_partition(self, key: str, partitions: Any) -> None:
        """Return None: rows of all partitions are in the split."""


class Shares(TableSplit):
    """Shares of the rows of each part; they sum to 1."""

    train: float = Field(default=0.6, gt=0, lt=1, description="Share of the training part.")
    validation: float = Field(
        default=0.2, gt=0, lt=1, description="Share of the part for early stopping, tuning and calibration."
    )
    test: float = Field(default=0.2, gt=0, lt=1, description="Share of the part on which candidates are evaluated.")
    seed: int = Field(default=0, ge=0, description="Seed of the hash; another seed gives other parts.")

    @model_validator(mode="after")
    def _validate_shares(self) -> "Shares":
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train, validation and test sum to {total:g}, not to 1; correct the shares")
        return self

    def part_of(self, place: pl.Expr) -> pl.Expr:
        """Return the part of rows whose ``place`` lies between 0 and 1."""
        return (
            pl.when(place < self.train)
            .then(pl.lit("train"))
            .when(place < self.train + self.validation)
            .then(pl.lit("validation"))
            .otherwise(pl.lit("test"))
        )


class HashSplit(Shares):
    """Rows in the order of a hash of their ids; the shares hold within each class, so each part has all classes."""

    by: Literal["hash"] = Field(description="By a hash of the id of each example.")


class GroupSplit(Shares):
    """Whole groups in the order of a hash of their values: no group is in two parts."""

    by: Literal["group"] = Field(description="By whole groups.")
    column: str = Field(description="Column whose values are the groups, for example a customer.")

    @property
    def split_column(self) -> str:
        return self.column


class ColumnSplit(TableSplit):
    """The part of each row is the value of a column; other values and nulls leave a row out."""

    by: Literal["column"] = Field(description="By the values of a column.")
    column: str = Field(description="Column with the name of the part of each row.")
    train: str = Field(default="train", description="Value of the training rows.")
    validation: str = Field(default="validation", description="Value of the validation rows.")
    test: str = Field(default="test", description="Value of the test rows.")

    @property
    def split_column(self) -> str:
        return self.column

    @model_validator(mode="after")
    def _validate_values(self) -> "ColumnSplit":
        if len({self.train, self.validation, self.test}) < len(PARTS):
            raise ValueError("train, validation and test have one value; give each part its own value")
        return self


AnySplit = TimeSplit | HashSplit | GroupSplit | ColumnSplit


def _with_rule(given: Any) -> Any:
    return {"by": "time", **given} if isinstance(given, Mapping) else given


_ByRule = Annotated[AnySplit, Field(discriminator="by")]

DeclaredSplit = Annotated[_ByRule, BeforeValidator(_with_rule, json_schema_input_type=_ByRule)]
"""A split in a declaration; without ``by`` it is one by time."""

_ADAPTER: TypeAdapter[AnySplit] = TypeAdapter(DeclaredSplit)


def as_split(declared_inputs: Mapping[str, Any]) -> AnySplit:
    """Return the split whose ``declared_inputs`` a manifest records."""
    return _ADAPTER.validate_python(dict(declared_inputs))


def split_table(
    frame: pl.DataFrame, settings: HashSplit | GroupSplit | ColumnSplit, *, subject: str, stratified: bool
) -> Split:
    """Return the split of ``frame`` (``example_id``, ``label``, …) by ``settings``; each row is in one part at most.

    A hash split depends on the ids and the seed only; with ``stratified`` it holds the shares within each label, so a
    row may change its part when rows of its class are added. A group keeps its part for ever. Rows without a label are
    in no part, and no row is late or under an embargo.

    Raises :class:`SplitError` when a column is missing or has nulls, when there are fewer than three groups, when a
    part has fewer than ``minimum_rows`` rows, or when train or validation has labels of one value only.
    """
    column = settings.split_column
    _require_columns(subject, frame, [LABEL, EXAMPLE_ID, *([column] if column else [])])
    if isinstance(settings, ColumnSplit):
        parts = _parts_of_column(subject, frame, settings)
    elif isinstance(settings, GroupSplit):
        parts = _parts_of_groups(subject, frame, settings)
    else:
        parts = _parts_by_hash(frame, settings, stratified=stratified)
    named = frame.with_columns(parts.alias(_PLACE))
    by_part = {name: named.filter(pl.col(_PLACE) == name).drop(_PLACE) for name in PARTS}
    labelled = {name: rows.filter(pl.col(LABEL).is_not_null()) for name, rows in by_part.items()}
    for name, rows in labelled.items():
        require_part_rows(
            f"{subject}, {name} part", rows, settings.minimum_rows, "Land more rows, or change the shares of 'split'."
        )
    for name in ("train", "validation"):
        require_two_labels(f"{subject}, {name} part", labelled[name])
    return Split(
        **labelled,
        late=frame.clear(),
        embargoed=0,
        unlabelled={name: rows.height - labelled[name].height for name, rows in by_part.items()},
    )


def _parts_by_hash(frame: pl.DataFrame, settings: HashSplit, *, stratified: bool) -> pl.Series:
    hashed = frame.select(EXAMPLE_ID, LABEL).with_columns(_hashes(frame[EXAMPLE_ID], settings.seed).alias(_PLACE))
    place = pl.col(_PLACE)
    if stratified:
        # The rank of the hash within the class: each class is cut at its own shares.
        place = (pl.struct(_PLACE, EXAMPLE_ID).rank("ordinal").over(LABEL) - 0.5) / pl.len().over(LABEL)
    return hashed.select(settings.part_of(place)).to_series()


def _parts_of_groups(subject: str, frame: pl.DataFrame, settings: GroupSplit) -> pl.Series:
    _require_no_nulls(subject, frame, settings.column)
    groups = frame[settings.column].unique().sort()
    if len(groups) < MINIMUM_GROUPS:
        raise SplitError(
            subject,
            expected=f"at least {MINIMUM_GROUPS} groups in '{settings.column}', one for each part",
            found=f"{len(groups)}",
            fix="Split by a column with more values, or by: hash.",
        )
    places = pl.DataFrame({settings.column: groups, _PLACE: _hashes(groups, settings.seed)})
    joined = frame.select(settings.column).join(places, on=settings.column, how="left", maintain_order="left")
    return joined.select(settings.part_of(pl.col(_PLACE))).to_series()


def _parts_of_column(subject: str, frame: pl.DataFrame, settings: ColumnSplit) -> pl.Series:
    values = frame[settings.column].cast(pl.String)
    parts = {getattr(settings, name): name for name in PARTS}
    absent = [value for value in parts if value not in values]
    if absent:
        found = values.drop_nulls().unique().sort().to_list()
        raise SplitError(
            subject,
            expected=f"rows of the values {listed(parts)} in '{settings.column}'",
            found=f"none of {listed(absent)}; there are {listed(found)}",
            fix=f"Name the values of the parts under 'split'.{did_you_mean(absent[0], found)}",
        )
    return values.replace_strict(parts, default=None, return_dtype=pl.String)


def _hashes(values: pl.Series, seed: int) -> pl.Series:
    """Return a number from 0 to below 1 for each of ``values``, the same on every machine and in every version."""
    digests = [
        int.from_bytes(hashlib.blake2b(f"{seed}:{value}".encode(), digest_size=8).digest()) / _HASH_SPAN
        for value in values.to_list()
    ]
    return pl.Series(digests, dtype=pl.Float64)


def _require_columns(subject: str, frame: pl.DataFrame, columns: list[str]) -> None:
    absent = [name for name in columns if name not in frame.columns]
    if absent:
        raise SplitError(
            subject,
            expected=f"the columns {listed(columns)}",
            found=f"no {listed(absent)}",
            fix=f"Return them from the examples function, or correct 'split'.{did_you_mean(absent[0], frame.columns)}",
        )


def _require_no_nulls(subject: str, frame: pl.DataFrame, column: str) -> None:
    nulls = frame[column].null_count()
    if nulls:
        raise SplitError(
            subject,
            expected=f"a group in every row, in '{column}'",
            found=f"{nulls} nulls among {frame.height} rows",
            fix="Fill the column in the examples function, or split by another one.",
        )
