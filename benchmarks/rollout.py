"""False alarms and delay of the guard of rollouts, by simulation: `python -m benchmarks.rollout [--json]`.

A simulated rollout has 4 looks per second for ten minutes at 40 requests per second, of which the candidate answers
one fifth. A candidate is rolled back when any guardrail reaches its limit at any look. All versions also share the same
ups and downs, of errors and of scores, which must not count against the candidate.
"""

import argparse
import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from ml_platform.serving.arm_counts import ArmCounts
from ml_platform.serving.desired_state import ServedVersion
from ml_platform.serving.rollout import Rollout, judge, observe
from ml_platform.serving.rollout_settings import Guardrails, RolloutSettings, RolloutStep

LOOKS_PER_SECOND = 4
ANSWERS_PER_LOOK = 2, 8
"""Answers of the candidate and of the stable version between two looks."""

SCORE_BINS = 10


@dataclass(frozen=True)
class Version:
    """How a simulated version answers: shares of bad answers of each kind, and the mean score."""

    errors: float = 0.002
    slow: float = 0.01
    missing: float = 0.05
    changed: float = 0.005
    score: float = 0.3
    all_equal: bool = False


STABLE = Version()

GOOD = {
    "equal": STABLE,
    "more errors within the tolerance": replace(STABLE, errors=0.01),
    "slower within the tolerance": replace(STABLE, slow=0.05),
    "scores moved by 0.03": replace(STABLE, score=0.33),
    "more missing facts within the tolerance": replace(STABLE, missing=0.09),
    "scores changed within the tolerance": replace(STABLE, changed=0.02),
}

BAD = {
    "always fails": replace(STABLE, errors=1.0),
    "fails on 20 % of the rows": replace(STABLE, errors=0.2),
    "fails on 5 % of the rows": replace(STABLE, errors=0.05),
    "slow": replace(STABLE, slow=1.0),
    "scores moved by 0.2": replace(STABLE, score=0.5),
    "scores all equal": replace(STABLE, all_equal=True),
    "half of the facts missing": replace(STABLE, missing=0.5),
    "wrong for 5 % of the rows": replace(STABLE, changed=0.05),
}


def simulate(candidate: Version, looks: int, seed: int) -> float | None:
    """Return the seconds until ``candidate`` is rolled back, or None when it is not within ``looks`` looks."""
    generator = np.random.default_rng(seed)
    served = [ServedVersion(version=each, bento=f"toy/{each}") for each in ("1", "2")]
    step = RolloutStep(weight=20, min_requests=10**9)
    settings = RolloutSettings(strategy="canary", steps=(step,), guardrails=Guardrails())
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rollout = Rollout(candidate=served[1], stable=served[0], settings=settings, started=start)
    totals = {"candidate": ArmCounts(scores=(0,) * SCORE_BINS), "stable": ArmCounts(scores=(0,) * SCORE_BINS)}
    rollout = observe(rollout, totals, start, seed)
    for look in range(1, looks + 1):
        at = start + timedelta(seconds=look / LOOKS_PER_SECOND)
        # Both arms are worse in the same minutes, and their requests differ then.
        wave = np.sin(look / LOOKS_PER_SECOND / 60)
        arms = {"candidate": (candidate, ANSWERS_PER_LOOK[0]), "stable": (STABLE, ANSWERS_PER_LOOK[1])}
        totals = {arm: _after_a_look(totals[arm], *arms[arm], float(wave), generator) for arm in arms}
        rollout = observe(rollout, totals, at, int(generator.integers(2**32)))
        if judge(rollout, at).action == "roll_back":
            return look / LOOKS_PER_SECOND
    return None


def measure(rollouts: int, looks: int) -> dict[str, Any]:
    """Return the share of good candidates that were rolled back, and the seconds until bad ones were."""
    return {
        "settings": {"rollouts": rollouts, "looks": looks, "guardrails": Guardrails().model_dump()},
        "good": {name: _summary(each, rollouts, looks) for name, each in GOOD.items()},
        "bad": {name: _summary(each, max(rollouts // 10, 5), looks) for name, each in BAD.items()},
    }


def _summary(candidate: Version, rollouts: int, looks: int) -> dict[str, Any]:
    delays = [simulate(candidate, looks, seed) for seed in range(rollouts)]
    found = [each for each in delays if each is not None]
    return {
        **asdict(candidate),
        "rollouts": rollouts,
        "rolled_back": len(found),
        "share": len(found) / rollouts,
        "median_seconds": float(np.median(found)) if found else None,
        "slowest_seconds": max(found, default=None),
    }


def _after_a_look(
    before: ArmCounts, version: Version, answers: int, wave: float, generator: np.random.Generator
) -> ArmCounts:
    errors = min(1.0, version.errors + 0.02 * max(wave, 0))
    mean = np.clip(version.score + 0.1 * wave, 0.05, 0.95)
    scores = np.full(answers, mean) if version.all_equal else generator.beta(4 * mean, 4 * (1 - mean), answers)
    bins = np.bincount(np.minimum((scores * SCORE_BINS).astype(int), SCORE_BINS - 1), minlength=SCORE_BINS)
    return before.model_copy(
        update={
            "answers": before.answers + answers,
            "errors": before.errors + int(generator.binomial(answers, errors)),
            "timed": before.timed + answers,
            "slow": before.slow + int(generator.binomial(answers, version.slow)),
            "scores": tuple(int(old + new) for old, new in zip(before.scores, bins, strict=True)),
            "view_reads": before.view_reads + answers,
            "compared": before.compared + answers,
            "changed": before.changed + int(generator.binomial(answers, version.changed)),
            "missing": before.missing + int(generator.binomial(answers, version.missing)),
        }
    )


def main() -> None:
    """Print the measured shares and delays."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=100, help="Simulated rollouts of each good candidate.")
    parser.add_argument("--looks", type=int, default=2400, help="Looks of one rollout, four per second.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")
    arguments = parser.parse_args()
    measured = measure(arguments.rollouts, arguments.looks)
    if arguments.json:
        print(json.dumps(measured))
        return
    for kind in ("good", "bad"):
        for name, each in measured[kind].items():
            seconds = "" if each["median_seconds"] is None else f", median {each['median_seconds']:g} s"
            print(f"{kind:5} {name:42} {each['rolled_back']:4} of {each['rollouts']} rolled back{seconds}")


if __name__ == "__main__":
    main()
