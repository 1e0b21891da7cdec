"""The loss that is expected of a champion before its labels are known, as evidence for the retraining policy."""

from collections.abc import Sequence
from math import erfc, sqrt

from ml_platform.monitoring.performance import Period
from ml_platform.monitoring.retraining_policy import LossEvidence
from ml_platform.monitoring.track_record import track_record

NORMAL_QUANTILE = 1.959964
"""Half of the width of a 95 % interval in standard errors."""

SMALLEST_P_VALUE = 1e-24


def estimated_loss(
    periods: Sequence[Period], *, version: int, metric: str, promised: float, tolerance: float
) -> LossEvidence | None:
    """Return the evidence that the ``metric`` of the latest estimated period of ``version`` is worse than promised.

    None when the realised metric of that period is there, or when nothing is estimated. Without a reliable track record
    of the estimates the evidence has no day, and its note says why.

    The evidence is an e-value from the p-value p of one look, 1 / (2 sqrt(p)) (Vovk and Wang 2021, E-values:
    calibration, combination and applications). A window is decided once, so there is one look for each window.
    """
    own = [each for each in periods if each.version == str(version) and metric in each.estimates]
    if not own or _is_realised(own[-1]):
        return None
    latest, record = own[-1], track_record(periods, metric)
    estimate = latest.estimates[metric]
    error = (estimate.high - estimate.low) / 2 / NORMAL_QUANTILE
    above = estimate.value - promised - tolerance
    p_value = 0.5 * erfc(above / error / sqrt(2)) if error > 0 else float(above <= 0)
    return LossEvidence(
        version=version,
        metric=metric,
        promised=promised,
        mean=estimate.value,
        days=1 if record.is_reliable else 0,
        labels=0,
        evidence=1 / (2 * sqrt(max(p_value, SMALLEST_P_VALUE))),
        since=f"{latest.start:%Y-%m-%d}",
        note=record.text,
    )


def _is_realised(period: Period) -> bool:
    return period.evaluated and not any(each.kind == "immature" for each in period.doubts)
