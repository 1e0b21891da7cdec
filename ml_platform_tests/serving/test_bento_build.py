"""Bentos: their content, a repeated build, and the verification that rejects wrong ones."""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ml_platform.serving.bento_build import BuiltBento, bento_digest, build_bento, normalized_digest, verify_bento
from ml_platform.serving.bento_locks import OPTIONAL_LOCKS, BentoLocks
from ml_platform.serving.bento_sources import BentoError
from ml_platform.serving.serving_settings import ServingSettings
from ml_platform.training.trainer import Matrix, TrainerSettings, make_trainer
from ml_platform_tests.serving.conftest import CONTRACT, LOCK, ToyModel

LOCKS = BentoLocks(LOCK)

pytestmark = pytest.mark.slow


def test_bento_scores_as_training_does_with_its_own_code(toy: ToyModel, built_bento: BuiltBento) -> None:
    verified = verify_bento(built_bento, toy.rows, toy.scores, online=str(toy.online))
    assert verified.rows == 3
    assert 0 < verified.latency_p50_ms <= verified.latency_p99_ms


def test_score_that_differs_from_training_is_rejected(toy: ToyModel, built_bento: BuiltBento) -> None:
    wrong = [toy.scores[0], toy.scores[1] + 1e-6, toy.scores[2]]
    with pytest.raises(BentoError, match=r"1 of 3 that differ \(row 1"):
        verify_bento(built_bento, toy.rows, wrong, online=str(toy.online))


def test_bento_that_does_not_start_is_rejected_with_its_error_output(
    toy: ToyModel, built_bento: BuiltBento, tmp_path: Path
) -> None:
    broken = tmp_path / "bento"
    shutil.copytree(built_bento.path, broken)
    (broken / "src" / "model" / "encoder.json").unlink()
    with pytest.raises(BentoError, match=r"(?s)toy:1.*service that answers.*expected a file encoder\.json"):
        verify_bento(replace(built_bento, path=broken), toy.rows, toy.scores, online=str(toy.online))


def test_bento_that_cannot_read_its_features_is_rejected_with_its_response(
    built_bento: BuiltBento, toy: ToyModel
) -> None:
    with pytest.raises(BentoError, match=r"(?s)expected a service that answers.*Materialize features/delays"):
        verify_bento(built_bento, toy.rows, toy.scores, online="/nowhere")


def test_bento_of_a_blend_carries_the_scorers_of_its_members_and_scores_their_mean(
    toy: ToyModel, bentos: Path, tmp_path: Path
) -> None:
    blend = tmp_path / "blend"
    shutil.copytree(toy.model_dir, blend)
    for folder in ("member_0", "member_1"):
        (blend / folder).mkdir()
        shutil.copy(blend / "model.txt", blend / folder)
    (blend / "model.txt").unlink()
    members = [{"trainer": "lightgbm", "folder": folder, "scorer": None} for folder in ("member_0", "member_1")]
    (blend / "blend.json").write_text(json.dumps({"task": "classification", "members": members}))
    described = json.loads((blend / "model.json").read_text())
    (blend / "model.json").write_text(json.dumps(described | {"trainer": "blend"}))
    built = build_bento(blend, CONTRACT, version="2", bentos_root=bentos, locks=LOCKS)
    assert (built.path / "src" / "bento" / "lightgbm_scorer.py").is_file()
    assert not (built.path / "src" / "bento" / "network_scorer.py").exists()
    # Two equal members score as one of them does.
    assert verify_bento(built, toy.rows, toy.scores, online=str(toy.online)).rows == 3


def test_repeated_build_returns_the_existing_bento(toy: ToyModel, built_bento: BuiltBento, bentos: Path) -> None:
    before = (built_bento.path / "bento.yaml").stat().st_mtime_ns
    again = build_bento(toy.model_dir, CONTRACT, version="1", bentos_root=bentos, locks=LOCKS)
    assert again == built_bento
    assert (built_bento.path / "bento.yaml").stat().st_mtime_ns == before


