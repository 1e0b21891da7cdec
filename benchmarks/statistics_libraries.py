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

IMPORTS = ("scipy.special", "scipy.stats", "statsmodels.stats.multitest", "sklearn.metrics")


@dataclass(frozen=True)
class Comparison:
    """One function of the engine and one of a library on the same input."""

    statistic: str
    library: str
    input: str
    engine_seconds: float
    library_seconds: float
    largest_difference: float
    """Largest absolute difference between the two results; for decisions, the number that differ."""

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


COMPARISONS: tuple[Callable[[], list[Comparison]], ...] = (kolmogorov_smirnov, benjamini_hochberg)


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
    console = Console(width=140)
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


if __name__ == "__main__":
    main()
