"""Labels of a dataset of their own equal a brute-force join at each cut, with delays, corrections and withdrawals."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from ml_platform.features.view import INSTANT
from ml_platform.training.labels import (
    LABEL,
    LABEL_KNOWN_AT,
    LabelsError,
    LabelSettings,
    LandedLabels,
    rows_without_example,
    with_labels,
)

START = datetime(2013, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
END = START + 40 * DAY
HORIZON = 30 * DAY
FOREVER = START + 1000 * DAY


def settings(**changes: Any) -> LabelSettings:
    declared = {
        "dataset": "defaults",
        "join": {"example_id": "loan"},
        "label": "defaulted",
        "known_at": "reported_at",
        "horizon": "30d",
    }
    return LabelSettings.model_validate(declared | changes)


def examples(*rows: tuple[str, float]) -> pl.DataFrame:
    """Return examples from ids and days after the start."""
    ids, days = zip(*rows, strict=True)
    at = pl.Series([START + day * DAY for day in days], dtype=INSTANT)
    return pl.DataFrame({"example_id": list(ids), "predict_at": at})


def label_rows(*rows: tuple[str | None, float, int | None]) -> pl.DataFrame:
    """Return label rows from keys, days after the start, and labels."""
    at = pl.Series([START + day * DAY for _, day, _ in rows], dtype=INSTANT)
    return pl.DataFrame(
        {
            "loan": pl.Series([loan for loan, _, _ in rows], dtype=pl.String),
            "reported_at": at,
            "defaulted": pl.Series([label for _, _, label in rows], dtype=pl.Int8),
        }
    )


def joined(
    given: pl.DataFrame, rows: pl.DataFrame, until: datetime = FOREVER, **changes: Any
) -> list[tuple[int | None, datetime | None]]:
    landed = LandedLabels(settings(**changes), rows.lazy(), until, START, END)
    return with_labels("Examples", given, landed).select(LABEL, LABEL_KNOWN_AT).rows()


def brute_force(
    given: pl.DataFrame, rows: pl.DataFrame, until: datetime, absent: int | None
) -> list[tuple[int | None, datetime | None]]:
    """Return the labels by the words of the definition, one example and one row at a time."""
    found: list[tuple[int | None, datetime | None]] = []
    for example, predict_at in given.rows():
        due = predict_at + HORIZON
        own = [
            (known_at, label)
            for loan, known_at, label in rows.rows()
            if loan == example and predict_at < known_at < due and known_at < until
        ]
        known_at, label = max(own, default=(None, None), key=lambda each: each[0])
        if absent is None:
            found.append((label, known_at if label is not None else None))
        elif due > until:
            found.append((None, None))
        else:
            found.append((absent if label is None else label, due))
    return found


@pytest.mark.parametrize("absent", [None, 0])
def test_labels_equal_a_brute_force_join_as_of_each_cut(absent: int | None) -> None:
    random = np.random.default_rng(7)
    given = examples(*((f"loan{n % 90}", float(day)) for n, day in enumerate(random.uniform(0, 40, 120))))
    rows = label_rows(
        *(
            (f"loan{random.integers(0, 100)}", float(random.uniform(0, 75)), (0, 0, 1, 1, 1, 1, None)[place % 7])
            for place in range(300)
        )
    )
    labelled = []
    for day in range(0, 76, 5):
        until = START + day * DAY
        found = joined(given, rows, until, absent=absent)
        assert found == brute_force(given, rows, until, absent)
        labelled.append(sum(label is not None for label, _ in found))
    assert 0 == labelled[0] < labelled[8] < labelled[-1]  # equal empty results would pass
    assert labelled[-1] == 120 if absent == 0 else labelled[-1] < 120


def test_last_row_within_the_horizon_counts_and_a_null_label_withdraws() -> None:
    given = examples(("a", 1), ("b", 1), ("c", 1), ("d", 1))
    rows = label_rows(
        *(("a", 2, 0), ("a", 5, 1)),  # corrected
        *(("b", 2, 1), ("b", 5, None)),  # withdrawn
        *(("c", 1, 1), ("c", 31, 1)),  # not after the prediction, and when the horizon is over
        ("d", 30.99, 1),
    )
    assert joined(given, rows) == [
        (1, START + 5 * DAY),
        (None, None),
        (None, None),
        (1, START + 30.99 * DAY),
    ]
    due = START + 31 * DAY
    assert joined(given, rows, absent=0) == [(1, due), (0, due), (0, due), (1, due)]


def test_example_is_unlabelled_until_its_horizon_is_over_and_never_negative_before() -> None:
    given, rows = examples(("early", 1), ("silent", 1)), label_rows(("early", 3, 1))
    due = START + 31 * DAY
    assert joined(given, rows, due - timedelta(microseconds=1), absent=0) == [(None, None), (None, None)]
    assert joined(given, rows, due, absent=0) == [(1, due), (0, due)]


def test_two_examples_of_one_key_get_the_rows_of_their_own_horizon() -> None:
    given, rows = examples(("a", 1), ("a", 20)), label_rows(("a", 10, 1))
    assert [label for label, _ in joined(given, rows, absent=0)] == [1, 0]


def test_null_key_labels_nothing_and_counts_as_a_row_without_example() -> None:
    given, rows = examples(("a", 1), ("b", 1)), label_rows((None, 3, 1), ("x", 3, 1), ("a", 3, 1), ("b", 40, 1))
    assert [label for label, _ in joined(given, rows)] == [1, None]
    # Without example are: the null key, the unknown key, and the row after the horizon.
    assert rows_without_example(given, LandedLabels(settings(), rows.lazy(), FOREVER, START, END)) == 3


def test_overlapping_label_rows_are_counted_and_equal_ones_are_one_row() -> None:
    given = examples(("a", 1), ("b", 1))
    rows = label_rows(("a", 3, 1), ("a", 3, 0), ("b", 3, 1), ("b", 3, None), ("c", 3, 1), ("c", 3, 1))
    with pytest.raises(LabelsError, match=r"overlapping label rows: .* found 2 keys with different labels at one time"):
        joined(given, rows)
    assert joined(given, label_rows(("a", 3, 1), ("a", 3, 1)))[0] == (1, START + 3 * DAY)


def test_join_without_the_column_or_type_or_time_is_refused() -> None:
    given, rows = examples(("a", 1)), label_rows(("a", 3, 1))
    with pytest.raises(LabelsError, match="labels in 'datasets/defaults': expected the columns 'loan'"):
        joined(given, rows.drop("loan"))
    with pytest.raises(LabelsError, match="types of the examples: 'loan' String, found 'loan' Int64"):
        joined(given, rows.with_columns(loan=pl.lit(1, pl.Int64)))
    with pytest.raises(LabelsError, match="column 'reported_at': expected times in UTC"):
        joined(given, rows.with_columns(pl.col("reported_at").dt.replace_time_zone(None)))
    with pytest.raises(LabelsError, match=r"'labels.absent' in the type of 'defaulted', Int8, found 'no'"):
        joined(given, rows, absent="no")
    with pytest.raises(LabelsError, match="1 of 1 rows outside of this time"):
        joined(examples(("a", 41)), rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizon": "1mo"}, "horizon"),
        ({"join": []}, "at least 1"),
        ({"join": ["a", "a"]}, "'a' occurs more than once"),
        ({"horizn": "30d"}, "Did you mean 'horizon'"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**changes)
