"""A rebuild is compared with what was recorded, part by part, and what may explain a difference is said."""

from typing import Any

import numpy as np
import pytest

from ml_platform.registry.manifest import CodeInfo, Manifest
from ml_platform.registry.reproduction import (
    RebuildResult,
    Reproduction,
    ReproductionError,
    predictions_digest,
    reproduce,
)

PREDICTIONS = np.array([0.1, 0.7, 0.3])


@pytest.fixture
def recorded(manifest: Manifest) -> Manifest:
    results = {"metrics": {"auc": 0.77, "log_loss": 0.44}, "predictions": predictions_digest(PREDICTIONS)}
    return manifest.model_copy(update=results)


def again(recorded: Manifest, **changes: object) -> Reproduction:
    given = {
        "training_set": recorded.training_set,
        "stored_training_set": recorded.training_set,
        "metrics": dict(recorded.metrics),
        "predictions": PREDICTIONS,
    }
    rebuilt = RebuildResult(**{**given, **changes})  # type: ignore[arg-type]
    return compared(recorded, rebuilt)


def compared(recorded: Manifest, rebuilt: RebuildResult, **given: Any) -> Reproduction:
    now = {"code": recorded.code, "lock": recorded.lock, "hardware": recorded.hardware, "libraries": {}} | given
    return reproduce(recorded, lambda _: rebuilt, **now)


def test_equal_rebuild_is_equal_in_every_part(recorded: Manifest) -> None:
    found = again(recorded)
    assert found.equal
    assert [one.item for one in found.comparisons] == [
        "training set",
        "training set as stored",
        "auc",
        "log_loss",
        "predictions",
    ]
    assert found.environment_differences == []


@pytest.mark.parametrize(
    ("changes", "unequal"),
    [
        ({"training_set": "f" * 64}, ["training set"]),
        ({"stored_training_set": "f" * 64}, ["training set as stored"]),
        ({"metrics": {"auc": 0.7700000001, "log_loss": 0.44}}, ["auc"]),
        ({"metrics": {"auc": 0.77}}, ["log_loss"]),
        ({"predictions": np.array([0.1, 0.3, 0.7])}, ["predictions"]),
    ],
)
def test_part_that_differs_is_named(recorded: Manifest, changes: dict[str, object], unequal: list[str]) -> None:
    found = again(recorded, **changes)
    assert [one.item for one in found.comparisons if not one.equal] == unequal
    assert not found.equal


def test_tolerance_is_for_metrics_only(recorded: Manifest) -> None:
    kept = recorded.training_set
    nearly = RebuildResult(kept, kept, {"auc": 0.770001, "log_loss": 0.44}, PREDICTIONS + 1e-12)
    found = compared(recorded, nearly, relative_tolerance=1e-4)
    assert [one.item for one in found.comparisons if not one.equal] == ["predictions"]


def test_other_code_lock_and_machine_are_reported(recorded: Manifest) -> None:
    rebuilt = RebuildResult(recorded.training_set, recorded.training_set, recorded.metrics, PREDICTIONS)
    now = CodeInfo(commit="decade", dirty=True, sha256="0" * 64)
    more_cores = recorded.hardware.model_copy(update={"cpu_count": 64})
    assert compared(recorded, rebuilt, code=now, lock="9" * 64, hardware=more_cores).environment_differences == [
        "The code differs: made at c0ffee, now at decade with changes.",
        "The locked dependencies differ.",
        "The machine differs: made on x86_64 Linux with 2 cores, now x86_64 Linux with 64.",
    ]


def test_other_device_and_other_libraries_are_reported(recorded: Manifest) -> None:
    gpu = recorded.hardware.model_copy(update={"device": "NVIDIA H200"})
    fitted_on_gpu = recorded.model_copy(update={"hardware": gpu, "libraries": {"torch": "2.13"}})
    rebuilt = RebuildResult(recorded.training_set, recorded.training_set, recorded.metrics, PREDICTIONS, device="cpu")
    assert compared(fitted_on_gpu, rebuilt, libraries={"torch": "2.14"}).environment_differences == [
        "torch differs: made with 2.13, now 2.14.",
        "The device differs: fitted on NVIDIA H200, now on cpu.",
    ]
    same = RebuildResult(
        recorded.training_set, recorded.training_set, recorded.metrics, PREDICTIONS, device="NVIDIA H200"
    )
    assert compared(fitted_on_gpu, same, libraries={"torch": "2.13"}).environment_differences == []


def test_manifest_without_results_cannot_be_compared(manifest: Manifest) -> None:
    with pytest.raises(ReproductionError, match="found 0 metrics, predictions absent"):
        again(manifest)


@pytest.mark.parametrize(("sha256", "raised"), [("0" * 64, ReproductionError), ("b" * 64, KeyError)])
def test_code_that_can_no_longer_rebuild_names_the_commit_that_could(
    recorded: Manifest, sha256: str, raised: type[Exception]
) -> None:
    def broken(_: Manifest) -> RebuildResult:
        raise KeyError("delays__mean")

    now = CodeInfo(commit="decade", dirty=False, sha256=sha256)
    error_text = "code that reads what the code of c0ffee read" if raised is ReproductionError else "delays__mean"
    with pytest.raises(raised, match=error_text):
        reproduce(recorded, broken, code=now, lock=recorded.lock, hardware=recorded.hardware, libraries={})
