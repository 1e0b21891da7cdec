"""Statistics written in the engine against the libraries that offer them: time and equality of results in one run.

Each comparison is one function that returns a list of `Comparison`, and `COMPARISONS` lists them. A ratio below 1 means
that the function of the engine is faster. A second table shows the seconds that importing each library costs.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

Array = NDArray[np.float64]

IMPORTS = (
    "scipy.special",
    "scipy.stats",
    "statsmodels.stats.multitest",
    "statsmodels.stats.proportion",
    "sklearn.metrics",
    "sklearn.isotonic",
    "sklearn.linear_model",
    "sklearn.inspection",
)
ROWS = 27_000


@dataclass(frozen=True)
class Comparison:
    """One function of the engine and one of a library on the same input."""

    statistic: str
    library: str
    input: str
    engine_seconds: float
    library_seconds: float
    largest_difference: float
    """Largest absolute difference between the two results; for decisions, 1 if any decision differs."""

    @property
    def ratio(self) -> float:
        """Time of the engine divided by time of the library."""
        return self.engine_seconds / self.library_seconds


def compare(
    statistic: str,
    library: str,
    input_name: str,
    engine_call: Callable[[], Array],
    library_call: Callable[[], Array],
    repeats: int = 20,
) -> Comparison:
    """Return the fastest of ``repeats`` alternating calls of each side, and the difference between their results."""
    difference = np.abs(np.asarray(engine_call(), float) - np.asarray(library_call(), float))
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(repeats):
        for side, call in enumerate((engine_call, library_call)):
            start = time.perf_counter()
            call()
            seconds[side].append(time.perf_counter() - start)
    largest = float(difference.max())
    return Comparison(statistic, library, input_name, min(seconds[0]), min(seconds[1]), largest)


def kolmogorov_smirnov() -> list[Comparison]:
    """Compare distance and p-value on the sizes of the drift check: a sample and windows of up to 10,000 rows.

    The p-values differ a little: the engine uses the limit distribution, scipy that of the number of rows.
    """
    from scipy.stats import ks_2samp

    from ml_platform.monitoring import distances

    random = np.random.default_rng(0)
    found = []
    for rows in (10_000, 2_000, 500):
        for kind, reference, current in (
            ("numbers", random.normal(0, 1, 10_000), random.normal(0.1, 1, rows)),
            ("counts", random.poisson(3, 10_000).astype(float), random.poisson(3.2, rows).astype(float)),
        ):
            for place, result in enumerate(("distance", "p-value")):

                def by_engine(reference: Array = reference, current: Array = current, place: int = place) -> Array:
                    distance = distances.kolmogorov_smirnov(reference, current)
                    return np.array((distance.effect, distance.p_value)[place])

                def by_library(reference: Array = reference, current: Array = current, place: int = place) -> Array:
                    return np.array(ks_2samp(reference, current, method="asymp")[place])

                name = f"10,000 and {rows:,} {kind}"
                found.append(compare(f"KS {result}", "scipy.stats.ks_2samp", name, by_engine, by_library))
    return found


def benjamini_hochberg() -> list[Comparison]:
    """Compare the decisions on the p-values of one window: 30 and 236 features, a tenth of them shifted."""
    from scipy.stats import false_discovery_control
    from statsmodels.stats.multitest import multipletests

    random = np.random.default_rng(0)
    found = []
    for features in (30, 236):
        p_values = np.concatenate([random.uniform(size=features), random.uniform(0, 1e-3, features // 10)])
        for library, decide in (
            ("scipy.stats.false_discovery_control", lambda values: false_discovery_control(values) <= 0.01),
            ("statsmodels multipletests", lambda values: multipletests(values, 0.01, "fdr_bh")[0]),
        ):

            def by_hand(p_values: Array = p_values) -> Array:
                return _benjamini_hochberg_by_hand(p_values, 0.01)

            def by_library(p_values: Array = p_values, decide: Callable[[Array], Array] = decide) -> Array:
                return decide(p_values)

            found.append(compare("Benjamini-Hochberg", library, f"{len(p_values)} p-values", by_hand, by_library))
    return found


def area_under_the_curve() -> list[Comparison]:
    """Compare the AUC on the rows of a month, of the leakage screen and of a slice, with and without ties."""
    from sklearn.metrics import roc_auc_score

    from ml_platform.data.roc_auc import auc

    found = []
    for rows in (ROWS, 15_000, 500):
        label, distinct = _labels_and_scores(rows)
        for kind, score in (("distinct scores", distinct), ("scores with ties", distinct.round(2))):

            def by_engine(label: Array = label, score: Array = score) -> Array:
                return np.array(auc(label, score))

            def by_library(label: Array = label, score: Array = score) -> Array:
                return np.array(roc_auc_score(label, score))

            found.append(compare("AUC", "sklearn roc_auc_score", f"{rows:,} {kind}", by_engine, by_library))
    return found


def bootstrapped_ranking_metrics() -> list[Comparison]:
    """Compare AUC and average precision of 1,000 resamples of 30 days with one weighted call per resample."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    from ml_platform.evaluation.bootstrap import draw_counts
    from ml_platform.tasks.resampled_auc import resampled_ranking_metrics

    label, score = _labels_and_scores(ROWS)
    day = np.arange(ROWS) % 30
    counts = draw_counts(30, 1000, seed=0)

    def by_engine() -> Array:
        values = resampled_ranking_metrics(label, score, day, counts)
        return np.concatenate([values["auc"], values["average_precision"]])

    def by_library() -> Array:
        weights = [each[day] for each in counts]
        return np.array(
            [
                metric(label, score, sample_weight=weight)
                for metric in (roc_auc_score, average_precision_score)
                for weight in weights
            ]
        )

    name = f"{ROWS:,} rows, 1,000 resamples"
    return [compare("AUC and average precision", "sklearn, per resample", name, by_engine, by_library, repeats=1)]


