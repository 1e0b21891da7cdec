"""How often a candidate on HOLD is promoted over up to six windows: one that is no better, and one that is.

Run it with `python -m benchmarks.repeated_looks`. Each simulated window has 30 days whose errors are alike from day to
day. The looks are those of `ml_platform.steps.rejudgement`: the first at the window alone, the later ones at the pooled
windows. It uses the gates, the bootstrap and the verdict of an evaluation.
"""

from dataclasses import dataclass

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.interval_coverage import autoregression
from ml_platform.evaluation.bootstrap import BootstrapSettings
from ml_platform.evaluation.evidence import Evidence
from ml_platform.evaluation.gates import Gate, PairedTestGate, evaluate_gates
from ml_platform.evaluation.sequential import pool_windows
from ml_platform.evaluation.verdict import decide

LOOKS, DAYS, ROWS_PER_DAY = 6, 30, 20

NOISE = 0.5
"""Deviation of the error of a score, on a day like any other."""


@dataclass(frozen=True)
class Outcome:
    """The last decision on a simulated candidate, and its number of looks."""

    decision: str
    looks: int


def simulate(
    candidates: int,
    *,
    better_by: float,
    autocorrelation: float,
    seed: int = 1,
    resamples: int = 200,
    looks: int = LOOKS,
) -> list[Outcome]:
    """Return the outcomes of ``candidates``; ``better_by`` is the part of the noise that its score lacks."""
    random = np.random.default_rng(seed)
    settings = BootstrapSettings(resamples=resamples)
    gates: list[Gate] = [PairedTestGate(metric="log_loss")]
    return [_judge(random, better_by, autocorrelation, settings, gates, looks) for _ in range(candidates)]


def _judge(
    random: np.random.Generator,
    better_by: float,
    autocorrelation: float,
    settings: BootstrapSettings,
    gates: list[Gate],
    looks: int,
) -> Outcome:
    """Judge one candidate until it is decided, or until the last look."""
    days = autoregression(looks * DAYS, autocorrelation, random)
    windows: list[Evidence] = []
    decision = "HOLD"
    while decision == "HOLD" and len(windows) < looks:
        at = len(windows) * DAYS
        windows.append(_window(random, days[at : at + DAYS], better_by, settings))
        pooled = windows[0] if len(windows) == 1 else pool_windows(windows)
        decision = decide(evaluate_gates(gates, pooled))[0]
    return Outcome(decision, len(windows))


def _window(random: np.random.Generator, days: np.ndarray, better_by: float, settings: BootstrapSettings) -> Evidence:
    """Return one window in which both models err by the same kind of noise, the candidate's being smaller."""
    rows = len(days) * ROWS_PER_DAY
    day = np.repeat(np.arange(len(days)), ROWS_PER_DAY)
    truth = random.normal(size=rows)
    label = (random.random(rows) < _probability(truth)).astype(float)
    # On some days one model errs more, on others the other; the days after them are alike.
    more = np.exp(0.4 * np.repeat(days, ROWS_PER_DAY))
    candidate = truth + NOISE * (1 - better_by) * more * random.normal(size=rows)
    champion = truth + NOISE / more * random.normal(size=rows)
    return Evidence(
        label,
        {"candidate": _probability(candidate), "champion": _probability(champion)},
        day,
        candidate_is_newer=True,
        settings=settings,
    )


def _probability(score: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-score)))


def main(candidates: int = 1000) -> None:
    """Print the share of each decision, and the looks until a promotion."""
    table = Table("improvement", "autocorrelation", "PROMOTE", "at look 1", "REJECT", "HOLD", "mean looks to PROMOTE")
    for better_by in (0.0, 0.2):
        for autocorrelation in (0.0, 0.26):
            outcomes = simulate(candidates, better_by=better_by, autocorrelation=autocorrelation)
            promoted = [each.looks for each in outcomes if each.decision == "PROMOTE"]
            shares = {name: sum(each.decision == name for each in outcomes) / candidates for name in ("REJECT", "HOLD")}
            table.add_row(
                f"{better_by:g}",
                f"{autocorrelation:g}",
                f"{len(promoted) / candidates:.3f}",
                f"{promoted.count(1) / candidates:.3f}",
                f"{shares['REJECT']:.3f}",
                f"{shares['HOLD']:.3f}",
                f"{np.mean(promoted):.2f}" if promoted else "–",
            )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
