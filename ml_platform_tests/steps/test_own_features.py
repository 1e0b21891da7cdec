"""After a change of views, each version is judged on the values of its own code, and the verdict says so."""

import importlib
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest

import assets
from ml_platform.components.model.component import Model
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.data.lake import PARTITION
from ml_platform.evaluation.evidence import CANDIDATE, CHAMPION, SystemChecks
from ml_platform.evaluation.gates import evaluate_gates
from ml_platform.evaluation.sequential import pool_windows
from ml_platform.evaluation.verdict import decide
from ml_platform.features.materialize import materialize
from ml_platform.registry.models import ModelVersion
from ml_platform.serving import bento_build
from ml_platform.serving.bento_build import BentoVerification, BuiltBento
from ml_platform.serving.bento_digest import content_digest
from ml_platform.serving.bento_features import views_by_bento
from ml_platform.serving.verified_bentos import record_verified_bento
from ml_platform.steps import own_features
from ml_platform.steps.candidates import build_training_sets, read_training_set, split_of
from ml_platform.steps.evaluation import collect_evidence, record_evaluation
from ml_platform.steps.monitoring import _scores
from ml_platform.steps.own_features import GivenRows, OwnFeaturesError, changed_views, computable_here, own_rows
from ml_platform.steps.packaging import model_directory
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.steps.scoring import ComparedVersions, ModelScores, score_models, score_versions, version_files
from ml_platform.training.splits import Split
from ml_platform_tests.components.delivery_home import PlatformFixture, open_platform
from ml_platform_tests.components.delivery_model import DOMAIN, FUNCTIONS, MONTHS, VIEWS, delivery_model

MODULE = "flipped_deliveries"
NOW = datetime(2014, 1, 1, tzinfo=UTC)
CHECKS = SystemChecks([], [], 1.0, 1)


def model_of_now(**evaluation: str) -> ModelAssets:
    """Return the model of the functions in the test's own module, as its code is now."""
    declared = delivery_model().declared.model_dump(exclude_unset=True)
    declared["examples"] = declared["examples"] | {"function": f"assets.{MODULE}:examples"}
    declared["evaluation"] = declared["evaluation"] | evaluation
    views = [
        view.model_copy(update={"function": view.function.replace(FUNCTIONS, f"assets.{MODULE}")}) for view in VIEWS
    ]
    return ModelAssets(Model.model_validate(declared), views)


def staged_bento(model: ModelAssets, directory: Path, stores: PlatformStores) -> BuiltBento:
    """Return the files of a bento of version 1 without the packaging of BentoML, which takes seconds."""
    staged = stores.home.bentos / "staged"
    (staged / "src").mkdir(parents=True)
    bento_build._stage(staged / "src", directory, model.contract, "1", model.locks(stores.repository), {})
    digest = content_digest(staged)
    bento = staged.rename(staged.with_name(f"1-{digest[:12]}"))
    return BuiltBento(f"late:{bento.name}", bento, digest, 1)


@dataclass(frozen=True)
class ChangedHome:
    """Version 1 of March is the champion; the distance and the lateness got another sign before version 2 of April."""

    platform: PlatformFixture
    model: ModelAssets
    before: ModelAssets
    split: Split
    champion: ModelVersion
    candidate: ModelVersion
    own_scores: npt.NDArray[np.float64]

    @property
    def compared(self) -> ComparedVersions:
        return ComparedVersions(self.candidate, self.champion)

    def scores(self, model: ModelAssets | None = None) -> ModelScores:
        return score_versions(model or self.model, self.split.test, self.compared, self.platform.stores)

    def without_training_set(self, patch: pytest.MonkeyPatch) -> None:
        """Hide the rows that the champion's training set has of April."""
        patch.setattr(own_features._Reading, "from_training_set", lambda *_: None)


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChangedHome]:
    folder = tmp_path_factory.mktemp("domain")
    code = folder / f"{MODULE}.py"
    shutil.copy(DOMAIN / "shop_deliveries.py", code)
    with open_platform(tmp_path_factory.mktemp("changed") / "home") as platform, pytest.MonkeyPatch.context() as patch:
        patch.setattr(assets, "__path__", [*assets.__path__, str(folder)])
        before = model_of_now()
        platform.land()
        online = platform.resources["online_store"].store()
        materialize(before.stored_views[0], platform.lake, online, list(MONTHS), before.declared.partitions)
        build_training_sets(before, MONTHS, platform.lake)
        platform.make(before, "2013-03")
        champion = platform.mlflow.models.version("late", 1)
        test = split_of(before, "2013-04", read_training_set(before, "2013-04", platform.lake)).test
        stores = platform.stores
        own_scores = version_files(champion, stores).stored.predict(test)
        bento = staged_bento(before, model_directory(champion, stores), stores)
        record_verified_bento(
            stores.state,
            stores.home.bentos,
            bento,
            BentoVerification(1, 1.0, 1.0),
            version="1",
            model_digest=champion.content_digest,
        )
        text = code.read_text()
        text = text.replace('pl.col("distance").cast(pl.Float32))', '-pl.col("distance").cast(pl.Float32))  # flipped')
        text = text.replace('pl.col("late").cast(pl.Float32)', '(1 - pl.col("late")).cast(pl.Float32)')
        code.write_text(text)
        sys.modules.pop(f"assets.{MODULE}")
        importlib.invalidate_caches()
        model = model_of_now()
        materialize(model.stored_views[0], platform.lake, online, list(MONTHS), model.declared.partitions)
        build_training_sets(model, MONTHS, platform.lake)
        platform.make(model, "2013-04")
        split = split_of(model, "2013-04", read_training_set(model, "2013-04", platform.lake))
        candidate = platform.mlflow.models.version("late", 2)
        yield ChangedHome(platform, model, before, split, champion, candidate, own_scores)
        sys.modules.pop(f"assets.{MODULE}")


