"""Two versions are compared on rows that neither was fitted on, and by what they were made of."""

import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import ml_platform as mp
from ml_platform.components import loading
from ml_platform.components.model.component import Model
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.console import version_comparison as console_comparison
from ml_platform.console.site.pages import comparison_page
from ml_platform.evaluation.version_comparison import VersionComparison
from ml_platform.registry.models import ModelError
from ml_platform.session.opening import SessionError
from ml_platform.session.session import Session
from ml_platform.steps.candidates import build_training_sets, read_training_set, split_of
from ml_platform.training.model_directory import read_model
from ml_platform_tests.components.delivery_home import PlatformFixture, open_platform
from ml_platform_tests.components.delivery_model import MONTHS, VIEWS, delivery_model
from resources.home import Home
from resources.home_lake import open_lake


def model_without_shops() -> ModelAssets:
    """Return the model without the features of the shops, and with fewer trees."""
    settings = {"max_rounds": 5, "num_threads": 1}
    declared = delivery_model(trainers={"lightgbm": {"trainer": "lightgbm", "settings": settings}}).declared
    changed = declared.model_dump(exclude_unset=True) | {"features": ["order", "when"]}
    return ModelAssets(Model.model_validate(changed), VIEWS[1:])


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformFixture]:
    """Return a home with version 1 of March, and 2 and 3 of April; 3 has neither the shops nor many trees."""
    with open_platform(tmp_path_factory.mktemp("compare") / "home") as opened, pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "bound_model", lambda name: delivery_model(name=name))
        opened.land()
        for month in ("2013-03", "2013-04"):
            opened.make(delivery_model(), month)
        other = model_without_shops()
        build_training_sets(other, MONTHS, opened.lake)
        opened.make(other, "2013-04")
        yield opened


@pytest.fixture(scope="module")
def session(platform: PlatformFixture) -> Iterator[Session]:
    with mp.open(platform.home.root) as opened:
        yield opened


@pytest.fixture(scope="module")
def months_apart(session: Session) -> VersionComparison:
    return session.compare("late", 1, 2)


def test_metrics_are_those_of_both_versions_on_the_test_rows_of_the_later_one(
    platform: PlatformFixture, months_apart: VersionComparison
) -> None:
    model, registry = delivery_model(), platform.mlflow.models
    test = split_of(model, "2013-04", read_training_set(model, "2013-04", platform.lake)).test
    label = test["label"].to_numpy()
    expected = []
    for number in (1, 2):
        folder = registry.download(registry.version("late", number), platform.home.root.parent / f"version{number}")
        expected.append(model.declared.task.score(label, read_model(folder).predict(test)))
    assert months_apart.rows is not None
    assert (months_apart.rows.partition, months_apart.rows.rows) == ("2013-04", test.height)
    assert (months_apart.rows.blocks, months_apart.rows.unit) == (28, "day")
    found = {each.metric: each for each in months_apart.metrics}
    assert {"auc", "log_loss", "brier", "ece"} <= set(found)
    for name in ("auc", "log_loss", "brier"):
        each = found[name]
        assert each.first is not None
        assert each.second is not None
        assert each.improvement is not None
        np.testing.assert_allclose([each.first.value, each.second.value], [side[name] for side in expected], rtol=1e-9)
        sign = 1 if each.higher_is_better else -1
        assert each.improvement.value == pytest.approx(sign * (expected[1][name] - expected[0][name]))
        assert each.improvement.low <= each.improvement.value <= each.improvement.high
    # Paired by day, two alike models differ by less than the interval of either.
    auc = found["auc"]
    assert auc.improvement is not None
    assert auc.first is not None
    assert auc.improvement.high - auc.improvement.low < auc.first.high - auc.first.low


def test_sides_say_what_each_version_was_made_of(months_apart: VersionComparison) -> None:
    first, second = months_apart.first, months_apart.second
    assert (first.version, first.partition, second.version, second.partition) == (1, "2013-03", 2, "2013-04")
    assert second.training_rows - first.training_rows == 840
    assert first.usage["wall_seconds"] > 0
    assert first.usage["cost"] > 0
    assert first.tested["auc"] > 0.6
    assert first.features == second.features
    assert months_apart.added_features == months_apart.removed_features == []
    changed = {each.name: (each.first, each.second) for each in months_apart.data}
    assert changed["partition"] == ("2013-03", "2013-04")
    assert "lock" not in changed
    assert months_apart.settings == months_apart.libraries == []
    shares = {each.name: each for each in months_apart.importance}
    assert months_apart.importance[0].name == "order__distance"
    assert sum(each.second for each in shares.values()) == pytest.approx(1)


