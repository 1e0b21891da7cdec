"""Explanations of a row's features are the same from the change log and from the online store."""

from datetime import timedelta
from pathlib import Path

from ml_platform.features.explain import explain_as_of, explain_online
from ml_platform.features.feature_set import FeatureSet
from ml_platform_tests.features.test_feature_set import LOGS, NOON, VIEWS, rows, store


def test_each_value_is_explained_with_view_known_at_and_age() -> None:
    explained = {each.feature: each for each in explain_as_of(FeatureSet(VIEWS), rows(("N1", 3), late=5), LOGS)}
    busy = explained["hourly__busy"]
    assert (busy.value, busy.view, busy.known_at, busy.age_minutes) == (0.75, "hourly", NOON, 5.0)
    model = explained["leg__model"]
    assert (model.value, model.known_at) == ("A320", NOON - timedelta(minutes=30))
    assert explained["hourly__age_minutes"].value == 5.0
    assert (explained["clock__hour"].value, explained["clock__hour"].known_at) == (15, None)


def test_stale_value_is_explained_as_missing() -> None:
    explained = {each.feature: each for each in explain_as_of(FeatureSet(VIEWS), rows(("N2", 3), late=5), LOGS)}
    assert (explained["leg__model"].value, explained["leg__model"].known_at) == (None, None)


def test_store_and_log_give_equal_explanations(tmp_path: Path) -> None:
    chosen, row = FeatureSet(VIEWS), rows(("N1", 3), late=5)
    assert explain_online(chosen, row, store(tmp_path)) == explain_as_of(chosen, row, LOGS)
