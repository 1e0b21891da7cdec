"""The model card: intended use, data, metrics, weakest slices, cost and approvals of a model, as HTML or Markdown.

It follows Mitchell et al. (2019), "Model Cards for Model Reporting". The caller passes in all numbers. A part without
numbers stays on the card and is marked as not measured.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ml_platform.evaluation.reliability import ReliabilityBin
from ml_platform.evaluation.slices import SliceScore
from ml_platform.evaluation.summary import MetricSummary
from ml_platform.evaluation.verdict import Verdict


class Answers(Protocol):
    """Quality of the answers at the threshold, as shares of rows; None for a share without a value."""

    alert_rate: float
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class ModelCard:
    """The contents of a card."""

    model: str
    version: str
    owner: str
    intended_use: str
    limits: Sequence[str]
    trainer: str
    manifest: Mapping[str, Any]
    evaluated_rows: int
    evaluated_partition: str
    metrics: Sequence[MetricSummary]
    slices: Sequence[SliceScore]
    slice_metric: str
    metric_notes: Mapping[str, str] = field(default_factory=dict)
    calibration: str = "none"
    threshold: str = ""
    answers: Mapping[str, Answers] = field(default_factory=dict)
    reliability: Sequence[ReliabilityBin] = ()
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    verdict: Verdict | None = None
    waiting: str = ""
    feature_importance: Mapping[str, float] = field(default_factory=dict)
    cost: Mapping[str, str] = field(default_factory=dict)
    approvals: Sequence[str] = ()
    plots: Mapping[str, bytes] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)


def render_html(card: ModelCard) -> str:
    """Return the card as one self-contained HTML page with inline plots."""
    images = {title: base64.b64encode(png).decode() for title, png in card.plots.items()}
    return _rendered("model_card.html.j2", card, images=images)


def render_markdown(card: ModelCard) -> str:
    """Return the card as Markdown without plots, for metadata and reviews."""
    return _rendered("model_card.md.j2", card)


def _rendered(template: str, card: ModelCard, **more: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("ml_platform.evaluation"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    environment.filters["short"] = _short
    others = list(card.metrics[0].others) if card.metrics else []
    return environment.get_template(template).render(card=card, others=others, **more)


def _short(value: Any) -> str:
    """Return ``value`` as text, a fraction with three digits and None as a dash."""
    return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _cell(value: Any) -> str:
    """Return ``value`` as text that is escaped for a cell of a Markdown table."""
    return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
