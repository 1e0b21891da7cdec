"""The calibration error without its bias, with an interval that contains 0 for a calibrated model, and a test of it.

The plug-in estimate sums absolute gaps, so chance alone makes it positive, and no resample of it reaches 0.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml_platform.evaluation.serial_dependence import cosines, serial_dependence
from ml_platform.tasks.metrics import CALIBRATION_BINS, Array, calibration_bin

MIN_BLOCKS_FOR_COSINES = 60
"""With fewer blocks, each bin has its own dependence, so that the cosines' bias in short series is corrected."""


@dataclass(frozen=True)
class CalibrationError:
    """Expected calibration error without bias, its interval, and the p-value of "the model is calibrated"."""

    value: float
    low: float
    high: float
    p_value: float


def calibration_error(
    truth: Array,
    scores: Array,
    codes: npt.NDArray[np.int64],
    *,
    ordered: bool,
    confidence: float,
    draws: int,
    seed: int,
) -> CalibrationError:
    """Return the calibration error of ``scores`` over 15 equally wide bins; ``codes`` has the block of each row.

    The test compares the plug-in error with its distribution for a calibrated model. It draws this distribution from
    the gaps of whole blocks with normal weights (Shao 2010, The dependent wild bootstrap). The lower end of the
    interval is 0 exactly when the test does not reject at the level of the interval.

    The value takes the share of noise out of the squared gaps, as Kumar, Liang and Ma (2019, Verified uncertainty
    calibration) do, and keeps the unit of the plug-in error, a mean absolute gap. The upper end starts from the plug-in
    error: signs of gaps that chance may have turned can only raise the sum of absolute gaps.
    """
    blocks = int(codes.max()) + 1
    cell = codes * CALIBRATION_BINS + calibration_bin(scores)
    size = blocks * CALIBRATION_BINS
    sums = np.bincount(cell, weights=truth - scores, minlength=size).reshape(blocks, CALIBRATION_BINS)
    rows = np.bincount(codes, minlength=blocks)
    gaps = sums.sum(axis=0) / len(truth)
    normal, student = _errors_of_gaps(np.asarray(sums - np.outer(rows, gaps), np.float64), ordered, draws, seed)
    normal, student = normal / len(truth), student / len(truth)
    plug_in = float(np.abs(gaps).sum())
    chance = np.abs(student).sum(axis=1)
    p_value = float((1 + (chance >= plug_in).sum()) / (1 + len(chance)))
    noise = np.square(normal).sum(axis=1).mean()
    value = plug_in * float(np.sqrt(max(0.0, 1.0 - noise / max(float(gaps @ gaps), 1e-300))))
    level = 1 - confidence
    half_width = float(np.quantile(np.abs(student @ np.sign(gaps)), confidence))
    low = 0.0 if p_value > level else max(0.0, value - half_width)
    return CalibrationError(value, low, min(1.0, plug_in + half_width), p_value)


def _errors_of_gaps(centred: Array, ordered: bool, draws: int, seed: int) -> tuple[Array, Array]:
    """Return random errors of the sums over the blocks of ``centred`` (blocks, bins), each of shape (draws, bins).

    The first are normal. The second have the tails of Student's t, because few blocks estimate their own variance.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    blocks = len(centred)
    if ordered and blocks >= MIN_BLOCKS_FOR_COSINES:
        coefficients = cosines(blocks) @ centred * np.sqrt(blocks / len(cosines(blocks)))
        freedom = float(len(coefficients))
        errors = generator.normal(size=(draws, len(coefficients))) @ coefficients
    else:
        found = [serial_dependence(column, ordered=ordered) for column in centred.T]
        inflation = np.array([each.inflation for each in found])
        # Bins that have most of the noise decide how well its size is known.
        noise = np.square(centred).sum(axis=0) + 1e-300
        freedom = float(np.average([each.degrees_of_freedom for each in found], weights=noise))
        errors = generator.normal(size=(draws, blocks)) @ centred * np.sqrt(inflation * blocks / (blocks - 1))
    return errors, errors / np.sqrt(generator.chisquare(freedom, size=(draws, 1)) / freedom)