def auc(changed: ChangedHome, scores: npt.NDArray[np.float64]) -> float:
    return changed.model.declared.task.score(changed.split.test["label"].to_numpy().astype(float), scores)["auc"]


def test_champion_keeps_its_own_scores_in_the_evaluation_of_the_next_candidate(changed: ChangedHome) -> None:
    stored = version_files(changed.champion, changed.platform.stores).stored
    foreign, own = auc(changed, stored.predict(changed.split.test)), auc(changed, changed.own_scores)
    assert foreign < 0.4 < 0.7 < own
    scores = score_models(changed.model, changed.split, changed.compared, changed.platform.stores)
    np.testing.assert_array_equal(scores.predictions[CHAMPION], changed.own_scores)
    # The candidate reads the rows as they stand.
    candidate = version_files(changed.candidate, changed.platform.stores).stored
    np.testing.assert_array_equal(scores.predictions[CANDIDATE], candidate.predict(changed.split.test))
    assert scores.feature_notes == (
        "The champion, version 1, reads 'shops', 'order' from the training set of the version",
    )
    evidence = collect_evidence(changed.model, changed.split.test, changed.compared, scores, CHECKS)
    verdict = record_evaluation(changed.model, changed.compared, evidence, {}, changed.platform.stores, NOW)
    said = {gate.name: gate for gate in verdict.gates}["own_features"]
    assert (said.passed, said.reason) == (True, f"{scores.feature_notes[0]}.")


