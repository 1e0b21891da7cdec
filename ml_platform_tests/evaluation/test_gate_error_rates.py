"""Error rates of the gate and speed of the bootstrap, as `benchmarks/quality_gates.py` prints them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "quality_gates.py"


@pytest.mark.slow
def test_equal_candidates_are_rarely_promoted_and_better_ones_mostly() -> None:
    done = subprocess.run([sys.executable, str(BENCHMARK), "--json"], capture_output=True, text=True, check=True)
    printed = json.loads(done.stdout)
    gate = printed["gate"]
    assert gate["equally good"]["pairs"] == 200
    assert gate["equally good"]["promote"] <= 0.05
    # Honest intervals of 30 days are 15 % wider than those of independent days; HOLD keeps the rest waiting.
    assert gate["better by 0.01"]["promote"] >= 0.70
    assert gate["worse by 0.005 and newer, margin 0.005"]["promote"] <= 0.05
    assert printed["bootstrap_seconds"]["pair"] <= 3
