"""Repeated tests of one waiting candidate as more windows close, with one error rate over all of them.

A candidate on HOLD may be compared again on all rows so far whenever a window closes. The levels here limit the chance
that a candidate that is no better ever passes. The first look has the level of a single test.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import polars as pl

from ml_platform.evaluation.evidence import Evidence
from ml_platform.tasks.metrics import Array, EvaluationError

_GRID, _RANGE = 1201, 8.0
"""Points and half width, in standard errors, of the grid on which the score of the test is integrated."""


def nominal_levels(information: Sequence[float], error: float) -> list[float]:
    """Return the one-sided level of each look, so that all looks together reject a true null at most at ``error``.

    ``information`` is the cumulative number of rows at each look. Look k spends ``error`` / 2^k, so the number of looks
    has no limit. The method is that of Lan and DeMets (1983, Discrete sequential boundaries for clinical trials) with
    the recursion of Armitage, McPherson and Rowe (1969, Repeated significance tests on accumulating data). The levels
    apply to Student's t as well (Jennison and Turnbull 2000, Group sequential methods, chapter 11).
    Raises :class:`EvaluationError` unless ``information`` grows.

    >>> tuple(round(level, 4) for level in nominal_levels([1000, 2000, 3000], 0.05))
    (0.025, 0.0163, 0.0093)
    """
    if any(later <= earlier for earlier, later in zip([0.0, *information], information, strict=False)):
        raise EvaluationError(
            "Looks of a sequential test",
            expected="more rows at each look",
            found=f"{list(information)}",
            fix="Test again when another window has closed.",
        )
    return list(_levels(tuple(information), error))


@lru_cache
def _levels(information: tuple[float, ...], error: float) -> tuple[float, ...]:
    from scipy.special import ndtr

    levels: list[float] = []
    scores, density, before = np.zeros(1), np.ones(1), 0.0
    for look, rows in enumerate(information, start=1):
        spent, step = error / 2**look, np.sqrt(rows - before)
        # Find the score that is exceeded with the probability to spend, by those who have not passed before.
        low, high = -_RANGE * np.sqrt(rows), _RANGE * np.sqrt(rows)
        for _ in range(60):
            middle = (low + high) / 2
            exceeded = float((density * ndtr(-(middle - scores) / step)).sum())
            low, high = (middle, high) if exceeded > spent else (low, middle)
        levels.append(float(ndtr(-high / np.sqrt(rows))))
        new_scores = np.linspace(-_RANGE * np.sqrt(rows), high, _GRID)
        density = _moved(scores, density, new_scores, step)
        scores, before = new_scores, rows
    return tuple(levels)


def pool_windows(windows: Sequence[Evidence]) -> Evidence:
    """Return the evidence of all ``windows`` together, with the confidence of this look.

    The windows are in order of time and compare the same models. Their blocks stay apart. The confidence becomes
    1 - 2 x the level of the last look; the total error is 1 - the declared confidence. Baselines and slices that a
    window lacks are left out. System checks are those of the last window. Raises :class:`EvaluationError` without any
    window.
    """
    if not windows:
        raise EvaluationError(
            "Pooled windows", expected="at least one window", found="none", fix="Wait until a window has closed."
        )
    last = windows[-1]
    names = [name for name in last.predictions if all(name in each.predictions for each in windows)]
    bounded = [name for name in last.bounds if all(name in each.bounds for each in windows)]
    sizes = [len(each.label) for each in windows]
    error = 1 - last.settings.confidence
    level = nominal_levels(np.cumsum(sizes).tolist(), error)[-1]
    codes, blocks = [], 0
    for each in windows:
        code = np.unique(each.block, return_inverse=True)[1] + blocks
        codes.append(code)
        blocks = int(code.max()) + 1
    slices = [each.slices for each in windows if each.slices is not None]
    common = [name for name in slices[-1].columns if all(name in each.columns for each in slices)] if slices else []
    return Evidence(
        label=np.concatenate([each.label for each in windows]),
        predictions={name: np.concatenate([each.predictions[name] for each in windows]) for name in names},
        block=np.concatenate(codes),
        slices=pl.concat([each.select(common) for each in slices]) if common and len(slices) == len(windows) else None,
        candidate_is_newer=last.candidate_is_newer,
        champion_fitted_on_rows=any(each.champion_fitted_on_rows for each in windows),
        unscored_champion=next((each.unscored_champion for each in windows if each.unscored_champion), None),
        feature_notes=tuple(dict.fromkeys(note for each in windows for note in each.feature_notes)),
        system_checks=last.system_checks,
        task=last.task,
        bounds={
            name: (
                np.concatenate([each.bounds[name][0] for each in windows]),
                np.concatenate([each.bounds[name][1] for each in windows]),
            )
            for name in bounded
        },
        context={
            name: np.concatenate([each.context[name] for each in windows])
            for name in last.context
            if all(name in each.context for each in windows)
        },
        settings=last.settings.model_copy(update={"confidence": 1 - 2 * level}),
        metrics=last.metrics,
    )


def split_windows(pooled: Evidence, rows: Sequence[int]) -> list[Evidence]:
    """Return the evidence of each window of ``pooled``, which :func:`pool_windows` made of windows with ``rows`` rows.

    ``pooled`` has the declared confidence, as it does when it is read from its table. Raises :class:`EvaluationError`
    when the rows do not add up.
    """
    if sum(rows) != len(pooled.label):
        raise EvaluationError(
            "Evidence of several windows",
            expected=f"{sum(rows)} rows, as its looks record",
            found=f"{len(pooled.label)}",
            fix="Restore the evidence from a backup of the home.",
        )
    ends = np.cumsum(rows).tolist()
    return [_rows_of(pooled, slice(end - count, end)) for count, end in zip(rows, ends, strict=True)]


def _rows_of(evidence: Evidence, rows: slice) -> Evidence:
    return replace(
        evidence,
        label=evidence.label[rows],
        predictions={name: values[rows] for name, values in evidence.predictions.items()},
        block=evidence.block[rows],
        slices=None if evidence.slices is None else evidence.slices[rows],
        bounds={name: (lower[rows], upper[rows]) for name, (lower, upper) in evidence.bounds.items()},
        context={name: values[rows] for name, values in evidence.context.items()},
    )


def _moved(scores: Array, density: Array, new_scores: Array, step: float) -> Array:
    """Return the probability mass at ``new_scores`` after a normal step with deviation ``step``."""
    from scipy.special import ndtr

    half = (new_scores[1] - new_scores[0]) / 2
    # The last point is the bound, so its cell ends there.
    upper, lower = np.minimum(new_scores + half, new_scores[-1]), new_scores - half
    mass = ndtr((upper[:, np.newaxis] - scores) / step) - ndtr((lower[:, np.newaxis] - scores) / step)
    return np.asarray(mass @ density)