def holm() -> list[Comparison]:
    """Compare the adjusted p-values of 30 and 300 slices."""
    from statsmodels.stats.multitest import multipletests

    found = []
    for slices in (30, 300):
        p_values = np.random.default_rng(0).uniform(size=slices) ** 3

        def by_hand(p_values: Array = p_values) -> Array:
            return _holm_by_hand(p_values)

        def by_library(p_values: Array = p_values) -> Array:
            return np.asarray(multipletests(p_values, method="holm")[1])

        found.append(compare("Holm", "statsmodels multipletests", f"{slices} p-values", by_hand, by_library))
    return found


def wilson() -> list[Comparison]:
    """Compare the intervals of ten reliability bins."""
    from statsmodels.stats.proportion import proportion_confint

    rows = np.full(10, ROWS // 10)
    positives = np.linspace(0, rows[0], 10).round()

    def by_library() -> Array:
        return np.array(proportion_confint(positives, rows, method="wilson"))

    return [
        compare(
            "Wilson", "statsmodels proportion_confint", "10 bins", lambda: _wilson_by_hand(positives, rows), by_library
        )
    ]


def calibration() -> list[Comparison]:
    """Compare both calibration maps on the rows of a validation month: predictions, and slope and intercept."""
    from sklearn.isotonic import IsotonicRegression
    from sklearn.linear_model import LogisticRegression

    label, score = _labels_and_scores(ROWS)
    odds = np.log(score / (1 - score))
    odds = (odds - odds.mean()) / odds.std()
    positives = label.sum()
    target = np.where(label > 0, (positives + 1) / (positives + 2), 1 / (ROWS - positives + 2))

    def isotonic_by_library() -> Array:
        return np.asarray(IsotonicRegression().fit(score, label).predict(score))

    def platt_by_library() -> Array:
        model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-9)
        weights = np.concatenate([target, 1 - target])
        model.fit(np.concatenate([odds, odds])[:, None], np.repeat([1, 0], ROWS), sample_weight=weights)
        return np.array([model.coef_[0, 0], model.intercept_[0]])

    rows = f"{ROWS:,} rows"
    return [
        compare(
            "isotonic", "sklearn IsotonicRegression", rows, lambda: _isotonic_by_hand(score, label), isotonic_by_library
        ),
        compare("Platt", "sklearn LogisticRegression", rows, lambda: _logistic_by_hand(odds, target), platt_by_library),
    ]


def permutation_importance() -> list[Comparison]:
    """Compare the shuffling of 236 features of 512 rows for a model that costs next to nothing.

    The difference is large because the two draw different shuffles.
    """
    from ml_platform.training import explain

    random = np.random.default_rng(0)
    features = random.normal(size=(512, 236)).astype(np.float32)
    label = features[:, 0].astype(float)

    def predict(rows: NDArray[np.float32]) -> Array:
        return rows[:, 0].astype(float)

    def loss(truth: Array, scores: Array) -> float:
        return float(np.square(truth - scores).mean())

    def by_hand() -> Array:
        shuffle, increases = np.random.default_rng(0), np.zeros(236)
        for column in range(236):
            shuffled = features.copy()
            shuffled[:, column] = shuffle.permutation(shuffled[:, column])
            increases[column] = loss(label, predict(shuffled)) - loss(label, predict(features))
        return increases

    def by_library() -> Array:
        return explain.permutation_importance(predict, features, label, loss, repeats=1)

    name = "512 rows, 236 features"
    return [compare("permutation importance", "sklearn.inspection", name, by_hand, by_library, repeats=3)]


