"""A rebuild is compared with the recorded results item by item, and environment differences are reported."""

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


def rebuilt_and_compared(recorded: Manifest, **changes: object) -> Reproduction:
    given = {
        "training_set": recorded.training_set,
        "stored_training_set": recorded.training_set,
        "metrics": dict(recorded.metrics),
        "predictions": PREDICTIONS,
    }
    rebuilt = RebuildResult(**{**given, **changes})  # type: ignore[arg-type]
    return compare(recorded, rebuilt)


def compare(recorded: Manifest, rebuilt: RebuildResult, **given: Any) -> Reproduction:
    now = {"code": recorded.code, "lock": recorded.lock, "hardware": recorded.hardware, "libraries": {}} | given
    return reproduce(recorded, lambda _: rebuilt, **now)


def test_equal_rebuild_is_equal_in_every_item(recorded: Manifest) -> None:
    found = rebuilt_and_compared(recorded)
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
def test_differing_item_is_named(recorded: Manifest, changes: dict[str, object], unequal: list[str]) -> None:
    found = rebuilt_and_compared(recorded, **changes)
    assert [one.item for one in found.comparisons if not one.equal] == unequal
    assert not found.equal


def test_tolerance_applies_to_metrics_only(recorded: Manifest) -> None:
    kept = recorded.training_set
    nearly = RebuildResult(kept, kept, {"auc": 0.770001, "log_loss": 0.44}, PREDICTIONS + 1e-12)
    found = compare(recorded, nearly, relative_tolerance=1e-4)
    assert [one.item for one in found.comparisons if not one.equal] == ["predictions"]


def test_other_code_lock_and_machine_are_reported(recorded: Manifest) -> None:
    rebuilt = RebuildResult(recorded.training_set, recorded.training_set, recorded.metrics, PREDICTIONS)
    now = CodeInfo(commit="decade", dirty=True, sha256="0" * 64)
    more_cores = recorded.hardware.model_copy(update={"cpu_count": 64})
    assert compare(recorded, rebuilt, code=now, lock="9" * 64, hardware=more_cores).environment_differences == [
        "The code differs: trained at c0ffee, now at decade with changes.",
        "The locked dependencies differ.",
        "The machine differs: trained on x86_64 Linux (2 cores), now on x86_64 Linux (64 cores).",
    ]


def test_other_device_and_other_libraries_are_reported(recorded: Manifest) -> None:
    gpu = recorded.hardware.model_copy(update={"device": "NVIDIA H200"})
    fitted_on_gpu = recorded.model_copy(update={"hardware": gpu, "libraries": {"torch": "2.13"}})
    rebuilt = RebuildResult(recorded.training_set, recorded.training_set, recorded.metrics, PREDICTIONS, device="cpu")
    assert compare(fitted_on_gpu, rebuilt, libraries={"torch": "2.14"}).environment_differences == [
        "torch differs: trained with 2.13, now 2.14.",
        "The device differs: fitted on NVIDIA H200, now on cpu.",
    ]
    same = RebuildResult(
        recorded.training_set, recorded.training_set, recorded.metrics, PREDICTIONS, device="NVIDIA H200"
    )
    assert compare(fitted_on_gpu, same, libraries={"torch": "2.13"}).environment_differences == []


def test_manifest_without_results_cannot_be_compared(manifest: Manifest) -> None:
    with pytest.raises(ReproductionError, match="found 0 metrics, predictions absent"):
        rebuilt_and_compared(manifest)


@pytest.mark.parametrize(("sha256", "raised"), [("0" * 64, ReproductionError), ("b" * 64, KeyError)])
def test_failed_rebuild_with_changed_code_names_the_pinned_commit(
    recorded: Manifest, sha256: str, raised: type[Exception]
) -> None:
    def broken(_: Manifest) -> RebuildResult:
        raise KeyError("delays__mean")

    now = CodeInfo(commit="decade", dirty=False, sha256=sha256)
    error_text = "code that reads the inputs like the code of c0ffee" if raised is ReproductionError else "delays__mean"
    with pytest.raises(raised, match=error_text):
        reproduce(recorded, broken, code=now, lock=recorded.lock, hardware=recorded.hardware, libraries={})
