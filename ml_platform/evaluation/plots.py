"""Plots as PNG images of a few kilobytes, small enough to embed in asset metadata and in a model card.

Each plot has its own figure. Pyplot has global state, which two steps in one process would share.
"""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ml_platform.evaluation.reliability import ReliabilityBin
from ml_platform.evaluation.summary import MetricSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES = (4.0, 3.0)
DOTS_PER_INCH = 90
PALETTE_COLORS = 24
BLUE, GREY, RED = "#2563a6", "#8a8f98", "#b3362b"


def reliability_plot(bins: Sequence[ReliabilityBin]) -> bytes:
    """Return predicted against observed shares with intervals; the diagonal is perfect calibration."""
    figure, axes = _figure()
    top = max(max(one.high, one.predicted) for one in bins) * 1.05
    axes.plot([0, top], [0, top], color=GREY, linewidth=1)
    predicted = [one.predicted for one in bins]
    observed = np.array([one.observed for one in bins])
    half_widths = np.abs(np.array([[one.low for one in bins], [one.high for one in bins]]) - observed)
    axes.errorbar(predicted, observed, yerr=half_widths, color=BLUE, marker="o", markersize=4, linewidth=1.2, capsize=2)
    axes.set(xlabel="predicted probability", ylabel="observed share", xlim=(0, top), ylim=(0, top))
    return png(figure)


def importance_plot(importance: Mapping[str, float], limit: int = 12) -> bytes:
    """Return the ``limit`` most important features as bars, with the most important on top."""
    largest = sorted(importance.items(), key=lambda item: abs(item[1]), reverse=True)[:limit][::-1]
    figure, axes = _figure()
    axes.barh([name for name, _ in largest], [value for _, value in largest], color=BLUE)
    axes.set(xlabel="importance")
    axes.tick_params(axis="y", labelsize=7)
    return png(figure)


def improvement_plot(summaries: Sequence[MetricSummary], opponent: str) -> bytes:
    """Return the improvement over ``opponent`` by each metric, in units of half the width of its interval.

    A bar right of 1 is a proven improvement and a bar left of -1 a proven regression; between them neither is proven.
    """
    figure, axes = _figure()
    compared = [summary for summary in summaries if opponent in summary.improvements][::-1]
    differences = [summary.improvements[opponent] for summary in compared]
    widths = [(one.high - one.low) / 2 or 1.0 for one in differences]
    scaled = [one.value / width for one, width in zip(differences, widths, strict=True)]
    axes.barh([summary.metric for summary in compared], scaled, color=[RED if value < -1 else BLUE for value in scaled])
    for edge in (-1, 1):
        axes.axvline(edge, color=GREY, linewidth=1, linestyle=":")
    axes.set(xlabel=f"better than {opponent} (1 = proven)")
    axes.tick_params(axis="y", labelsize=7)
    return png(figure)


def loss_curve_plot(history: Sequence[tuple[int, float]]) -> bytes:
    """Return the validation loss by round, from (round, loss) pairs; a dotted line marks the best round."""
    figure, axes = _figure()
    axes.plot([at for at, _ in history], [loss for _, loss in history], color=BLUE, marker="o", markersize=2)
    axes.axvline(min(history, key=lambda each: each[1])[0], color=GREY, linewidth=1, linestyle=":")
    axes.set(xlabel="round", ylabel="validation loss")
    return png(figure)


def search_plot(history: Sequence[tuple[int, float]]) -> bytes:
    """Return the lowest loss so far by trial of a search, from (trial, loss) pairs."""
    figure, axes = _figure()
    axes.step(
        [at for at, _ in history], [loss for _, loss in history], where="post", color=BLUE, marker="o", markersize=4
    )
    axes.set(xlabel="trial", ylabel="lowest validation loss")
    return png(figure)


def rollout_plot(
    seconds: Sequence[float],
    shares: Mapping[str, Mapping[str, Sequence[float]]],
    evidence: Mapping[str, Sequence[float]],
    limit: float,
) -> bytes:
    """Return the course of a rollout over ``seconds``: each share by arm, and the evidence against the candidate.

    ``shares`` are those between 0 and 1, by name and arm (``stable``, ``candidate``). The dotted line is the ``limit``
    of the evidence, at which the candidate is rolled back.
    """
    figure, panels = panels_below(len(shares) + 1)
    for axes, (name, by_arm) in zip(panels, shares.items(), strict=False):
        for arm, color in (("stable", GREY), ("candidate", BLUE)):
            axes.plot(seconds, [100 * share for share in by_arm[arm]], color=color, linewidth=1.2, label=arm)
        axes.set(ylabel=f"{name} [%]")
        axes.set_ylim(bottom=0)
    panels[0].legend(fontsize=7, frameon=False)
    for (name, values), style in zip(evidence.items(), ("-", "--", "-.", (0, (1, 1))), strict=False):
        panels[-1].plot(seconds, np.maximum(values, 1e-3), color=BLUE, linestyle=style, linewidth=1.2, label=name)
    panels[-1].axhline(limit, color=RED, linewidth=1, linestyle=":")
    panels[-1].set(ylabel="evidence", xlabel="seconds since the start", yscale="log")
    panels[-1].legend(fontsize=7, frameon=False)
    return png(figure)


def _figure() -> "tuple[Figure, Axes]":
    figure, (axes,) = panels_below(1)
    return figure, axes


def panels_below(number: int, width: float = INCHES[0]) -> "tuple[Figure, list[Axes]]":
    """Return a figure of ``width`` inches with ``number`` panels, one below the other, over the same x axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = INCHES[1]
    figure = Figure(figsize=(width, height * (1 + 0.6 * (number - 1))), dpi=DOTS_PER_INCH, layout="tight")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(number, sharex=True, squeeze=False)[:, 0])
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def png(figure: "Figure", colors: int = PALETTE_COLORS) -> bytes:
    """Return ``figure`` as a PNG image with a palette of ``colors``; small marks in a colour of their own need more."""
    from PIL import Image

    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    # A palette makes a line drawing a third of the size.
    Image.open(drawn).convert("RGB").quantize(colors).save(packed, format="png", optimize=True)
    return packed.getvalue()
