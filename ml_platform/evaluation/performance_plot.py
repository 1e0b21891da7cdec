"""The plot of promised, estimated and realised metrics by period, as a PNG image for asset metadata."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ml_platform.evaluation.plots import BLUE, GREY, RED, panels_below, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Ends = tuple[float, float]
_SHIFT = 0.12
LABELS = 6
"""Periods whose names fit below the panels."""


@dataclass(frozen=True)
class PeriodValues:
    """One metric of one period and version: realised, estimated, and the interval that the evaluation promised."""

    label: str
    realised: float | None = None
    realised_interval: Ends | None = None
    estimated: float | None = None
    estimated_interval: Ends | None = None
    promised: Ends | None = None
    is_doubtful: bool = False


def performance_plot(panels: Mapping[str, Sequence[PeriodValues]]) -> bytes:
    """Return a panel for each metric over the same periods.

    The band is promised, open dots are estimated, filled ones realised, and red ones realised on labels with doubts.
    """
    figure, axes = panels_below(len(panels), width=6.0)
    for (metric, values), drawn in zip(panels.items(), axes, strict=True):
        _draw(drawn, values)
        drawn.set(ylabel=metric.replace("_", " "))
    labels = [each.label for each in next(iter(panels.values()))]
    shown = range(0, len(labels), -(-len(labels) // LABELS))
    axes[-1].set_xticks(list(shown), [labels[at] for at in shown], fontsize=7)
    handles, names = axes[0].get_legend_handles_labels()
    by_name = dict(zip(names, handles, strict=True))
    axes[0].legend(
        by_name.values(), by_name.keys(), fontsize=7, frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1)
    )
    return png(figure, colors=128)


def _draw(axes: "Axes", values: Sequence[PeriodValues]) -> None:
    for at, each in enumerate(values):
        if each.promised is not None:
            axes.fill_between(
                [at - 0.4, at + 0.4], *each.promised, color=GREY, alpha=0.25, linewidth=0, label="promised"
            )
    _dots(axes, values, "estimated", -_SHIFT, color=GREY, filled=False)
    _dots(axes, [each if not each.is_doubtful else PeriodValues(each.label) for each in values], "realised", _SHIFT)
    doubtful = [each if each.is_doubtful else PeriodValues(each.label) for each in values]
    _dots(axes, doubtful, "realised", _SHIFT, color=RED, marker="X", label="realised, labels with doubts")
    axes.set_xlim(-0.6, max(len(values), 3) - 0.4)


def _dots(
    axes: "Axes",
    values: Sequence[PeriodValues],
    kind: str,
    shift: float,
    *,
    color: str = BLUE,
    filled: bool = True,
    marker: str = "o",
    label: str = "",
) -> None:
    places = [at for at, each in enumerate(values) if getattr(each, kind) is not None]
    if not places:
        return
    found = np.array([getattr(values[at], kind) for at in places])
    ends = [getattr(values[at], f"{kind}_interval") or (value, value) for at, value in zip(places, found, strict=True)]
    # An interval corrected for bias need not contain its value.
    widths = np.maximum(
        0.0, np.array([[value - low, high - value] for (low, high), value in zip(ends, found, strict=True)])
    ).T
    axes.errorbar(
        np.array(places) + shift,
        found,
        yerr=widths,
        color=color,
        marker=marker,
        markersize=5,
        markerfacecolor=color if filled else "white",
        linestyle="",
        linewidth=1.2,
        capsize=2,
        label=label or kind,
    )
