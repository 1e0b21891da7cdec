"""Speed of the bootstrap, and error rates of the gate on simulated pairs whose true difference is known.

The simulated month resembles a real one: 28,000 flights on 30 days, shares of late flights that differ by day (standard
deviation 0.16) and AUC near 0.72. Part of the errors of both models are common to a whole day. The standard error of a
paired AUC difference on real pairs of LightGBM models is between 0.0012 (another seed) and 0.0040 (a month older).
`day_error` sets it here, and the table shows it. The nominal rate of a wrong promotion is 2.5 %, the share of each end
of the 95 % interval.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ml_platform.data.roc_auc import auc
from ml_platform.evaluation.bootstrap import BootstrapSettings, bootstrap
from ml_platform.evaluation.evidence import CANDIDATE, CHAMPION, Evidence
from ml_platform.evaluation.gates import PairedTestGate
from ml_platform.evaluation.verdict import decide

ROWS, DAYS = 28_000, 30
DAY_ERROR, ROW_ERROR = 0.07, 0.2
SHOWN_ONLY = "shown only"
"""The goal of a scenario without one."""


@dataclass(frozen=True)
class Scenario:
    """Simulated pairs whose candidate is better by ``gain`` AUC, and the ``gate`` that evaluates them."""

    name: str
    gain: float
    gate: PairedTestGate
    candidate_is_newer: bool
    day_error: float
    goal: str
    pairs: int = 200


def simulated_month(seed: int, gain: float, day_error: float, rows: int = ROWS, days: int = DAYS) -> Evidence:
    """Return evidence on a pair whose candidate has ``gain`` more AUC, in expectation over days and rows."""
    return _month(np.random.default_rng(seed), 0.0 if gain == 0 else _skill(gain, day_error), day_error, rows, days)


def error_rates(scenario: Scenario, pairs: int | None = None) -> dict[str, Any]:
    """Return the rate of each verdict, with the mean measured improvement and its standard error."""
    pairs = pairs or scenario.pairs
    decisions, improvements, errors = [], [], []
    for seed in range(pairs):
        evidence = simulated_month(seed, scenario.gain, scenario.day_error)
        evidence = Evidence(
            evidence.label, evidence.predictions, evidence.block, candidate_is_newer=scenario.candidate_is_newer
        )
        result = scenario.gate.evaluate(evidence)
        decisions.append(decide([result])[0])
        improvements.append(result.numbers["improvement"] or 0.0)
        errors.append(evidence.resampled("auc").difference(CANDIDATE, CHAMPION, "auc").standard_error)
    return {
        "pairs": pairs,
        **{word.lower(): decisions.count(word) / pairs for word in ("PROMOTE", "HOLD", "REJECT")},
        "mean_improvement": float(np.mean(improvements)),
        "spread_of_improvement": float(np.std(improvements)),
        "mean_standard_error": float(np.mean(errors)),
        "goal": scenario.goal,
    }


def bootstrap_seconds() -> dict[str, float]:
    """Return the seconds of 1,000 resamples of all five metrics, for one model and for a pair; median of three."""
    evidence = simulated_month(0, 0.0, DAY_ERROR)
    settings = BootstrapSettings()

    def seconds(names: list[str]) -> float:
        chosen = {name: evidence.predictions[name] for name in names}
        started = time.perf_counter()
        bootstrap(evidence.label, chosen, evidence.block, settings)
        return time.perf_counter() - started

    return {
        "one_model": float(np.median([seconds([CANDIDATE]) for _ in range(3)])),
        "pair": float(np.median([seconds([CANDIDATE, CHAMPION]) for _ in range(3)])),
    }


SCENARIOS = (
    Scenario("equally good", 0.0, PairedTestGate(), False, DAY_ERROR, "promoted 2.5 %", pairs=500),
    Scenario("better by 0.01", 0.01, PairedTestGate(), False, DAY_ERROR, "promoted at least 70 %", pairs=500),
    Scenario("better by 0.01, noisier days", 0.01, PairedTestGate(), False, 0.1, SHOWN_ONLY, pairs=100),
    Scenario(
        "equally good and newer, margin 0.005",
        0.0,
        PairedTestGate(margin=0.005),
        True,
        DAY_ERROR,
        SHOWN_ONLY,
        pairs=100,
    ),
    Scenario(
        "worse by 0.005 and newer, margin 0.005",
        -0.005,
        PairedTestGate(margin=0.005),
        True,
        DAY_ERROR,
        "promoted 2.5 %",
        pairs=500,
    ),
)


def main() -> None:
    """Print the table, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    parser.add_argument("--pairs", type=int, help="number of simulated pairs of every scenario")
    parser.add_argument("--with-goal", action="store_true", help="only the scenarios that have a goal")
    options = parser.parse_args()
    timing = bootstrap_seconds()
    chosen = [scenario for scenario in SCENARIOS if not options.with_goal or scenario.goal != SHOWN_ONLY]
    rates = {scenario.name: error_rates(scenario, options.pairs) for scenario in chosen}
    if options.json:
        print(json.dumps({"bootstrap_seconds": timing, "gate": rates}))
    else:
        _show(timing, rates)


