"""Charts of the pages as inline SVG: a series with its intervals, and the colours of a heat map.

A page has dozens of charts. As text of a few hundred bytes each they cost no library in the browser and no image.
"""

from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from ml_platform.console.site.model_overview import QualityPoint, QualitySeries
from ml_platform.evaluation.reliability import ReliabilityBin
from ml_platform.evaluation.version_comparison import Reliability

WIDTH, HEIGHT, MARGIN, SQUARE = 320, 96, 6, 240
LABEL_WIDTH = 34
"""Room at the right edge for the smallest and the largest value."""

ESTIMATE_SHIFT = 4
"""Distance of an estimate from the realised value of its period."""

HEAT_STEPS = 5
"""Number of colours of a heat map."""


def quality_chart(series: QualitySeries) -> Markup:
    """Return the promised values as a line over the band of their intervals, and estimated and realised ones as dots.

    All share the vertical axis. The horizontal places of promised values are their own: the first value is at the left
    edge, the last one at the right edge, and so are the first and the last period of the others.
    """
    bounds = [value for each in (*series.promised, *series.estimated, *series.realised) for value in _extent(each)]
    if not bounds:
        return Markup("")
    low, high = min(bounds), max(bounds)
    promised = _places(series.promised, low, high)
    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{} over time">').format(
            WIDTH, HEIGHT, series.metric
        )
    ]
    if len(series.promised) > 1:
        upper = [f"{x:.1f},{_height(_upper(each), low, high):.1f}" for (x, _), each in _paired(promised, series)]
        lower = [f"{x:.1f},{_height(_lower(each), low, high):.1f}" for (x, _), each in _paired(promised, series)]
        parts.append(Markup('<polygon class="band" points="{}"/>').format(" ".join([*upper, *reversed(lower)])))
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in promised)
        parts.append(Markup('<polyline class="line" points="{}"/>').format(line))
    for (x, y), each in _paired(promised, series):
        if len(series.promised) == 1:
            bar = (_height(_upper(each), low, high), _height(_lower(each), low, high))
            parts.append(Markup('<line class="bar" x1="{0}" x2="{0}" y1="{1:.1f}" y2="{2:.1f}"/>').format(x, *bar))
        parts.append(_dot("promised", x, y, f"{each.label}: {_text(each)}"))
    for kind, points in (("estimated", series.estimated), ("realised", series.realised)):
        for x, y, each in _places_by_period(points, series, low, high):
            if each.low is not None:
                bar = (_height(_upper(each), low, high), _height(_lower(each), low, high))
                ends = f'x1="{x:.1f}" x2="{x:.1f}" y1="{bar[0]:.1f}" y2="{bar[1]:.1f}"'
                parts.append(Markup(f'<line class="of-{kind}" {ends}/>'))
            doubts = ", labels with doubts" if each.is_doubtful else ""
            name = f"{kind} doubtful" if each.is_doubtful else kind
            parts.append(_dot(name, x, y, f"{each.label}, {kind}: {_text(each)}{doubts}"))
    return Markup("").join([*parts, *_ends_of_axis(low, high), Markup("</svg>")])


def reliability_chart(found: Reliability) -> Markup:
    """Return the observed share by predicted probability of two versions, with the diagonal of perfect calibration."""
    bins = [*found.first, *found.second]
    top = max((max(each.predicted, each.observed) for each in bins), default=1.0) or 1.0

    def place(each: ReliabilityBin) -> tuple[float, float]:
        return MARGIN + (WIDTH - 2 * MARGIN) * each.predicted / top, SQUARE - MARGIN - _share(each.observed / top)

    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="calibration of {}">').format(
            WIDTH, SQUARE, found.name
        ),
        Markup('<line class="diagonal" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
            MARGIN, SQUARE - MARGIN, WIDTH - MARGIN, MARGIN
        ),
    ]
    for kind, side in (("promised", found.first), ("realised", found.second)):
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, side))
        parts.append(Markup('<polyline class="line of-{}" points="{}"/>').format(kind, line))
        parts += [
            _dot(kind, *place(each), f"predicted {each.predicted:.3f}, observed {each.observed:.3f}") for each in side
        ]
    return Markup("").join([*parts, Markup("</svg>")])