def test_digest_of_a_build_is_known_without_building(toy: ToyModel, built_bento: BuiltBento, tmp_path: Path) -> None:
    assert bento_digest(toy.model_dir, CONTRACT, version="1", locks=LOCKS) == normalized_digest(built_bento.path)
    other = tmp_path / "model"
    shutil.copytree(toy.model_dir, other)
    described = json.loads((other / "model.json").read_text())
    (other / "model.json").write_text(json.dumps(described | {"threshold": 0.6}))
    assert bento_digest(other, CONTRACT, version="1", locks=LOCKS) != normalized_digest(built_bento.path)


def test_declared_serving_gives_another_bento_and_the_default_none(toy: ToyModel) -> None:
    digests = [
        bento_digest(toy.model_dir, CONTRACT, version="1", locks=LOCKS, serving=serving)
        for serving in (None, ServingSettings(), ServingSettings(isolation="shared"), ServingSettings(warm=False))
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_other_content_gives_another_bento(
    toy: ToyModel, built_bento: BuiltBento, bentos: Path, tmp_path: Path
) -> None:
    other = tmp_path / "model"
    shutil.copytree(toy.model_dir, other)
    described = json.loads((other / "model.json").read_text())
    (other / "model.json").write_text(json.dumps(described | {"threshold": 0.6}))
    assert build_bento(other, CONTRACT, version="1", bentos_root=bentos, locks=LOCKS).tag != built_bento.tag


def test_bento_carries_no_training_code_and_pins_its_libraries(built_bento: BuiltBento) -> None:
    carried = {
        file.relative_to(built_bento.path / "src").parts[:2] for file in (built_bento.path / "src").rglob("*.py")
    }
    assert ("ml_platform", "features") in carried
    assert not carried & {("ml_platform", part) for part in ("training", "registry", "components", "monitoring")}
    requirements = (built_bento.path / "env/python/requirements.txt").read_text()
    assert "lightgbm==" in requirements
    assert "dagster" not in requirements


def test_bento_of_library_trainers_carries_their_scorers_and_pins(toy: ToyModel, bentos: Path, tmp_path: Path) -> None:
    trainers = ["sklearn", *(name for name in ("xgboost", "catboost") if importlib.util.find_spec(name))]
    if len(trainers) < 3:
        pytest.skip("xgboost or catboost is not installed: run make boosting")
    random = np.random.default_rng(4)
    features = np.column_stack([random.normal(20, 15, 400), random.uniform(0, 90, 400)]).astype(np.float32)
    rows = Matrix(features, (features[:, 0] > 20).astype(np.float64), ["delays__mean", "delays__age_minutes"])
    settings = {
        "sklearn": {"estimator": "sklearn.linear_model:LogisticRegression", "num_threads": 1},
        "xgboost": {"max_rounds": 5, "num_threads": 1},
        "catboost": {"max_rounds": 5, "num_threads": 1},
    }
    members = [{"trainer": name, "settings": settings[name]} for name in trainers]
    declared = TrainerSettings.model_validate({"trainer": "blend", "settings": {"members": members}})
    fitted = make_trainer(declared, "binary").fit(rows, rows.part(0, 100))
    model = tmp_path / "model"
    shutil.copytree(toy.model_dir, model)
    (model / "model.txt").unlink()
    fitted.save(model)
    described = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(described | {"trainer": "blend"}))

    locks = BentoLocks(LOCK, tuple(LOCK.parent / lock for lock in OPTIONAL_LOCKS))
    built = build_bento(model, CONTRACT, version="3", bentos_root=bentos, locks=locks)
    required = json.loads((built.path / "src" / "package.json").read_text())["requirements"]
    pinned = {each.partition("==")[0] for each in required}
    assert {"scikit-learn", "skops", "xgboost-cpu", "catboost"} <= pinned
    read = np.array([[40.0, 60.0], [4.0, 60.0], [np.nan, np.nan]], dtype=np.float32)
    expected = np.interp(fitted.predict(read)[:, 0], [0.0, 0.5, 1.0], [0.1, 0.4, 0.9])
    assert verify_bento(built, toy.rows, expected, online=str(toy.online)).rows == 3
