"""The speed check of accelerator and CPU, on machines with and without an accelerator."""

import json

import numpy as np
import pytest
import torch

from ml_platform.training import gpu_check
from ml_platform.training.gpu_check import DeviceMeasurement, synthetic_rows


def test_json_has_the_cpu_measurement_and_none_without_an_accelerator(capsys: pytest.CaptureFixture[str]):
    gpu_check.main(["--json", "--rows", "1500", "--features", "5", "--epochs", "2", "--batch-rows", "256"])

    comparison = json.loads(capsys.readouterr().out)

    assert comparison["cpu"]["rows_per_second"] > 0
    assert len(comparison["cpu"]["validation_losses"]) == 2
    assert comparison["cpu"]["utilisation"] is None
    assert comparison["cpu_seconds_to_loss"] <= comparison["cpu"]["validation_losses"][-1][0]
    assert (comparison["accelerator"] is None) == (
        not torch.cuda.is_available() and not torch.backends.mps.is_available()
    )


def test_table_names_the_device(capsys: pytest.CaptureFixture[str]):
    gpu_check.main(["--rows", "600", "--features", "4", "--epochs", "1"])

    assert "cpu" in capsys.readouterr().out


def test_time_to_a_loss_is_the_end_of_the_first_epoch_at_or_below_it():
    measurement = DeviceMeasurement("cpu", 1.0, None, 3.0, 0, [(1.0, 0.6), (2.0, 0.5), (3.0, 0.4)])

    assert [measurement.seconds_to(loss) for loss in (0.5, 0.45, 0.1)] == [2.0, 3.0, None]


def test_synthetic_rows_depend_on_the_seed_only():
    first, again, other = (synthetic_rows(50, 5, seed) for seed in (1, 1, 2))

    assert np.array_equal(first.features, again.features, equal_nan=True)
    assert not np.array_equal(first.features, other.features, equal_nan=True)
