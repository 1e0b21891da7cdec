"""Error rates of the gate and speed of the bootstrap, as `benchmarks/quality_gates.py` prints them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from scipy.stats import binom

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "quality_gates.py"

NOMINAL_RATE = 0.025
"""The share of a 95 % interval's errors at its lower end, which is the one that promotes."""

FALSE_ALARM = 0.001
"""Probability that a test of a right rate fails. Seeds are fixed, so it is one of changed code, not of a repetition."""


@pytest.mark.slow
def test_equal_candidates_are_rarely_promoted_and_better_ones_mostly() -> None:
    command = [sys.executable, str(BENCHMARK), "--json", "--with-goal"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    printed = json.loads(done.stdout)
    gate = printed["gate"]
    assert gate["equally good"]["pairs"] == gate["worse by 0.005 and newer, margin 0.005"]["pairs"] == 500
    # With 500 pairs the limit is 5 %; a true rate of 7.5 % would pass in 2 of 100 cases.
    limit = binom.isf(FALSE_ALARM, 500, NOMINAL_RATE) / 500
    assert gate["equally good"]["promote"] <= limit
    assert gate["worse by 0.005 and newer, margin 0.005"]["promote"] <= limit
    # Honest intervals of 30 days are 15 % wider than those of independent days; HOLD keeps the rest waiting.
    assert gate["better by 0.01"]["promote"] >= 0.70
    assert printed["bootstrap_seconds"]["pair"] <= 3
