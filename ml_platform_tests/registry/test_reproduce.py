"""A rebuild is compared with what was recorded, part by part, and what may explain a difference is said."""

import numpy as np
import pytest

from ml_platform.registry.manifest import CodeFacts, Manifest
from ml_platform.registry.reproduce import Rebuilt, Reproduction, ReproductionError, predictions_digest, reproduce

PREDICTIONS = np.array([0.1, 0.7, 0.3])


@pytest.fixture
def recorded(manifest: Manifest) -> Manifest:
    results = {"metrics": {"auc": 0.77, "log_loss": 0.44}, "predictions": predictions_digest(PREDICTIONS)}
    return manifest.model_copy(update=results)


def again(recorded: Manifest, **changes: object) -> Reproduction:
    given = {"training_set": recorded.training_set, "metrics": dict(recorded.metrics), "predictions": PREDICTIONS}
    rebuilt = Rebuilt(**{**given, **changes})  # type: ignore[arg-type]
    return reproduce(recorded, lambda _: rebuilt, code=recorded.code, lock=recorded.lock)


def test_equal_rebuild_is_equal_in_every_part(recorded: Manifest) -> None:
    found = again(recorded)
    assert found.equal
    assert [one.what for one in found.comparisons] == ["training set", "auc", "log_loss", "predictions"]
    assert found.surroundings == []


@pytest.mark.parametrize(
    ("changes", "unequal"),
    [
        ({"training_set": "f" * 64}, ["training set"]),
        ({"metrics": {"auc": 0.7700000001, "log_loss": 0.44}}, ["auc"]),
        ({"metrics": {"auc": 0.77}}, ["log_loss"]),
        ({"predictions": np.array([0.1, 0.3, 0.7])}, ["predictions"]),
    ],
)
def test_part_that_differs_is_named(recorded: Manifest, changes: dict[str, object], unequal: list[str]) -> None:
    found = again(recorded, **changes)
    assert [one.what for one in found.comparisons if not one.equal] == unequal
    assert not found.equal


def test_tolerance_is_for_metrics_only(recorded: Manifest) -> None:
    nearly = Rebuilt(recorded.training_set, {"auc": 0.770001, "log_loss": 0.44}, PREDICTIONS + 1e-12)
    found = reproduce(recorded, lambda _: nearly, code=recorded.code, lock=recorded.lock, relative_tolerance=1e-4)
    assert [one.what for one in found.comparisons if not one.equal] == ["predictions"]


def test_other_code_and_lock_are_said(recorded: Manifest) -> None:
    rebuilt = Rebuilt(recorded.training_set, recorded.metrics, PREDICTIONS)
    now = CodeFacts(commit="decade", dirty=False, sha256="0" * 64)
    found = reproduce(recorded, lambda _: rebuilt, code=now, lock="9" * 64)
    assert found.surroundings == [
        "The code differs: trained at c0ffee, now decade.",
        "The locked dependencies differ.",
    ]


def test_manifest_without_results_cannot_be_compared(manifest: Manifest) -> None:
    with pytest.raises(ReproductionError, match="found 0 metrics, predictions absent"):
        again(manifest)
