"""Splits without time: the part of each row by hash, group and column, against counts by hand, and rejected tables."""

import hashlib
from itertools import chain
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from ml_platform.training.splits import Split, SplitError
from ml_platform.training.table_splits import PARTS, ColumnSplit, GroupSplit, HashSplit, as_split, split_table

Settings = HashSplit | GroupSplit | ColumnSplit

CLASSES = {"Adelie": 152, "Chinstrap": 68, "Gentoo": 124}
TABLE = pl.DataFrame(
    {
        "example_id": [f"row-{number}" for number in range(344)],
        "label": [name for name, rows in CLASSES.items() for _ in range(rows)],
        "colony": [f"colony-{number % 43}" for number in range(344)],
        "use": [("fit", "tune", "prove")[number % 3] for number in range(344)],
    }
)


def cut(
    settings: HashSplit | GroupSplit | ColumnSplit, table: pl.DataFrame = TABLE, *, stratified: bool = True
) -> Split:
    return split_table(table, settings, subject="Model 'toy'", stratified=stratified)


def by_hash(**settings: Any) -> HashSplit:
    return HashSplit.model_validate({"by": "hash", **settings})


def by_group(column: str = "colony", **settings: Any) -> GroupSplit:
    return GroupSplit.model_validate({"by": "group", "column": column, **settings})


def by_use(**settings: Any) -> ColumnSplit:
    values = {"train": "fit", "validation": "tune", "test": "prove"}
    return ColumnSplit.model_validate({"by": "column", "column": "use", **values, **settings})


def counts(part: pl.DataFrame) -> dict[str, int]:
    return dict(part["label"].value_counts().sort("label").rows())


def ids(split: Split) -> dict[str, list[str]]:
    return {name: sorted(getattr(split, name)["example_id"]) for name in PARTS}


def test_shares_hold_within_each_class() -> None:
    split = cut(by_hash())
    # 0.6 of 152, 68 and 124 rows are 91.2, 40.8 and 74.4.
    assert counts(split.train) == {"Adelie": 91, "Chinstrap": 41, "Gentoo": 74}
    assert split.validation.height + split.test.height == 344 - 206
    assert sorted(chain(*ids(split).values())) == sorted(TABLE["example_id"])  # each row once
    assert (split.late.height, split.embargoed, split.known.height) == (0, 0, 344 - split.test.height)


def test_part_of_a_row_depends_on_its_id_and_the_seed_and_not_on_the_order() -> None:
    shuffled = TABLE.sample(fraction=1.0, shuffle=True, seed=3)
    assert ids(cut(by_hash(), shuffled)) == ids(cut(by_hash()))
    assert ids(cut(by_hash(seed=1))) != ids(cut(by_hash()))


def test_hash_without_classes_is_that_of_the_id() -> None:
    """A brute-force twin: the first eight bytes of BLAKE2 of the seed and the id, as a share of their range."""
    place = {
        name: int.from_bytes(hashlib.blake2b(f"7:{name}".encode(), digest_size=8).digest()) / 2**64
        for name in TABLE["example_id"]
    }
    split = cut(by_hash(seed=7), stratified=False)
    assert ids(split)["train"] == sorted(name for name, value in place.items() if value < 0.6)
    assert ids(split)["test"] == sorted(name for name, value in place.items() if value >= 0.8)
    grown = pl.concat([TABLE, TABLE.with_columns(pl.format("new-{}", "example_id").alias("example_id"))])
    again = cut(by_hash(seed=7), grown, stratified=False)
    assert set(ids(split)["test"]) <= set(ids(again)["test"])  # no row changes its part


def test_five_rows_of_a_class_are_enough_for_all_parts() -> None:
    table = TABLE.with_columns(pl.when(pl.int_range(344) < 5).then(pl.lit("rare")).otherwise("label").alias("label"))
    split = cut(by_hash(), table)
    assert [counts(getattr(split, name))["rare"] for name in PARTS] == [3, 1, 1]


def test_group_is_in_one_part_and_keeps_it() -> None:
    split = cut(by_group(minimum_rows=20))
    groups = [set(getattr(split, name)["colony"]) for name in PARTS]
    assert all(groups)
    assert len(set.union(*groups)) == sum(map(len, groups)) == 43
    half = cut(by_group(minimum_rows=5), TABLE.filter(pl.int_range(344) % 2 == 0))
    assert set(half.test["colony"]) == set(split.test["colony"]) & set(TABLE[::2]["colony"])


def test_column_names_the_part_and_other_values_leave_a_row_out() -> None:
    table = TABLE.with_columns(pl.when(pl.int_range(344) < 9).then(pl.lit("spare")).otherwise("use").alias("use"))
    split = cut(by_use(), table)
    assert ids(split)["test"] == sorted(table.filter(pl.col("use") == "prove")["example_id"])
    assert sum(getattr(split, name).height for name in PARTS) == 335


def test_rows_without_a_label_are_in_no_part() -> None:
    table = TABLE.with_columns(pl.when(pl.col("example_id") != "row-0").then("label").alias("label"))
    split = cut(by_hash(), table)
    assert "row-0" not in set(chain(*ids(split).values()))
    assert sum(split.unlabelled.values()) == 1


@pytest.mark.parametrize(
    ("settings", "table", "message"),
    [
        (by_use(test="proof"), TABLE, "rows of the values .* in 'use', found none of 'proof'.*Did you mean 'prove'"),
        (by_group("island"), TABLE, "found no 'island'"),
        (by_group("pair"), TABLE.with_columns(pair=pl.lit("one")), "at least 3 groups in 'pair'.*found 1"),
        (by_group("gap"), TABLE.with_columns(gap=pl.lit(None, pl.String)), "344 nulls among 344 rows"),
        (by_hash(), TABLE[70:170], "validation part: expected at least 30 rows .* found 20"),
        (by_use(minimum_rows=5), TABLE.filter(pl.col("use") != "tune"), "found none of 'tune'"),
        (by_hash(minimum_rows=5), TABLE.with_columns(label=pl.lit("Adelie")), "labels of more than one value"),
    ],
)
def test_unfit_table_is_rejected(settings: Settings, table: pl.DataFrame, message: str) -> None:
    with pytest.raises(SplitError, match=message):
        cut(settings, table)


def test_wrong_settings_are_rejected() -> None:
    with pytest.raises(ValidationError, match=r"sum to 1\.1, not to 1"):
        by_hash(train=0.7)
    with pytest.raises(ValidationError, match="have one value"):
        by_use(test="fit")


@pytest.mark.parametrize("settings", [by_hash(seed=5), by_group(), by_use()])
def test_recorded_settings_give_the_split_again(settings: Settings) -> None:
    assert as_split(settings.declared_inputs()) == settings
    # Manifests of earlier releases name no rule: their split is by time.
    assert as_split({"validation_months": 2, "train_months": None, "minimum_rows": 100}).is_by_time