def test_removed_features_and_settings_are_listed_and_absent_columns_are_those_of_the_other_version(
    session: Session,
) -> None:
    found = session.compare("late", 2, 3)
    assert (found.removed_features, found.added_features) == (["shops__last_late"], [])
    assert [(each.first, each.second) for each in found.settings if each.name == "trainer.settings.max_rounds"] == [
        (30, 5)
    ]
    assert {each.name: each.second for each in found.importance}["shops__last_late"] is None
    # The rows of version 3 lack the feature of version 2, which is read from the training set of that version.
    back = session.compare("late", 3, 2)
    assert found.rows is not None
    assert back.rows is not None
    assert (found.rows.version, back.rows.version, found.rows.rows) == (3, 2, back.rows.rows)
    improved = {each.metric: each.improvement for each in back.metrics}
    for each in found.metrics:
        mirrored = improved[each.metric]
        assert each.improvement is not None
        assert mirrored is not None
        assert each.improvement.value == pytest.approx(-mirrored.value, abs=1e-9)
    assert {each.metric: each.improvement.value < 0 for each in found.metrics if each.improvement}["log_loss"]
    slices = found.slices_table()
    assert slices["value"].sort().to_list() == ["s0", "s1", "s2"]
    assert slices["improvement"].to_list() == sorted(slices["improvement"])
    (reliability,) = found.reliability
    assert sum(each.rows for each in reliability.first) == found.rows.rows


def test_version_equals_itself_and_no_slice_is_worse(session: Session) -> None:
    same = session.compare("late", 2, 2)
    assert {each.improvement.value for each in same.metrics if each.improvement} == {0}
    assert not any(each.differs for each in same.metrics)
    assert not any(each.proven_worse for each in same.slices)


def test_reason_is_given_when_no_rows_suit_both(platform: PlatformFixture, tmp_path: Path) -> None:
    copy = shutil.copytree(platform.home.root, tmp_path / "home")
    # The rows of version 3 have no value of a feature of version 2, whose own rows are damaged.
    shutil.rmtree(copy / "lake" / delivery_model().table)
    with mp.open(copy) as session:
        found = session.compare("late", 2, 3)
    assert found.rows is None
    assert re.match("No rows suit both: Table 'models/late/training_set/.*: expected the file", found.not_paired)
    assert (found.metrics, found.slices, found.reliability) == ([], [], [])
    assert found.first.tested["auc"] > 0.6
    assert "No rows suit both" in repr(found)


def test_features_are_computed_when_the_own_training_set_is_gone(
    platform: PlatformFixture, session: Session, tmp_path: Path
) -> None:
    copy = Home(shutil.copytree(platform.home.root, tmp_path / "home"))
    open_lake(copy).drop_partitions(delivery_model().table, MONTHS)
    with mp.open(copy.root) as cleaned:
        found = cleaned.compare("late", 2, 3)
    assert found.metrics == session.compare("late", 2, 3).metrics


def test_result_prints_and_becomes_json(months_apart: VersionComparison) -> None:
    output = io.StringIO()
    console_comparison.show(months_apart, Console(file=output, width=100))
    printed = output.getvalue()
    assert "late: version 1 and version 2" in printed
    assert "which neither was fitted on (28 blocks of the unit 'day')" in printed
    assert "order__distance" in printed
    assert json.loads(json.dumps(months_apart.to_dict()))["second"]["partition"] == "2013-04"
    assert repr(months_apart).startswith("late: version 1 (first) and version 2 (second) on 840 test rows of 2013-04")
    assert "<table" in months_apart._repr_html_()
    assert months_apart.metrics_table().columns[:4] == ["metric", "first", "first_low", "first_high"]


def test_comparison_becomes_a_page_without_addresses_of_other_servers(session: Session) -> None:
    page = comparison_page(session.compare("late", 2, 3))
    for text in ("version 2 and version 3", "proven worse", "shops__last_late", "max_rounds", "<svg", "log loss"):
        assert text in page, text
    assert 'href="http' not in page


def test_unknown_version_is_named(platform: PlatformFixture, session: Session) -> None:
    with pytest.raises(SessionError, match="expected a version 9, found versions '3', '2', '1'"):
        session.compare("late", 1, 9)
    with pytest.raises(ModelError, match="expected a version 9"):
        console_comparison.comparison(platform.home, "late", 1, 9)
    assert console_comparison.comparison(platform.home, "late", 1, 2).second.version == 2