def test_values_are_computed_by_the_bento_and_read_from_the_own_facts(
    changed: ChangedHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed.without_training_set(monkeypatch)
    scores = changed.scores()
    np.testing.assert_allclose(scores.predictions[CHAMPION], changed.own_scores, rtol=1e-12)
    code = changed.before.feature_set.stored[0].code_version.partition("-")[0]
    assert scores.feature_notes == (
        "The champion, version 1, reads 'order' by the code in the bento of the version",
        f"The champion, version 1, reads 'shops' from its facts by the code {code}",
    )


def test_facts_that_end_before_the_rows_are_read_as_the_endpoint_reads_them(
    changed: ChangedHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed.without_training_set(monkeypatch)
    lake, table = changed.platform.lake, changed.before.feature_set.stored[0].table
    kept = lake.scan(table, partitions=["2013-04"]).drop(PARTITION).collect()
    lake.drop_partitions(table, ["2013-04"])
    try:
        files = version_files(changed.champion, changed.platform.stores)
        own = own_rows(
            changed.model, files, GivenRows(changed.split.test, changed.model.table, changed.model.feature_set), lake
        )
    finally:
        lake.write(table, kept, "2013-04")
    assert any(note.endswith("which end on 2013-04-01 00:00 UTC; as its endpoint reads them") for note in own.notes)
    # Every delivery of April gets the last fact of its shop in March.
    march = lake.scan(table, partitions=["2013-03"]).collect().sort("known_at")
    last = dict(march.group_by("shop").agg(pl.col("last_late").last()).iter_rows())
    assert own.rows["shops__last_late"].to_list() == [last[shop] for shop in own.rows["shop"]]


@pytest.mark.parametrize(("rule", "decision"), [("hold", "HOLD"), ("judge_alone", "PROMOTE")])
def test_without_bento_the_declared_rule_decides_and_the_verdict_says_so(
    changed: ChangedHome, monkeypatch: pytest.MonkeyPatch, rule: str, decision: str
) -> None:
    changed.without_training_set(monkeypatch)
    monkeypatch.setattr("ml_platform.steps.scoring.bento_finder", lambda *_: lambda: None)
    model = model_of_now(unscored_champion=rule)
    scores = score_models(model, changed.split, changed.compared, changed.platform.stores)
    assert CHAMPION not in scores.predictions
    evidence = collect_evidence(model, changed.split.test, changed.compared, scores, CHECKS)
    gates = evaluate_gates(model.gates, evidence)
    assert decide(gates)[0] == decision
    said = gates[-1].reason
    assert f"evaluation.unscored_champion: {rule}" in said
    assert "expected the code" in said
    assert "found other code here, and no bento of the version" in said
    paired = next(gate for gate in gates if gate.name == "paired_test_log_loss")
    assert paired.reason == "Not compared: the champion was not scored, see own_features."
    # A later look that can score the champion does not make up for the first.
    later = replace(
        evidence, predictions={**evidence.predictions, CHAMPION: changed.own_scores}, unscored_champion=None
    )
    assert decide(evaluate_gates(model.gates, pool_windows([evidence, later])))[0] == decision
    # The record of an evidence with another reason is another one.
    assert evidence.digest() != replace(evidence, unscored_champion=None).digest()


def test_candidate_whose_own_features_are_gone_is_refused(
    changed: ChangedHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed.without_training_set(monkeypatch)
    monkeypatch.setattr("ml_platform.steps.scoring.bento_finder", lambda *_: lambda: None)
    with pytest.raises(OwnFeaturesError, match=r"Features of a version of 'late' of 2013-03: expected the code"):
        score_versions(
            changed.model, changed.split.test, ComparedVersions(changed.champion, None), changed.platform.stores
        )


def test_unchanged_views_are_not_computed(changed: ChangedHome, monkeypatch: pytest.MonkeyPatch) -> None:
    assert changed_views(changed.before.feature_set, changed.model.feature_set) == {"shops", "order"}
    changed.without_training_set(monkeypatch)
    computed: list[str] = []

    def counted(bento: Path, names: list[str], rows: pl.DataFrame) -> pl.DataFrame:
        computed.extend(names)
        return views_by_bento(bento, names, rows)

    monkeypatch.setattr(own_features, "views_by_bento", counted)
    monkeypatch.setattr(own_features, "run_request_view", lambda view, _: computed.append(view.name))
    changed.scores()
    assert computed == ["order"]
    # The candidate of today's views needs nothing at all.
    given = GivenRows(changed.split.test, changed.model.table, changed.model.feature_set)
    own = own_rows(
        changed.model, version_files(changed.candidate, changed.platform.stores), given, changed.platform.lake
    )
    assert own.rows is changed.split.test
    assert own.notes == []


def test_drift_compares_scores_from_the_own_features(changed: ChangedHome) -> None:
    rows = changed.platform.lake.scan(changed.model.table, partitions=["2013-03", "2013-04"]).collect()
    files = version_files(changed.champion, changed.platform.stores)
    scores = _scores(files, rows, changed.model, "2013-03", "2013-04", changed.platform.lake)
    april = rows.with_columns(scores["score"]).filter(pl.col(PARTITION) == "2013-04")
    expected = changed.split.test.select("example_id", expected=changed.own_scores)
    joined = april.join(expected, on="example_id")
    assert joined.height == expected.height
    np.testing.assert_array_equal(joined["score"], joined["expected"])


def test_skew_is_not_measured_on_views_of_other_code(changed: ChangedHome) -> None:
    here = computable_here(changed.before.feature_set, changed.model.feature_set)
    assert [view.name for view in here.views] == ["shops", "when"]
    assert computable_here(changed.model.feature_set, changed.model.feature_set) is changed.model.feature_set


def test_changed_bento_is_not_run(changed: ChangedHome, monkeypatch: pytest.MonkeyPatch) -> None:
    changed.without_training_set(monkeypatch)
    (code,) = changed.platform.home.bentos.glob(f"1-*/src/assets/{MODULE}.py")
    before = code.read_text()
    code.write_text(f"{before}\n")
    try:
        unscored = changed.scores().unscored_champion
    finally:
        code.write_text(before)
    assert unscored is not None
    assert "expected the content that was verified" in unscored.reason
