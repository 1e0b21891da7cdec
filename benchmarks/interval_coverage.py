"""Coverage of the 95 % intervals, and error rates of the paired test with few positives, on simulated evaluations.

Consecutive days are alike: the share of positives follows a first-order autoregression over the days. The models see
the rows, but not the day, so that all rows of a day have a common error.
"""

import argparse
import json
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from ml_platform.evaluation.bootstrap import MINIMUM_CASES, BootstrapSettings, bootstrap
from ml_platform.evaluation.evidence import CANDIDATE, CHAMPION, Evidence
from ml_platform.evaluation.gates import PairedTestGate
from ml_platform.tasks.metrics import ALERT_RATE, EvaluationError

Array = npt.NDArray[np.float64]

AUTOCORRELATIONS, PERIODS = (0.0, 0.26, 0.5), (15, 30, 90)
METRICS = ("log_loss", "brier", "auc", "ece")
PAIR_METRICS = ("log_loss", "brier", "auc", "average_precision")
RARE_METRICS = ("average_precision", "recall_at_rate", "auc", "log_loss")
DAY_EFFECT = 0.5
POSITIVES = (1, 3, 10, 20, 50, 200)


@dataclass(frozen=True)
class Population:
    """A kind of evaluation: its days, rows, rate of positives (as intercept of the logit) and signal."""

    days: int
    rows: int
    autocorrelation: float = 0.0
    intercept: float = -1.0
    signal: float = 1.0
    day_effect: float = DAY_EFFECT


def simulated(population: Population, random: np.random.Generator) -> tuple[Array, Array, npt.NDArray[np.int64]]:
    """Return label, probability and day of each row; the probability is calibrated over all days."""
    day = np.sort(random.integers(0, population.days, population.rows))
    effect = autoregression(population.days, population.autocorrelation, random)
    seen = population.intercept + population.signal * random.normal(size=population.rows)
    label = (random.random(population.rows) < _logistic(seen + population.day_effect * effect[day])).astype(float)
    return label, _mean_logistic(seen, population.day_effect), day


def autoregression(days: int, autocorrelation: float, random: np.random.Generator) -> Array:
    """Return a stationary first-order autoregression of unit variance, shape (days,)."""
    values = random.normal(size=days)
    for at in range(1, days):
        values[at] = autocorrelation * values[at - 1] + np.sqrt(1 - autocorrelation**2) * values[at]
    return values


def coverage(
    population: Population, metrics: tuple[str, ...], repetitions: int, *, unit: str = "day", seed: int = 0
) -> dict[str, float]:
    """Return the share of intervals that contain the true value, by metric."""
    truth = true_values(population)
    settings = BootstrapSettings(resamples=300, unit=unit)
    random = np.random.default_rng(seed)
    covered = dict.fromkeys(metrics, 0)
    for _ in range(repetitions):
        label, probability, day = simulated(population, random)
        block = day if unit == "day" else np.arange(len(day))
        found = bootstrap(label, {"model": probability}, block, settings, metrics=metrics)
        for metric in metrics:
            interval = found.interval("model", metric)
            covered[metric] += interval.low <= truth[metric] <= interval.high
    return {metric: count / repetitions for metric, count in covered.items()}


def pair_coverage(population: Population, repetitions: int, *, resamples: int = 200, seed: int = 0) -> dict[str, float]:
    """Return coverages with two models of equal quality, each of which sees one of two signals of each row.

    For each metric: the share of intervals of one model that contain the true value, the share of intervals of the
    difference that contain 0, and the rate at which a one-sided test at 5 % finds one model better.
    """
    deviation = float(np.hypot(population.signal, population.day_effect))
    truth = true_values(replace(population, day_effect=deviation))
    random, settings = np.random.default_rng(seed), BootstrapSettings(resamples=resamples)
    found: dict[str, list[bool]] = {}
    for _ in range(repetitions):
        day = np.sort(random.integers(0, population.days, population.rows))
        effect = population.day_effect * autoregression(population.days, population.autocorrelation, random)[day]
        signals = population.signal * random.normal(size=(2, population.rows))
        chance = _logistic(population.intercept + signals.sum(axis=0) + effect)
        label = (random.random(population.rows) < chance).astype(float)
        seen = {
            name: _mean_logistic(population.intercept + one, deviation) for name, one in zip("ab", signals, strict=True)
        }
        drawn = bootstrap(label, seen, day, settings, metrics=PAIR_METRICS)
        for metric in PAIR_METRICS:
            interval, difference = drawn.interval("a", metric), drawn.difference("a", "b", metric)
            found.setdefault(metric, []).append(interval.low <= truth[metric] <= interval.high)
            found.setdefault(f"{metric}, difference", []).append(difference.low <= 0 <= difference.high)
            found.setdefault(f"{metric}, better", []).append(difference.one_sided_p_value(0.0) < 0.05)
    return {name: float(np.mean(each)) for name, each in found.items()}


