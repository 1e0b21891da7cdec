"""The model card has every part with its numbers, marks missing measurements, and escapes text from outside."""

import dataclasses
import io
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from ml_platform.evaluation.bootstrap import BootstrapSettings
from ml_platform.evaluation.evidence import Evidence
from ml_platform.evaluation.gates import MetricLimitGate
from ml_platform.evaluation.model_card import ModelCard, render_html, render_markdown
from ml_platform.evaluation.plots import importance_plot, improvement_plot, loss_curve_plot, reliability_plot
from ml_platform.evaluation.reliability import reliability_bins
from ml_platform.evaluation.slices import SliceScore
from ml_platform.evaluation.summary import flat_metrics, summarize_metrics
from ml_platform.evaluation.verdict import build_verdict

random = np.random.default_rng(4)
LABEL = (random.random(800) < 0.3).astype(float)
BETTER, WORSE = (np.clip(0.3 + pull * (LABEL - 0.3) + 0.1 * random.normal(size=800), 0, 1) for pull in (0.3, 0.1))
EVIDENCE = Evidence(
    LABEL, {"candidate": BETTER, "champion": WORSE}, np.arange(800) % 10, settings=BootstrapSettings(resamples=100)
)
BINS = reliability_bins(LABEL, BETTER)


def card() -> ModelCard:
    """Return a card with every part."""
    gates = [MetricLimitGate(metric="auc", limit=0.6).evaluate(EVIDENCE)]
    return ModelCard(
        model="departure_risk",
        version="7",
        owner="team:aviation",
        intended_use="Warn passengers two hours before departure.",
        limits=["Not for flights outside New York."],
        trainer="lightgbm",
        manifest={
            "tables": {"datasets/flights": 6},
            "training_set": "a" * 64,
            "training_rows": 131_000,
            "data_clock": "2013-07-01",
            "code": {"commit": "c0ffee", "dirty": True},
            "lock": "d" * 64,
            "libraries": {"torch": "2.13.0"},
            "seeds": {"trainer": 7},
            "parameters": {"num_leaves": 31},
            "fitted": {"num_leaves": 63},
            "parent": "b" * 64,
        },
        evaluated_rows=800,
        evaluated_partition="2013-06",
        metrics=summarize_metrics(EVIDENCE),
        slices=[SliceScore("origin", "J|K", 200, 0.51)],
        slice_metric="log_loss",
        metric_notes={"auc": "of two rows in order"},
        calibration="Scores are made probabilities by platt.",
        reliability=BINS,
        verdict=build_verdict(
            model="departure_risk",
            partition="2013-06",
            candidate="c" * 64,
            champion=None,
            gates=gates,
            evidence=EVIDENCE.digest(),
            at=datetime(2013, 7, 1, tzinfo=UTC),
        ),
        feature_importance={"recent_delay": 0.41},
        threshold="True from the score 0.2471 on, by cost.",
        answers={"test": Answers(alert_rate=0.4125, precision=0.512, recall=None)},
        cost={"CPU seconds": "12.5"},
        approvals=["mara, 2013-07-01: looks right"],
        plots={"reliability": reliability_plot(BINS)},
    )


@dataclasses.dataclass
class Answers:
    """Quality of the answers at a threshold."""

    alert_rate: float
    precision: float | None
    recall: float | None


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_every_part_is_on_the_card(render: type[str]) -> None:
    page = render(card())
    auc = EVIDENCE.resampled("auc").interval("candidate", "auc")
    for part in (
        "departure_risk, version 7",
        "Warn passengers",
        "(of two rows in order)",
        f"{auc.low:.4f} to {auc.high:.4f}",
        "datasets/flights",
        "with uncommitted changes",
        "recent_delay",
        "PROMOTE",
        "metric_limit_auc",
        EVIDENCE.digest()[:12],
        "Scores are made probabilities by platt.",
        "True from the score 0.2471 on, by cost.",
        "0.412",
        "0.512",
        "d" * 12,
        "torch 2.13.0",
        "trainer 7",
        "num_leaves",
        "b" * 12,
        "Not for flights outside New York.",
        "12.5",
        "mara, 2013-07-01: looks right",
    ):
        assert part in page


def test_text_from_outside_is_escaped_in_page_and_table() -> None:
    hostile = dataclasses.replace(card(), intended_use="<script>alert(1)</script>")
    assert "<script>" not in render_html(hostile)
    assert "origin = J\\|K" in render_markdown(hostile)


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_part_without_numbers_is_marked_as_not_measured(render: type[str]) -> None:
    page = render(dataclasses.replace(card(), metrics=[], slices=[], verdict=None, cost={}, feature_importance={}))
    assert page.count("Not measured.") == 3
    assert "No slice has enough rows." in page
    assert "Not evaluated." in page


def test_markdown_has_the_reliability_bins_of_the_plot() -> None:
    rows = render_markdown(card()).split("## Calibration")[1].split("##")[0].strip().splitlines()[4:]
    assert len(rows) == len(BINS)
    assert rows[0].startswith(f"| {BINS[0].predicted:.3f} | {BINS[0].observed:.3f} | {BINS[0].low:.3f} to")


def test_markdown_rows_have_a_cell_for_every_column() -> None:
    rows = render_markdown(card()).split("## Metrics")[1].split("##")[0].strip().splitlines()
    assert [row.count("|") for row in rows] == [5] * 8


@pytest.mark.parametrize(
    "png",
    [
        reliability_plot(BINS),
        importance_plot({"a": 0.5, "b": -0.2}),
        improvement_plot(summarize_metrics(EVIDENCE), "champion"),
        loss_curve_plot([(1, 0.7), (2, 0.6), (3, 0.65)]),
    ],
    ids=["reliability", "importance", "improvement", "loss_curve"],
)
def test_plot_is_a_small_image_that_is_not_blank(png: bytes) -> None:
    picture = Image.open(io.BytesIO(png)).convert("L")
    assert picture.size == (360, 270)
    assert len(png) < 12_000
    assert len(set(picture.get_flattened_data() if hasattr(picture, "get_flattened_data") else picture.getdata())) > 5


def test_reliability_bins_have_all_rows_with_their_shares() -> None:
    bins = reliability_bins([0, 1, 0, 1], [0.1, 0.1, 0.9, 0.9], bins=2)
    assert [(one.rows, one.predicted, one.observed) for one in bins] == [(2, 0.1, 0.5), (2, 0.9, 0.5)]
    assert sum(one.rows for one in BINS) == 800


def test_reliability_interval_is_that_of_wilson() -> None:
    one = next(each for each in BINS if 0 < each.observed < 1)
    # Wilson's ends are the shares p from which the observed one is 1.96 standard errors of p away.
    for end in (one.low, one.high):
        assert abs(one.observed - end) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / one.rows))
    assert one.low < one.observed < one.high


def test_flat_metrics_have_stable_names() -> None:
    numbers = flat_metrics(summarize_metrics(EVIDENCE))
    assert {"auc", "auc_low", "auc_high", "brier", "ece", "log_loss", "average_precision"} <= set(numbers)
    assert numbers["auc_low"] < numbers["auc"] < numbers["auc_high"]
