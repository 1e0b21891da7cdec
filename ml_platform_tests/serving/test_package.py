"""Bentos: what is in them, that they are the same when built again, and that wrong ones are refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ml_platform.serving.package import Package, build_bento, verify_bento
from ml_platform.serving.sources import PackageRefused, pins, sources_of
from ml_platform_tests.serving.conftest import CONTRACT, LOCK, Toy

pytestmark = pytest.mark.slow


def test_bento_scores_as_training_does_with_its_own_code(toy: Toy, package: Package) -> None:
    verified = verify_bento(package, toy.rows, toy.scores, online=str(toy.online))
    assert verified.rows == 3
    assert 0 < verified.latency_p50_ms <= verified.latency_p99_ms


def test_score_that_differs_from_training_is_refused(toy: Toy, package: Package) -> None:
    wrong = [toy.scores[0], toy.scores[1] + 1e-6, toy.scores[2]]
    with pytest.raises(PackageRefused, match=r"1 of 3 that differ \(row 1"):
        verify_bento(package, toy.rows, wrong, online=str(toy.online))


def test_bento_that_does_not_start_is_refused_with_what_it_said(toy: Toy, package: Package, tmp_path: Path) -> None:
    broken = tmp_path / "bento"
    shutil.copytree(package.path, broken)
    (broken / "src" / "model" / "encoder.json").unlink()
    with pytest.raises(PackageRefused, match=r"(?s)toy:1.*service that answers.*expected a file encoder\.json"):
        verify_bento(replace(package, path=broken), toy.rows, toy.scores, online=str(toy.online))


def test_bento_that_cannot_read_its_features_is_refused_with_its_answer(package: Package, toy: Toy) -> None:
    with pytest.raises(PackageRefused, match=r"(?s)expected a service that answers.*Materialize features/delays"):
        verify_bento(package, toy.rows, toy.scores, online="/nowhere")


def test_building_the_same_again_returns_the_bento_that_is_there(toy: Toy, package: Package, bentos: Path) -> None:
    before = (package.path / "bento.yaml").stat().st_mtime_ns
    again = build_bento(toy.model_dir, CONTRACT, version="1", bentos_root=bentos, lock=LOCK)
    assert again == package
    assert (package.path / "bento.yaml").stat().st_mtime_ns == before


def test_other_content_is_another_bento(toy: Toy, package: Package, bentos: Path, tmp_path: Path) -> None:
    other = tmp_path / "model"
    shutil.copytree(toy.model_dir, other)
    described = json.loads((other / "model.json").read_text())
    (other / "model.json").write_text(json.dumps(described | {"threshold": 0.6}))
    assert build_bento(other, CONTRACT, version="1", bentos_root=bentos, lock=LOCK).tag != package.tag


def test_bento_carries_no_training_code_and_pins_its_libraries(package: Package) -> None:
    carried = {file.relative_to(package.path / "src").parts[:2] for file in (package.path / "src").rglob("*.py")}
    assert ("ml_platform", "features") in carried
    assert not carried & {("ml_platform", room) for room in ("training", "registry", "components", "monitoring")}
    requirements = (package.path / "env/python/requirements.txt").read_text()
    assert "lightgbm==" in requirements
    assert "dagster" not in requirements


def test_code_that_imports_dagster_is_refused_and_named() -> None:
    with pytest.raises(PackageRefused, match=r"ml_platform.components\.\w+ imports|imports ml_platform.components"):
        sources_of(["ml_platform.components.dataset"])


def test_library_without_a_pin_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("polars==2.1.0 \\\n    --hash=sha256:00\n")
    assert pins(["polars"], lock) == ["polars==2.1.0"]
    with pytest.raises(PackageRefused, match="none for 'lightgbm'"):
        pins(["polars", "lightgbm"], lock)