def _show(timing: dict[str, float], rates: dict[str, dict[str, Any]]) -> None:
    console = Console()
    clocked = Table("1,000 resamples of 28,000 rows, all metrics", "seconds", "goal")
    clocked.add_row("one model", f"{timing['one_model']:.2f}", "at most 3")
    clocked.add_row("candidate and champion", f"{timing['pair']:.2f}", "at most 3")
    console.print(clocked)
    table = Table("simulated pairs", "PROMOTE", "HOLD", "REJECT", "mean gain", "standard error", "goal")
    for name, rate in rates.items():
        table.add_row(
            name,
            f"{rate['promote']:.1%}",
            f"{rate['hold']:.1%}",
            f"{rate['reject']:.1%}",
            f"{rate['mean_improvement']:+.4f}",
            f"{rate['mean_standard_error']:.4f}",
            rate["goal"],
        )
    console.print(table)


def _month(random: np.random.Generator, skill: float, day_error: float, rows: int, days: int) -> Evidence:
    pair = _draw(random, day_error, rows, days)
    return Evidence(pair.label, {CHAMPION: pair.champion, CANDIDATE: pair.candidate(skill)}, pair.day)


@dataclass(frozen=True)
class _Pair:
    """A simulated month, all random numbers drawn: ``candidate`` returns the candidate's predictions for a skill."""

    label: np.ndarray
    day: np.ndarray
    champion: np.ndarray
    candidate: Callable[[float], np.ndarray]


def _draw(random: np.random.Generator, day_error: float, rows: int, days: int) -> _Pair:
    day = np.sort(random.integers(0, days, rows))
    fate, signal = 0.95 * random.normal(size=days), 0.75 * random.normal(size=rows)
    label = (random.random(rows) < _logistic(-1.05 + fate[day] + signal)).astype(float)
    # Both models see the same features, so most of their errors are common: real pairs correlate by 0.95.
    slip, missed = 0.15 * random.normal(size=days), 0.4 * random.normal(size=rows)

    def own_errors() -> np.ndarray:
        return (day_error * random.normal(size=days))[day] + ROW_ERROR * random.normal(size=rows)

    def model(skill: float, own: np.ndarray) -> np.ndarray:
        return _logistic(-1.05 + ((0.35 + 0.3 * skill) * fate + slip)[day] + signal + (1 - skill) * missed + own)

    champion, own = model(0.0, own_errors()), own_errors()
    return _Pair(label, day, champion, lambda skill: model(skill, own))


@cache
def _skill(gain: float, day_error: float) -> float:
    """Return the skill that adds ``gain`` AUC to a skill of 0, by bisection on 3,000 simulated days."""
    pair = _draw(np.random.default_rng(99), day_error, rows=600_000, days=3000)
    of_champion, low, high = auc(pair.label, pair.champion), -0.5, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        found = auc(pair.label, pair.candidate(middle)) - of_champion
        low, high = (middle, high) if found < gain else (low, middle)
    return low


def _logistic(value: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-value)))


if __name__ == "__main__":
    main()
