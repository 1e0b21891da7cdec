"""What an accelerator brings on this machine: `python -m ml_platform.training.gpu_check [--json]`.

Fits the torch trainer on rows made from a seed, on the accelerator (if there is one) and on the CPU: rows/s, how busy
the card was, and the time to the same validation loss. Needs nothing but the training package and its libraries.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass

import numpy as np

from ml_platform.training.accounting import PriceList, measured
from ml_platform.training.torch_settings import TorchSettings
from ml_platform.training.torch_trainer import TorchTrainer, chosen_device
from ml_platform.training.trainer import Matrix

GOAL_UTILISATION = 0.9
TOLERANCE = 0.002


@dataclass(frozen=True)
class Course:
    """One fit: ``looks`` are (seconds since its first step, validation loss) at the end of each epoch."""

    device: str
    rows_per_second: float
    utilisation: float | None
    seconds: float
    peak_memory_bytes: int
    looks: list[tuple[float, float]]

    def seconds_to(self, loss: float) -> float | None:
        """Return the seconds after which the validation loss was at most ``loss``, None where it never was."""
        return next((seconds for seconds, seen in self.looks if seen <= loss), None)


def synthetic(rows: int, features: int, seed: int) -> Matrix:
    """Return ``rows`` with gaps, one category of 100, and a label that a few features and one product decide."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, features), dtype=np.float32)
    values[:, 3] = rng.integers(0, 100, rows)
    score = values[:, 0] + values[:, 1] * values[:, 2] + 0.3 * (values[:, 3] % 5) + rng.standard_normal(rows)
    values[rng.random((rows, features), dtype=np.float32) < 0.05] = np.nan
    return Matrix(values, (score > 1.2).astype(np.float64), [f"f{at}" for at in range(features)], {3: 100})


def measure(matrix: Matrix, settings: TorchSettings, seed: int) -> Course:
    """Fit ``settings`` on nine tenths of ``matrix`` and look at the rest after each epoch.

    The first epoch is left out of rows/s where there is another: kernels are chosen and compiled in it. Utilisation is
    NVML's share of time in which a kernel ran, over the whole fit; None without a card.
    """
    cut = matrix.rows * 9 // 10
    looks: list[tuple[float, float]] = []
    device = chosen_device(settings)
    begun = time.perf_counter()
    with measured(PriceList()) as measuring:
        TorchTrainer(settings, task="classification", seed=seed).fit(
            matrix.part(0, cut),
            matrix.part(cut, matrix.rows),
            report=lambda _, loss: looks.append((time.perf_counter() - begun, loss)),
        )
    taken = measuring.total()
    epochs, seconds = len(looks), looks[-1][0]
    if epochs > 1:
        epochs, seconds = epochs - 1, seconds - looks[0][0]
    on_card = device.type == "cuda"
    return Course(
        device=taken.device if on_card else device.type,
        rows_per_second=cut * epochs / seconds,
        utilisation=taken.gpu_seconds / taken.wall_seconds if on_card else None,
        seconds=taken.wall_seconds,
        peak_memory_bytes=taken.peak_memory_bytes,
        looks=looks,
    )


def compare(rows: int, features: int, epochs: int, seed: int, batch_rows: int) -> dict[str, object]:
    """Return the courses on accelerator (None without one) and CPU, and the time of each to the same loss."""
    matrix = synthetic(rows, features, seed)
    settings = TorchSettings(max_epochs=epochs, patience=epochs, batch_rows=batch_rows, processes=1)
    here = chosen_device(settings).type
    on_cpu = measure(matrix, settings.model_copy(update={"device": "cpu"}), seed)
    on_card = measure(matrix, settings, seed) if here != "cpu" else None
    # The loss that both reach: the worse of the two best ones, and a hair for the order of sums.
    target = max(min(loss for _, loss in each.looks) for each in (on_cpu, on_card) if each is not None) + TOLERANCE
    return {
        "rows": rows,
        "features": features,
        "epochs": epochs,
        "batch_rows": batch_rows,
        "seed": seed,
        "cpu": asdict(on_cpu),
        "accelerator": None if on_card is None else asdict(on_card),
        "validation_loss": target,
        "cpu_seconds_to_loss": on_cpu.seconds_to(target),
        "accelerator_seconds_to_loss": None if on_card is None else on_card.seconds_to(target),
        "goal_utilisation": GOAL_UTILISATION,
    }


def main(arguments: list[str] | None = None) -> None:
    """Print the comparison as a table, or as one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(prog="python -m ml_platform.training.gpu_check", description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000, help="rows to make")
    parser.add_argument("--features", type=int, default=100, help="features of a row, at least 4")
    parser.add_argument("--epochs", type=int, default=3, help="passes over the rows")
    parser.add_argument("--batch-rows", type=int, default=1024, help="rows of a step; larger ones fill a large card")
    parser.add_argument("--seed", type=int, default=0, help="seed of rows and weights")
    parser.add_argument("--json", action="store_true", help="one JSON object in place of the table")
    asked = parser.parse_args(arguments)
    found = compare(asked.rows, asked.features, asked.epochs, asked.seed, asked.batch_rows)
    if asked.json:
        print(json.dumps(found))
        return
    _show(found)


def _show(found: dict[str, object]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{found['rows']:,} rows x {found['features']} features, {found['epochs']} epochs")
    for heading in ("device", "rows/s", "busy", "fit, s", "best loss", f"s to loss {found['validation_loss']:.4f}"):
        table.add_column(heading, justify="left" if heading == "device" else "right")
    for kind in ("cpu", "accelerator"):
        course = found[kind]
        if not isinstance(course, dict):
            table.add_row("no accelerator", *["–"] * 5)
            continue
        busy = course["utilisation"]
        reached = found[f"{kind}_seconds_to_loss"]
        table.add_row(
            str(course["device"]),
            f"{course['rows_per_second']:,.0f}",
            "–" if busy is None else f"{busy:.0%}",
            f"{course['seconds']:.1f}",
            f"{min(loss for _, loss in course['looks']):.4f}",
            "–" if reached is None else f"{reached:.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