def lines_chart(metric: str, labels: Sequence[str], lines: Mapping[str, Sequence[float | None]]) -> Markup:
    """Return one line for each of ``lines`` (name → a value per label, None: a gap) on a shared vertical axis.

    The lines take the colours of `line-0`, `line-1` and so on in their order.
    """
    known = [value for line in lines.values() for value in line if value is not None]
    if not known:
        return Markup("")
    low, high = min(known), max(known)
    step = (WIDTH - LABEL_WIDTH - 2 * MARGIN) / max(1, len(labels) - 1)
    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{} by policy">').format(
            WIDTH, HEIGHT, metric
        )
    ]
    for place, (name, line) in enumerate(lines.items()):
        points = [
            (MARGIN + step * at, _height(value, low, high), f"{name}, {label}: {value:.4f}")
            for at, (label, value) in enumerate(zip(labels, line, strict=True))
            if value is not None
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
        parts.append(Markup('<polyline class="line line-{}" points="{}"/>').format(place, path))
        parts += [_dot(f"dot-{place}", x, y, title) for x, y, title in points]
    return Markup("").join([*parts, *_ends_of_axis(low, high), Markup("</svg>")])


def _ends_of_axis(low: float, high: float) -> list[Markup]:
    """Return the smallest and the largest value at the right edge."""
    text = Markup('<text x="{}" y="{}">{:.3g}</text>')
    return [text.format(WIDTH, y, value) for value, y in ((high, MARGIN + 6), (low, HEIGHT - 2))]


def _share(share: float) -> float:
    return (SQUARE - 2 * MARGIN) * share


def heat(ratio: float | None) -> int:
    """Return the step of the heat map, from 0 for no change to :data:`HEAT_STEPS` from the limit on; None: 0.

    ``ratio`` is the effect of a column divided by its limit.
    """
    return 0 if ratio is None else min(HEAT_STEPS, int(HEAT_STEPS * max(0.0, ratio)))


def _paired(
    places: Sequence[tuple[float, float]], series: QualitySeries
) -> list[tuple[tuple[float, float], QualityPoint]]:
    return list(zip(places, series.promised, strict=True))


def _places(points: Sequence[QualityPoint], low: float, high: float) -> list[tuple[float, float]]:
    if len(points) == 1:
        return [((WIDTH - LABEL_WIDTH) / 2, _height(points[0].value, low, high))]
    step = (WIDTH - LABEL_WIDTH - 2 * MARGIN) / max(1, len(points) - 1)
    return [(MARGIN + step * at, _height(each.value, low, high)) for at, each in enumerate(points)]


def _places_by_period(
    points: Sequence[QualityPoint], series: QualitySeries, low: float, high: float
) -> list[tuple[float, float, QualityPoint]]:
    """Return the place of each point by the position of its period; estimates stand a little left of it."""
    labels = list(series.periods or [each.label for each in series.realised])
    step = (WIDTH - LABEL_WIDTH - 2 * MARGIN) / max(1, len(labels) - 1)
    shift = -ESTIMATE_SHIFT if points is series.estimated else 0.0
    places = {label: MARGIN + step * at for at, label in enumerate(labels)}
    if len(labels) == 1:
        places = {labels[0]: (WIDTH - LABEL_WIDTH) / 2}
    return [(places[each.label] + shift, _height(each.value, low, high), each) for each in points]


def _height(value: float, low: float, high: float) -> float:
    """Return the distance from the top of the chart; a single value is in the middle."""
    share = (value - low) / (high - low) if high > low else 0.5
    return MARGIN + (HEIGHT - 2 * MARGIN) * (1 - share)


def _extent(point: QualityPoint) -> tuple[float, float]:
    return _lower(point), _upper(point)


def _lower(point: QualityPoint) -> float:
    return point.value if point.low is None else point.low


def _upper(point: QualityPoint) -> float:
    return point.value if point.high is None else point.high


def _text(point: QualityPoint) -> str:
    if point.low is None or point.high is None:
        return f"{point.value:.4f}"
    return f"{point.value:.4f} ({point.low:.4f} to {point.high:.4f})"


def _dot(kind: str, x: float, y: float, title: str) -> Markup:
    # `Markup.format` takes ten times as long, and a home page has thousands of dots. Only the title is foreign text.
    return Markup(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(title)}</title></circle>')
