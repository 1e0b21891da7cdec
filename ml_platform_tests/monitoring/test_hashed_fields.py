"""Outcomes and performance of predictions whose identity is logged as a pseudonym equal those without pseudonyms."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ml_platform.data.pseudonyms import PseudonymKey
from ml_platform.monitoring.hashed_fields import HashedFieldError, HashedFields
from ml_platform.monitoring.logged_fields import (
    PredictionLogError,
    hashed_values,
    identity_column,
    with_hashed_features,
    with_identity,
)
from ml_platform.monitoring.outcome_join import LabelSource, record_outcomes
from ml_platform.monitoring.performance import Period
from ml_platform.monitoring.performance_periods import PerformanceMeasure
from ml_platform_tests.monitoring.prediction_history import (
    IDENTITY,
    LABELS,
    MODEL,
    NOW,
    PredictionHistory,
    measure,
    predict_at,
)

KEY, OTHER_KEY = PseudonymKey(bytes(32)), PseudonymKey(bytes(31) + b"1")
HASHED = HashedFields(KEY, {"flight": pl.Int64()})
LANDED = {flight: flight % 2 for flight in range(20)}


class HashedHistory(PredictionHistory):
    """A history whose requests have a pseudonym of the flight; ``key`` is that of the services (None: no pseudonym)."""

    key: PseudonymKey | None = KEY
    reader_key = KEY

    def predict(self, *flights: int, **keywords: Any) -> None:
        for flight in flights:
            value = flight if self.key is None else self.key.pseudonym("flight", flight)
            super().predict(flight, **keywords, request={"flight": value})

    def join(self, now: Any = NOW) -> int:
        source = LabelSource(LABELS, IDENTITY, hashed=HashedFields(self.reader_key, HASHED.dtypes))
        return record_outcomes(self.lake, MODEL, source, known_by=self.known_by, now=now)


def hashed_measure() -> PerformanceMeasure:
    plain = measure()
    return PerformanceMeasure(
        plain.identity, plain.compute_metrics, plain.metrics_name, plain.settings, plain.outcome_type, HASHED
    )


def lived(history: PredictionHistory, measured: PerformanceMeasure) -> tuple[dict[str, float], list[Period]]:
    """Predict, land, change and withdraw labels, and return outcomes and periods at the end."""
    history.predict(*range(12))
    history.predict(3, 4, 3, version="2")
    history.ingest()
    history.land("2013-07", dict(LANDED))
    history.known_by = predict_at(40)
    history.join()
    history.predict(*range(10, 25), file="b")
    history.ingest()
    history.land("2013-07", {**LANDED, 5: 0, 6: None})
    history.join()
    return history.outcomes(), history.periods(measured)


def test_outcomes_and_performance_equal_those_of_a_plain_log(tmp_path: Path) -> None:
    plain = lived(PredictionHistory(tmp_path / "plain"), measure())
    hashed = lived(HashedHistory(tmp_path / "hashed"), hashed_measure())
    assert len(plain[0]) == 11 + 3 + 10  # of the flights 0 to 19 without 6
    assert [period.metrics for period in plain[1]] != [{}] * len(plain[1])
    assert hashed == plain


def test_predictions_before_the_declaration_of_pii_join_beside_later_ones(tmp_path: Path) -> None:
    plain = PredictionHistory(tmp_path / "plain")
    mixed = HashedHistory(tmp_path / "mixed")
    for history, measured in ((plain, measure()), (mixed, hashed_measure())):
        mixed.key = None
        history.predict(*range(12))
        mixed.key = KEY
        history.predict(*range(5, 18))  # some flights again
        history.ingest()
        history.land("2013-07", dict(LANDED))
        history.known_by = predict_at(40)
        history.join()
        assert history.outcomes() == plain.outcomes()
        assert history.periods(measured) == plain.periods(measure())
    assert len(plain.outcomes()) == 25


def test_outcomes_that_joined_by_a_former_key_stay_when_labels_change(tmp_path: Path) -> None:
    history = HashedHistory(tmp_path)
    history.predict(1, 2, 3)
    history.ingest()
    history.land("2013-07", dict(LANDED))
    history.known_by = predict_at(40)
    history.join()
    before = history.outcomes()
    assert len(before) == 3
    history.key = history.reader_key = OTHER_KEY
    history.predict(4, 5)
    history.ingest()
    history.land("2013-07", {**LANDED, 1: 0, 2: None})
    history.join()
    assert history.outcomes() == {**before, "p000004": 0.0, "p000005": 1.0}


def test_label_of_another_type_than_the_request_field_joins() -> None:
    labels = pl.Series("flight", [1, 2, None], pl.Int32)
    assert HASHED.of_column("flight", labels).to_list() == [*KEY.pseudonyms("flight", [1, 2]), None]
    texts = HashedFields(KEY, {"flight": pl.String()})
    assert texts.of_column("flight", pl.Series("flight", ["1"])).to_list() == [KEY.pseudonym("flight", "1")]


def test_column_that_does_not_fit_the_field_is_named_without_its_values() -> None:
    with pytest.raises(HashedFieldError, match=r"Column 'who'.*in a column of String") as raised:
        HASHED.of_column("flight", pl.Series("who", ["ada@example.org"]))
    assert "ada" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_logged_value_that_does_not_fit_its_type_is_not_shown() -> None:
    with pytest.raises(PredictionLogError, match="values of another type") as raised:
        hashed_values("flight", [{"flight": "ada@example.org"}], HASHED)
    assert "ada" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_absent_field_is_null_and_no_request_is_no_row() -> None:
    logged = pl.DataFrame({"request": ['{"other": 1}', '{"flight": null}']})
    name = identity_column("flight")
    assert with_identity(logged, {"flight": pl.Int64()}, HASHED)[name].to_list() == [None, None]
    assert with_identity(logged.clear(), {"flight": pl.Int64()}, HASHED).schema[name] == pl.String
    two = HashedFields(KEY, {"at": pl.Datetime("us", "UTC")})
    assert with_identity(logged, {"at": pl.Datetime("us", "UTC")}, two)[identity_column("at")].to_list() == [None] * 2


def test_features_that_were_logged_as_values_and_as_pseudonyms_are_compared_alike() -> None:
    pseudonym = KEY.of_feature(pl.Series("v__x", [0.5])).item()
    logged = pl.DataFrame({"features": ['{"v__x": 0.5}', f'{{"v__x": "{pseudonym}"}}', '{"v__x": null}']})
    found = with_hashed_features(logged, {"v__x": pl.Float32()}, KEY)
    assert found["v__x"].to_list() == [pseudonym, pseudonym, None]
