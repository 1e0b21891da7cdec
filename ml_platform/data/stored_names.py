"""Names that release 0.1.0 stored in records protected by a digest, and their current names.

A migration would break the digest by renaming them, so the readers of these records translate the names.
"""

from collections.abc import Mapping
from typing import Any

BASELINES = {"schedule_only": "request_only"}
"""Renamed baselines. They name columns of evidence tables, and ``*_over_<baseline>`` numbers of a verdict's gates."""


def with_current_names(stored: Mapping[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """Return ``stored`` with each key that ``renamed`` lists replaced by its current name, in the same order.

    >>> with_current_names({"schedule_only": 0.6, "base_rate": 0.7}, BASELINES)
    {'request_only': 0.6, 'base_rate': 0.7}
    """
    return {renamed.get(name, name): value for name, value in stored.items()}
