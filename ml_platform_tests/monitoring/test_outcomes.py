"""The join of predictions with labels, on tables of a few rows."""

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from ml_platform.monitoring.outcomes import OutcomeError, require_unambiguous_keys, with_outcomes

DAY = datetime(2013, 7, 1, tzinfo=UTC)
UTC_TIME = pl.Datetime("us", "UTC")


def predictions(*rows: tuple[str | None, str, str, float, int]) -> pl.DataFrame:
    """Return predictions from rows of (flight, version, role, score, minutes after midnight of the log line)."""
    return pl.DataFrame(
        [
            (flight, "departure_risk", version, role, f"r{at}", 0, score, DAY + timedelta(minutes=minutes))
            for at, (flight, version, role, score, minutes) in enumerate(rows)
        ],
        schema=["flight", "model", "version", "role", "request_id", "row", "score", "logged_at"],
        orient="row",
    ).with_columns(pl.col("flight").cast(pl.String))


def labels(*rows: tuple[Any, int | None, int]) -> pl.DataFrame:
    """Return labels from rows of (flight, label, hours after midnight at which the label is known)."""
    known = [(flight, label, DAY + timedelta(hours=hours)) for flight, label, hours in rows]
    schema: dict[str, Any] = {"flight": pl.String, "label": pl.Int8, "label_known_at": UTC_TIME}
    return pl.DataFrame(known, schema=schema, orient="row")


def outcomes_of(predicted: pl.DataFrame, known: pl.DataFrame, hours: int = 24) -> list[tuple[str, float | None]]:
    joined = with_outcomes(predicted, known, keys=["flight"], known_by=DAY + timedelta(hours=hours))
    return joined.select("flight", "outcome").rows()


def test_outcome_known_in_time_is_joined() -> None:
    predicted = predictions(("UA1", "7", "stable", 0.5, 0), ("UA2", "7", "stable", 0.5, 0))
    assert outcomes_of(predicted, labels(("UA1", 1, 10), ("UA2", 0, 10))) == [("UA1", 1.0), ("UA2", 0.0)]


@pytest.mark.parametrize(("hours", "outcome"), [(9, None), (10, 1.0)])
def test_outcome_counts_from_the_moment_it_is_known(hours: int, outcome: float | None) -> None:
    predicted = predictions(("UA1", "7", "stable", 0.5, 0))
    assert outcomes_of(predicted, labels(("UA1", 1, 10)), hours) == [("UA1", outcome)]


def test_prediction_without_a_label_row_has_a_null_outcome() -> None:
    assert outcomes_of(predictions(("UA1", "7", "stable", 0.5, 0)), labels(("UA9", 1, 1))) == [("UA1", None)]


def test_cancelled_flight_has_no_outcome() -> None:
    assert outcomes_of(predictions(("UA1", "7", "stable", 0.5, 0)), labels(("UA1", None, 1))) == [("UA1", None)]


def test_null_key_matches_only_a_null_key() -> None:
    predicted = predictions((None, "7", "stable", 0.5, 0), ("UA1", "7", "stable", 0.5, 0))
    assert outcomes_of(predicted, labels((None, 1, 1), ("UA1", 0, 1))) == [(None, 1.0), ("UA1", 0.0)]


def test_repeated_null_key_in_the_labels_is_rejected() -> None:
    with pytest.raises(OutcomeError, match=r"found 1 keys with several rows \(first: {'flight': None"):
        outcomes_of(predictions((None, "7", "stable", 0.5, 0)), labels((None, 1, 1), (None, 0, 1)))


def test_last_prediction_of_an_example_counts_per_version_and_role() -> None:
    predicted = predictions(
        ("UA1", "7", "stable", 0.2, 2), ("UA1", "7", "stable", 0.1, 1),
        ("UA1", "8", "stable", 0.3, 0), ("UA1", "8", "shadow", 0.4, 0),
    )  # fmt: skip
    joined = with_outcomes(predicted, labels(("UA1", 1, 1)), keys=["flight"], known_by=DAY + timedelta(hours=2))
    assert sorted(joined["score"]) == [0.2, 0.3, 0.4]


@pytest.mark.parametrize("reverse", [False, True], ids=["in order", "reversed"])
def test_of_predictions_logged_at_one_instant_the_last_request_and_row_counts(reverse: bool) -> None:
    one_instant = predictions(*(("UA1", "7", "stable", score, 0) for score in (0.1, 0.2, 0.3)))
    given = one_instant.with_columns(
        pl.Series("request_id", ["a", "b", "b"]), pl.Series("row", [9, 0, 1], dtype=pl.Int64)
    )
    given = given.reverse() if reverse else given
    joined = with_outcomes(given, labels(("UA1", 1, 1)), keys=["flight"], known_by=DAY + timedelta(hours=2))
    assert joined["score"].to_list() == [0.3]


def test_stable_and_shadow_of_one_version_are_two_predictions_of_an_example() -> None:
    predicted = predictions(("UA1", "7", "stable", 0.2, 0), ("UA1", "7", "shadow", 0.4, 1))
    joined = with_outcomes(predicted, labels(("UA1", 1, 1)), keys=["flight"], known_by=DAY + timedelta(hours=2))
    assert sorted(joined.select("role", "score", "outcome").rows()) == [("shadow", 0.4, 1.0), ("stable", 0.2, 1.0)]


def test_predictions_of_two_models_for_one_example_both_count() -> None:
    predicted = predictions(("UA1", "7", "stable", 0.2, 0), ("UA1", "7", "stable", 0.4, 1))
    two_models = predicted.with_columns(pl.Series("model", ["departure_risk", "arrival_risk"]))
    joined = with_outcomes(two_models, labels(("UA1", 1, 1)), keys=["flight"], known_by=DAY + timedelta(hours=2))
    assert sorted(joined.select("model", "outcome").rows()) == [("arrival_risk", 1.0), ("departure_risk", 1.0)]


def test_repeated_label_is_rejected_with_its_key() -> None:
    with pytest.raises(OutcomeError, match=r"one row per 'flight', found 1 keys .*first: {'flight': 'UA1', 'len': 2}"):
        outcomes_of(predictions(("UA1", "7", "stable", 0.5, 0)), labels(("UA1", 1, 1), ("UA1", 0, 1)))


def test_repeated_label_of_a_personal_key_is_rejected_without_its_value() -> None:
    known = labels(("UA1", 1, 1), ("UA1", 0, 1))
    with pytest.raises(OutcomeError, match=r"first: {'flight': '•••', 'len': 2}"):
        require_unambiguous_keys(
            predictions(("UA1", "7", "stable", 0.5, 0)), known, keys=["flight"], pii_columns=["flight"]
        )


def test_key_of_another_type_is_rejected() -> None:
    known = labels(("1", 1, 1)).with_columns(pl.col("flight").cast(pl.Int64))
    with pytest.raises(OutcomeError, match=r"key 'flight': expected the same type .* found String in the predictions"):
        outcomes_of(predictions(("1", "7", "stable", 0.5, 0)), known)


def test_missing_key_column_is_rejected() -> None:
    with pytest.raises(OutcomeError, match="Outcomes, predictions: expected key columns 'flight', found 1 missing"):
        outcomes_of(predictions(("1", "7", "stable", 0.5, 0)).drop("flight"), labels(("1", 1, 1)))
