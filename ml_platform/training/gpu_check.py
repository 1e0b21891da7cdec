"""Speed of the accelerator of this machine: `python -m ml_platform.training.gpu_check [--json]`.

Fits the torch trainer on synthetic rows, on the accelerator (if there is one) and on the CPU. Reports rows/s, the
utilisation of the GPU, and the time to the same validation loss. Needs only the training package and its libraries.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass

import numpy as np

from ml_platform.training.resource_usage import PriceList, measure_resources
from ml_platform.training.torch_settings import TorchSettings
from ml_platform.training.torch_trainer import TorchTrainer, chosen_device
from ml_platform.training.trainer import Matrix

TARGET_UTILISATION = 0.9
LOSS_TOLERANCE = 0.002


@dataclass(frozen=True)
class DeviceMeasurement:
    """One fit. ``validation_losses`` has (seconds since the start, validation loss) at the end of each epoch."""

    device: str
    rows_per_second: float
    utilisation: float | None
    seconds: float
    peak_memory_bytes: int
    validation_losses: list[tuple[float, float]]

    def seconds_to(self, loss: float) -> float | None:
        """Return the seconds until the validation loss was at most ``loss``, or None if it never was."""
        return next((seconds for seconds, value in self.validation_losses if value <= loss), None)


def synthetic_rows(rows: int, features: int, seed: int) -> Matrix:
    """Return ``rows`` with missing values, one feature of 100 categories, and a label that depends on four features."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, features), dtype=np.float32)
    values[:, 3] = rng.integers(0, 100, rows)
    score = values[:, 0] + values[:, 1] * values[:, 2] + 0.3 * (values[:, 3] % 5) + rng.standard_normal(rows)
    values[rng.random((rows, features), dtype=np.float32) < 0.05] = np.nan
    return Matrix(values, (score > 1.2).astype(np.float64), [f"f{at}" for at in range(features)], {3: 100})


def measure_fit(matrix: Matrix, settings: TorchSettings, seed: int) -> DeviceMeasurement:
    """Fit ``settings`` on nine tenths of ``matrix`` and validate on the rest after each epoch.

    With several epochs, rows/s leaves out the first, in which kernels are selected and compiled. Utilisation is NVML's
    share of time in which a kernel ran, over the whole fit, and None without a GPU.
    """
    train_rows = matrix.rows * 9 // 10
    validation_losses: list[tuple[float, float]] = []
    device = chosen_device(settings)
    started = time.perf_counter()
    with measure_resources(PriceList()) as meter:
        TorchTrainer(settings, task="binary", seed=seed).fit(
            matrix.part(0, train_rows),
            matrix.part(train_rows, matrix.rows),
            report=lambda _, loss: validation_losses.append((time.perf_counter() - started, loss)),
        )
    usage = meter.total()
    epochs, seconds = len(validation_losses), validation_losses[-1][0]
    if epochs > 1:
        epochs, seconds = epochs - 1, seconds - validation_losses[0][0]
    on_gpu = device.type == "cuda"
    return DeviceMeasurement(
        device=usage.device if on_gpu else device.type,
        rows_per_second=train_rows * epochs / seconds,
        utilisation=usage.gpu_seconds / usage.wall_seconds if on_gpu else None,
        seconds=usage.wall_seconds,
        peak_memory_bytes=usage.peak_memory_bytes,
        validation_losses=validation_losses,
    )


def compare_devices(rows: int, features: int, epochs: int, seed: int, batch_rows: int) -> dict[str, object]:
    """Return the measurements on accelerator (None without one) and CPU, and the time of each to the same loss."""
    matrix = synthetic_rows(rows, features, seed)
    settings = TorchSettings(max_epochs=epochs, patience=epochs, batch_rows=batch_rows, processes=1)
    device_type = chosen_device(settings).type
    cpu_measurement = measure_fit(matrix, settings.model_copy(update={"device": "cpu"}), seed)
    gpu_measurement = measure_fit(matrix, settings, seed) if device_type != "cpu" else None
    # Both devices reach the worse of their lowest losses; the tolerance is for the order of floating-point sums.
    common_loss = (
        max(
            min(loss for _, loss in each.validation_losses)
            for each in (cpu_measurement, gpu_measurement)
            if each is not None
        )
        + LOSS_TOLERANCE
    )
    return {
        "rows": rows,
        "features": features,
        "epochs": epochs,
        "batch_rows": batch_rows,
        "seed": seed,
        "cpu": asdict(cpu_measurement),
        "accelerator": None if gpu_measurement is None else asdict(gpu_measurement),
        "validation_loss": common_loss,
        "cpu_seconds_to_loss": cpu_measurement.seconds_to(common_loss),
        "accelerator_seconds_to_loss": None if gpu_measurement is None else gpu_measurement.seconds_to(common_loss),
        "target_utilisation": TARGET_UTILISATION,
    }


def main(arguments: list[str] | None = None) -> None:
    """Print the comparison as a table, or as one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(prog="python -m ml_platform.training.gpu_check", description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000, help="number of synthetic rows")
    parser.add_argument("--features", type=int, default=100, help="number of features, at least 4")
    parser.add_argument("--epochs", type=int, default=3, help="passes over the rows")
    parser.add_argument("--batch-rows", type=int, default=1024, help="rows of a step; a large GPU needs large batches")
    parser.add_argument("--seed", type=int, default=0, help="seed of rows and weights")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args(arguments)
    comparison = compare_devices(options.rows, options.features, options.epochs, options.seed, options.batch_rows)
    if options.json:
        print(json.dumps(comparison))
        return
    _print_table(comparison)


def _print_table(comparison: dict[str, object]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{comparison['rows']:,} rows x {comparison['features']} features, {comparison['epochs']} epochs"
    )
    for heading in (
        "device",
        "rows/s",
        "busy",
        "fit, s",
        "best loss",
        f"s to loss {comparison['validation_loss']:.4f}",
    ):
        table.add_column(heading, justify="left" if heading == "device" else "right")
    for device_kind in ("cpu", "accelerator"):
        measurement = comparison[device_kind]
        if not isinstance(measurement, dict):
            table.add_row("no accelerator", *["–"] * 5)
            continue
        busy = measurement["utilisation"]
        seconds_to_loss = comparison[f"{device_kind}_seconds_to_loss"]
        table.add_row(
            str(measurement["device"]),
            f"{measurement['rows_per_second']:,.0f}",
            "–" if busy is None else f"{busy:.0%}",
            f"{measurement['seconds']:.1f}",
            f"{min(loss for _, loss in measurement['validation_losses']):.4f}",
            "–" if seconds_to_loss is None else f"{seconds_to_loss:.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