@cache
def true_values(population: Population) -> dict[str, float]:
    """Return the metrics of the population without sampling error, by a fine grid of scores; the ECE is 0."""
    grid = np.linspace(-7, 7, 40_001)[::-1]
    weight = np.exp(-(grid**2) / 2)
    weight /= weight.sum()
    share = _mean_logistic(population.intercept + population.signal * grid, population.day_effect)
    positive, negative = weight * share, weight * (1 - share)
    hits, misses = np.cumsum(positive), np.cumsum(negative)
    rate = float(hits[-1])
    return {
        "auc": float((positive * (misses[-1] - misses + negative / 2)).sum() / (rate * misses[-1])),
        "average_precision": float((positive * hits / (hits + misses)).sum() / rate),
        "recall_at_rate": float(np.interp(ALERT_RATE, hits + misses, hits) / rate),
        "log_loss": float(-(positive * np.log(share) + negative * np.log(1 - share)).sum()),
        "brier": float((weight * share * (1 - share)).sum()),
        "ece": 0.0,
        "base_rate": rate,
    }


def promoted_by_chance(
    positives: int, metric: str, pairs: int, *, rows: int = 3000, minimum_cases: int = MINIMUM_CASES, seed: int = 0
) -> dict[str, float]:
    """Return the rates at which random scores pass the paired test against random scores, and of undecided results."""
    random = np.random.default_rng(seed)
    settings = BootstrapSettings(resamples=300, alert_rate=0.05, minimum_cases=minimum_cases)
    gate = PairedTestGate(metric=metric)
    passed = undecided = 0
    for _ in range(pairs):
        label = np.zeros(rows)
        label[random.choice(rows, positives, replace=False)] = 1
        predictions = {name: random.random(rows) for name in (CANDIDATE, CHAMPION)}
        try:
            result = gate.evaluate(Evidence(label, predictions, np.arange(rows) * 30 // rows, settings=settings))
        except EvaluationError:
            undecided += 1
            continue
        passed, undecided = passed + result.passed, undecided + result.undecided
    return {"passed": passed / pairs, "undecided": undecided / pairs}


RARE = Population(days=30, rows=40_000, intercept=-6.6, signal=1.6, day_effect=0.3)
"""About 200 positives among 40,000 rows: 0.5 %."""


def main() -> None:
    """Print the tables, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    parser.add_argument("--repetitions", type=int, default=1000, help="simulated evaluations per cell")
    options = parser.parse_args()
    times = options.repetitions
    by_cell = {
        f"{days} days, {correlation:g}": coverage(Population(days, 300 * days, correlation), METRICS, times)
        for days in PERIODS
        for correlation in AUTOCORRELATIONS
    }
    pairs = {
        f"{days} days, {correlation:g}": pair_coverage(Population(days, 300 * days, correlation), times)
        for days in PERIODS
        for correlation in AUTOCORRELATIONS
    }
    rare = {
        "days": coverage(RARE, RARE_METRICS, times),
        "days, 0.5": coverage(replace(RARE, autocorrelation=0.5), RARE_METRICS, times),
        "rows": coverage(replace(RARE, day_effect=0.0), RARE_METRICS, times, unit="row"),
    }
    chance = {
        f"{positives} positives, {metric}": {
            **promoted_by_chance(positives, metric, times),
            "passed without a minimum": promoted_by_chance(positives, metric, times, minimum_cases=2)["passed"],
        }
        for positives in POSITIVES
        for metric in ("auc", "average_precision", "recall_at_rate", "log_loss")
    }
    if options.json:
        print(json.dumps({"coverage": by_cell, "pairs": pairs, "rare": rare, "chance": chance}))
        return
    _show("coverage of 95 % intervals: days and lag-1 autocorrelation", by_cell)
    _show("two models of equal quality: coverage, and rate of the finding that one is better", pairs)
    _show(f"coverage at {true_values(RARE)['base_rate']:.2%} positives of {RARE.rows:,} rows, by unit", rare)
    _show("random scores against random scores, 3,000 rows on 30 days", chance)


def _show(title: str, rates: dict[str, dict[str, float]]) -> None:
    columns = list(next(iter(rates.values())))
    table = Table(title, *columns)
    for name, row in rates.items():
        table.add_row(name, *(f"{row[column]:.1%}" for column in columns))
    Console().print(table)


def _mean_logistic(values: Array, deviation: float) -> Array:
    """Return the mean of the logistic over a normal effect of the day, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(15)
    means = [_logistic(values + deviation * node) * weight for node, weight in zip(nodes, weights, strict=True)]
    return np.asarray(np.sum(means, axis=0) / weights.sum())


def _logistic(value: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-value)))


if __name__ == "__main__":
    main()