COMPARISONS: tuple[Callable[[], list[Comparison]], ...] = (
    kolmogorov_smirnov,
    benjamini_hochberg,
    area_under_the_curve,
    bootstrapped_ranking_metrics,
    holm,
    wilson,
    calibration,
    permutation_importance,
)


def import_seconds(module: str, after: str) -> float:
    """Return the seconds that importing ``module`` takes in a new process that has imported ``after``."""
    code = f"import time, {after}; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    found = [comparison for compared in COMPARISONS for comparison in compared()]
    imports = {module: {after: import_seconds(module, after) for after in ("polars", "lightgbm")} for module in IMPORTS}
    if options.json:
        comparisons = [{**asdict(comparison), "ratio": comparison.ratio} for comparison in found]
        print(json.dumps({"comparisons": comparisons, "import_seconds": imports}))
    else:
        _show(found, imports)


def _show(found: list[Comparison], imports: dict[str, dict[str, float]]) -> None:
    console = Console(width=150)
    table = Table("statistic", "library", "input", "engine ms", "library ms", "ratio", "largest difference")
    for comparison in found:
        table.add_row(
            comparison.statistic,
            comparison.library,
            comparison.input,
            f"{comparison.engine_seconds * 1e3:.2f}",
            f"{comparison.library_seconds * 1e3:.2f}",
            f"{comparison.ratio:.2f}",
            f"{comparison.largest_difference:.1e}",
        )
    console.print(table)
    costs = Table("import", "seconds after polars", "seconds after lightgbm")
    for module, seconds in imports.items():
        costs.add_row(module, f"{seconds['polars']:.2f}", f"{seconds['lightgbm']:.2f}")
    console.print(costs)


def _benjamini_hochberg_by_hand(p_values: Array, q: float) -> Array:
    """Return 1 for each rejected hypothesis: the step-up procedure as Benjamini and Hochberg (1995) describe it."""
    order = np.argsort(p_values, kind="stable")
    below = np.flatnonzero(p_values[order] * len(p_values) <= q * np.arange(1, len(p_values) + 1))
    rejected = np.zeros(len(p_values))
    if len(below):
        rejected[order[: below[-1] + 1]] = 1.0
    return rejected


def _labels_and_scores(rows: int) -> tuple[Array, Array]:
    random = np.random.default_rng(0)
    score = random.uniform(0.001, 0.999, rows)
    return (random.uniform(size=rows) < 0.1 + 0.3 * score).astype(float), score


def _holm_by_hand(p_values: Array) -> Array:
    """Return the p-values adjusted by step-down Bonferroni (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def _wilson_by_hand(positives: Array, rows: NDArray[np.int64]) -> Array:
    """Return the lower and upper ends of the 95 % score intervals (Wilson 1927)."""
    share, z = positives / rows, 1.959963984540054
    center = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half_width = z * np.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows)) / (1 + z * z / rows)
    return np.array([np.maximum(center - half_width, 0), np.minimum(center + half_width, 1)])


def _isotonic_by_hand(score: Array, label: Array) -> Array:
    """Return the fitted probabilities by pooling adjacent violators (Ayer et al. 1955)."""
    levels, place = np.unique(score, return_inverse=True)
    weights = np.bincount(place).astype(float)
    blocks: list[tuple[float, float, int]] = []
    for mean, weight in zip((np.bincount(place, weights=label) / weights).tolist(), weights.tolist(), strict=True):
        pooled, total, levels_in_block = mean, weight, 1
        while blocks and blocks[-1][0] >= pooled:
            before, before_weight, before_levels = blocks.pop()
            pooled = (before * before_weight + pooled * total) / (before_weight + total)
            total, levels_in_block = total + before_weight, levels_in_block + before_levels
        blocks.append((pooled, total, levels_in_block))
    fitted = np.repeat([mean for mean, _, _ in blocks], [count for _, _, count in blocks])
    return np.asarray(np.interp(score, levels, fitted))


def _logistic_by_hand(odds: Array, target: Array) -> Array:
    """Return slope and intercept of the lowest log loss by Newton's method, without safeguards."""
    design, weights = np.column_stack([odds, np.ones(len(odds))]), np.zeros(2)
    for _ in range(100):
        probability = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (probability - target) / len(target)
        if np.abs(gradient).max() < 1e-9:
            break
        hessian = design.T @ (design * (probability * (1 - probability))[:, None]) / len(target)
        weights = weights - np.linalg.solve(hessian, gradient)
    return weights


if __name__ == "__main__":
    main()
