"""Request fields that are known too late, and the time of a planned event, which is known before it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.late_fields import availability_for_examples, late_fields
from ml_platform.features.prediction_time import PredictionTime
from ml_platform.features.view import FeatureView

START = datetime(2026, 1, 1, tzinfo=UTC)
HOURS = pl.DataFrame({"starts_at": [START + timedelta(hours=at) for at in range(200)], "count": list(range(200))})
TIMING = PredictionTime(field="starts_at", minutes_before=1440)


def view(**source: Any) -> FeatureView:
    declared = {
        "name": "counts",
        "function": "module:function",
        "sources": [{"dataset": "hours", "available_from": {"starts_at": ["count"]}, **source}],
        "features": [{"name": "last", "description": "…"}],
    }
    return FeatureView.model_validate({**declared, "code_version": "1"})


def build(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    return sources["hours"].with_row_index("example_id")


@pytest.mark.parametrize(
    ("source", "late"), [({}, {"starts_at", "count"}), ({"known_upfront": ["starts_at"]}, {"count"})]
)
def test_time_of_an_event_is_late_unless_the_view_knows_it_upfront(source: dict[str, Any], late: set[str]) -> None:
    known = availability_for_examples(FeatureSet([view(**source)]), {})
    cuts = [START + timedelta(hours=100)]
    found = late_fields(build, {"hours": HOURS}, known, ["starts_at", "count"], TIMING, cuts)
    assert {each.field for each in found} == late
