"""Charts and heat of the pages."""

import xml.etree.ElementTree as ET

import pytest

from ml_platform.console.site.charts import HEAT_STEPS, heat, quality_chart
from ml_platform.console.site.model_overview import QualityPoint, QualitySeries

NAMESPACE = "{http://www.w3.org/2000/svg}"


def circles(series: QualitySeries) -> list[tuple[str, float, float, str]]:
    """Return class, place and title of each circle of the chart; it must be well-formed."""
    root = ET.fromstring(str(quality_chart(series)))
    return [
        (each.attrib["class"], float(each.attrib["cx"]), float(each.attrib["cy"]), str(each.findtext("title")))
        for each in root.iter("circle")
    ]


def test_larger_values_are_higher_and_later_ones_further_right() -> None:
    promised = [QualityPoint(f"2013-0{at}", value, value - 0.1, value + 0.1) for at, value in ((1, 0.5), (2, 0.7))]
    first, second, realised = circles(QualitySeries("auc", promised, [QualityPoint("2013-02-01", 0.6)]))
    assert first[1] < realised[1] < second[1]
    assert second[2] < realised[2] < first[2]
    assert first[3] == "2013-01: 0.5000 (0.4000 to 0.6000)"
    assert realised[3] == "2013-02-01, realised: 0.6000"


def test_estimate_stands_at_its_period_and_doubtful_labels_are_marked() -> None:
    periods = ["2013-01-01", "2013-02-01", "2013-03-01"]
    series = QualitySeries(
        "auc",
        [],
        [QualityPoint("2013-01-01", 0.6, 0.5, 0.7), QualityPoint("2013-02-01", 0.7, is_doubtful=True)],
        estimated=[QualityPoint("2013-03-01", 0.65, 0.6, 0.7)],
        periods=periods,
    )
    estimated, first, second = circles(series)
    assert first[1] < second[1] < estimated[1]
    assert [each[0] for each in (estimated, first, second)] == ["estimated", "realised", "realised doubtful"]
    assert estimated[3] == "2013-03-01, estimated: 0.6500 (0.6000 to 0.7000)"
    assert second[3] == "2013-02-01, realised: 0.7000, labels with doubts"


def test_estimate_is_awaited_until_its_period_is_realised() -> None:
    realised, estimated = [QualityPoint("a", 0.6)], [QualityPoint("a", 0.5), QualityPoint("b", 0.5)]
    assert QualitySeries("auc", [], realised, estimated).awaited == estimated[1]
    assert QualitySeries("auc", [], realised, estimated[:1]).awaited is None
    assert QualitySeries("auc", [], realised).awaited is None


def test_equal_values_and_a_single_one_are_drawn() -> None:
    ((_, _, alone, _),) = circles(QualitySeries("auc", [QualityPoint("whole", 0.5)], []))
    both = circles(QualitySeries("auc", [QualityPoint("a", 0.5), QualityPoint("b", 0.5)], []))
    assert [each[2] for each in both] == [alone, alone]


def test_names_are_escaped() -> None:
    series = QualitySeries("<metric>", [QualityPoint('"><script>', 0.5)], [])
    assert "<script" not in quality_chart(series)
    assert circles(series)[0][3] == '"><script>: 0.5000'


def test_series_without_values_is_empty() -> None:
    assert quality_chart(QualitySeries("auc", [], [])) == ""


@pytest.mark.parametrize(("ratio", "step"), [(None, 0), (0.0, 0), (0.19, 0), (0.2, 1), (0.99, 4), (1.0, 5), (7.0, 5)])
def test_heat_is_full_from_the_limit_on(ratio: float | None, step: int) -> None:
    assert heat(ratio) == step <= HEAT_STEPS
