"""Findings about one partition: false alarms and planted faults by simulation, and limits by hand."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from benchmarks.landing_quality import FAULTS, findings, history
from ml_platform.data.partition_profile import MAX_CATEGORIES, PartitionProfile, profile_partition, repeated_keys
from ml_platform.data.quality_findings import compare, lateness
from ml_platform.data.quality_settings import Limits, QualitySettings
from ml_platform.data.usual_values import usual_of

NOW = datetime(2024, 5, 1, tzinfo=UTC)
SETTINGS = QualitySettings(partitions=6, minimum_partitions=5)


def profile(**columns: Sequence[object]) -> PartitionProfile:
    return profile_partition(pl.DataFrame(columns, strict=False), NOW)


def test_at_most_one_percent_of_unchanged_partitions_alarm() -> None:
    judged = [bool(findings(frame, day, usual)) for seed in (1, 2) for day, frame, usual, _ in history(150, 18, seed)]

    assert len(judged) == 168
    assert sum(judged) <= 0.01 * len(judged)


def test_planted_faults_are_found() -> None:
    days = [each for each in history(1_000, 13, 3) if each[0] >= 84]
    found = Counter(
        name
        for day, frame, usual, random in days
        for name, (change, kind, column) in FAULTS.items()
        if (kind, column) in {(each.kind, each.column) for each in findings(change(frame, random), day, usual)}
    )

    assert len(days) == 7
    assert {name: found[name] for name in FAULTS if found[name] < 6} == {}


def test_usual_value_is_not_moved_by_an_outlier() -> None:
    usual = usual_of([10, 11, 9, 10, 500])

    assert (usual.center, usual.spread, usual.count) == (10.0, 1.4826, 5)
    # 2 * (1 + 4 / 5) * 1.4826 = 5.34
    assert (usual.is_far(15.3, 2), usual.is_far(15.4, 2)) == (False, True)


def test_too_few_comparable_partitions_are_not_judged() -> None:
    judged = compare("orders", profile(id=[1, 2]), [profile(id=[1])] * 4, SETTINGS)

    assert (judged.state, judged.measures, judged.findings) == ("not judged", (), ())
    assert judged.not_judged == "Comparable partitions: 4; at least 5 are needed."


def test_partition_that_is_not_over_is_not_judged() -> None:
    part = profile(id=[1]).model_copy(update={"part_until": NOW})
    judged = compare("orders", part, [profile(id=list(range(100)))] * 6, SETTINGS)

    assert judged.state == "not judged"
    assert judged.not_judged == "The partition has arrived until 2024-05-01 00:00 UTC and is not over."


def test_halved_volume_names_the_usual_number_of_rows() -> None:
    usual = [profile(id=list(range(count))) for count in (980, 990, 1000, 1010, 1020, 1000)]
    judged = compare("orders", profile(id=list(range(500))), usual, SETTINGS)

    (finding,) = [each for each in judged.findings if each.kind == "volume"]
    assert finding.severity == "warning"
    assert finding.how_bad == pytest.approx(1001 / 501, abs=1e-4)
    assert finding.what == "500 rows, usual are 1000: fewer by 2.00 times"


def test_severities_follow_the_declared_limits() -> None:
    usual = [profile(value=[0.0] * 90 + [None] * 10)] * 6
    now = profile(value=[0.0] * 60 + [None] * 40)

    def severity(limits: Limits) -> str:
        return compare("orders", now, usual, SETTINGS.model_copy(update={"nulls": limits})).state

    assert severity(Limits(info=0.1)) == "info"
    assert severity(Limits(warning=0.1)) == "warning"
    assert severity(Limits(warning=0.1, critical=0.3)) == "critical"
    assert severity(Limits(warning=0.31)) == "as usual"


def test_column_that_is_expected_to_change_is_not_judged() -> None:
    usual = [profile(value=[1.0, 2.0, 3.0] * 30)] * 6
    now = profile(value=[None] * 90)
    quiet = SETTINGS.model_copy(update={"expected_to_change": ["value"]})

    assert compare("orders", now, usual, SETTINGS).state == "critical"
    assert compare("orders", now, usual, quiet).state == "as usual"


def test_share_of_known_keys_above_the_usual_one_is_a_finding() -> None:
    usual = [profile(id=list(range(400))).model_copy(update={"repeated_keys": share}) for share in (0, 0.01, 0, 0, 0)]
    now = profile(id=list(range(400))).model_copy(update={"repeated_keys": 0.6})
    judged = compare("orders", now, usual, SETTINGS)

    assert [(each.kind, each.severity, each.how_bad) for each in judged.findings] == [
        ("repeated_keys", "critical", 0.6)
    ]
    # Customers that occur in each month have the same keys.
    same = [each.model_copy(update={"repeated_keys": 0.6}) for each in usual]
    assert compare("orders", now, same, SETTINGS).state == "as usual"


def test_late_landing_is_compared_with_the_usual_delay() -> None:
    hours = [3600.0 * each for each in (6, 7, 6, 5, 6)]

    assert lateness("orders", 8 * 3600.0, hours, 86_400, SETTINGS) is None
    late = lateness("orders", 36 * 3600.0, hours, 86_400, SETTINGS)
    assert late is not None
    assert (late.severity, late.what) == ("warning", "landed 1.50 partitions after its end, usual are 0.25")
    assert lateness("orders", 36 * 3600.0, hours[:4], 86_400, SETTINGS) is None


def test_profile_has_shares_quantiles_and_categories_of_its_columns() -> None:
    found = profile(number=[1.0, 1.0, float("nan"), 5.0], text=["a", "b", "a", None], flag=[True, True, False, True])

    number, text = found.columns["number"], found.columns["text"]
    assert (number.null_share, number.distinct, number.top_share) == (0.25, 2, round(2 / 3, 9))
    assert number.quantiles is not None
    assert (number.quantiles[0], number.quantiles[3], number.quantiles[-1]) == (1.0, 1.0, 5.0)
    assert (text.null_share, text.categories) == (0.25, {"a": 2, "b": 1})
    assert found.columns["flag"].categories == {"true": 3, "false": 1}


def test_size_of_a_profile_does_not_grow_with_the_number_of_values() -> None:
    names = [f"name {place}" for place in range(20_000)]
    found = profile(text=names, number=list(range(20_000)))

    assert found.columns["text"].distinct == 20_000 > MAX_CATEGORIES
    assert found.columns["text"].categories == {}
    assert len(found.model_dump_json()) < 1_000


def test_profile_of_a_pii_column_has_no_values() -> None:
    rows = pl.DataFrame({"email": ["a@b.org", "a@b.org"], "age": [41, 43]})
    found = profile_partition(rows, NOW, pii_columns=["email", "age"]).model_dump_json()

    assert "a@b.org" not in found
    assert "41" not in found


def test_repeated_keys_are_the_share_of_known_ones() -> None:
    now, before = pl.DataFrame({"a": [1, 2, 3, None]}), pl.DataFrame({"a": [1, 1, None, 9]})

    assert repeated_keys(now, before) == 0.5
    assert repeated_keys(now.clear(), before) == 0.0


def test_limits_that_fall_are_refused() -> None:
    with pytest.raises(ValidationError, match="info, warning and critical must rise"):
        Limits(warning=0.5, critical=0.1)
    with pytest.raises(ValidationError, match=r"minimum_partitions \(9\) must not exceed partitions \(4\)"):
        QualitySettings(partitions=4, minimum_partitions=9)


def test_content_of_equal_rows_is_equal() -> None:
    random = np.random.default_rng(0).normal(size=50).tolist()

    assert profile(value=random).content == profile(value=random).content
    assert profile(value=random).content != profile(value=[*random[:-1], 9.0]).content
