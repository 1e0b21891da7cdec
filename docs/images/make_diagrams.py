"""Draw the pictures of the architecture page, `data-flow.svg` and `layers.svg`: `python docs/images/make_diagrams.py`.

Boxes have their own colours and lines are a medium grey, so that both are legible on light and on dark pages.
"""

from html import escape
from pathlib import Path

HERE = Path(__file__).parent
LINE, INK, NOTE = "#7d8590", "#111827", "#374151"
OUTSIDE, DATA, FEATURE, MODEL, SERVING, MONITORING = "#e5e7eb", "#bae6fd", "#bbf7d0", "#ddd6fe", "#fde68a", "#fecaca"

Point = tuple[int, int]


def picture(title: str, width: int, height: int, parts: list[str]) -> str:
    """Return the SVG document around ``parts``."""
    tip = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 8 4 0 8Z" fill="{LINE}"/></marker></defs>'
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" text-anchor="middle">'
    )
    return "\n".join([head, f"<title>{escape(title)}</title>", tip, *parts, "</svg>", ""])


def box(x: int, y: int, width: int, height: int, name: str, note: str, colour: str, *, dashed: bool = False) -> str:
    """Return a box with a name and, below it, one or two lines of note (separated by |)."""
    dash = ' stroke-dasharray="4 4"' if dashed else ""
    notes = note.split("|") if note else []
    top = y + height / 2 - 7 * len(notes) + 5
    lines = [f'<text x="{x + width / 2}" y="{top}" font-size="13" font-weight="600" fill="{INK}">{escape(name)}</text>']
    lines += [
        f'<text x="{x + width / 2}" y="{top + 15 * (place + 1)}" font-size="11.5" fill="{NOTE}">{escape(each)}</text>'
        for place, each in enumerate(notes)
    ]
    frame = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{colour}" stroke="{LINE}"{dash}/>'
    return frame + "".join(lines)


def arrow(*points: Point, dashed: bool = False) -> str:
    """Return a line through ``points`` with an arrowhead at its end."""
    path = "M" + " L".join(f"{x} {y}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<path d="{path}" fill="none" stroke="{LINE}" stroke-width="1.6" marker-end="url(#tip)"{dash}/>'


def label(x: int, y: int, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x}" y="{y}" font-size="11.5" fill="{LINE}" text-anchor="{anchor}">{escape(text)}</text>'


def data_flow() -> str:
    width, height = 160, 62
    columns = [20 + place * 200 for place in range(5)]
    top, middle, bottom = 40, 170, 300

    def at(column: int, y: int, name: str, note: str, colour: str, *, dashed: bool = False) -> str:
        return box(columns[column], y, width, height, name, note, colour, dashed=dashed)

    def across(column: int, y: int, *, back: bool = False) -> str:
        left, right = columns[column] + width, columns[column + 1]
        line = y + height // 2
        return arrow((right, line), (left, line)) if back else arrow((left, line), (right, line))

    def down(column: int, y: int) -> str:
        x = columns[column] + width // 2
        return arrow((x, y + height), (x, y + 130))

    parts = [
        at(0, top, "landed files", "from outside|one per partition", OUTSIDE, dashed=True),
        at(1, top, "datasets/<name>", "contract checked|versioned table", DATA),
        at(2, top, "features/<view>", "change log: facts|with known_at", FEATURE),
        at(3, top, "training_set", "facts as of|each prediction time", MODEL),
        at(4, top, "candidate_<trainer>", "MLflow run|registered version", MODEL),
        at(4, middle, "evaluation", "gates: checks|PROMOTE, HOLD, REJECT", MODEL),
        at(3, middle, "model_card", "page for people,|written before approval", MODEL),
        at(2, middle, "champion", "verdict verified again|alias moved, audit record", MODEL),
        at(2, bottom, "bento", "BentoML service|smoke test: equal scores", SERVING),
        at(3, bottom, "rollout", "desired state|Envoy weights", SERVING),
        at(4, bottom, "endpoint", "POST|/v1/<model>/predict", OUTSIDE, dashed=True),
        at(1, bottom, "predictions", "log of requests,|features, scores", MONITORING),
        at(0, bottom, "outcomes", "predictions joined|with labels", MONITORING),
        at(0, middle, "performance", "realised metrics|against expectation", MONITORING),
        at(1, middle, "drift", "month against|the months before", MONITORING),
    ]
    flow = [across(column, top) for column in range(4)]
    flow += [down(4, top), across(3, middle, back=True), across(2, middle, back=True), down(2, middle)]
    flow += [across(2, bottom), across(3, bottom), across(0, bottom, back=True)]
    flow.append(arrow((columns[0] + 80, bottom), (columns[0] + 80, middle + height)))
    # Serving reads the online snapshot of the same change log. The service logs its predictions.
    end = columns[4] + 80
    flow.append(arrow((end, bottom + height), (end, 400), (columns[1] + 80, 400), (columns[1] + 80, bottom + height)))
    flow.append(label(560, 416, "the service logs each prediction with the features that it used"))
    flow.append(
        arrow(
            (columns[2] + 80, top),
            (columns[2] + 80, 16),
            (996, 16),
            (996, bottom + 31),
            (980, bottom + 31),
            dashed=True,
        )
    )
    flow.append(label(720, 30, "online snapshot of the change log"))
    flow.append(
        arrow(
            (columns[3] + 40, top + height), (columns[3] + 40, 136), (columns[1] + 80, 136), (columns[1] + 80, middle)
        )
    )
    return picture("Data flow: from landed files to the endpoint, and back as outcomes", 1010, 430, flow + parts)


LAYERS: list[list[tuple[str, str]]] = [
    [("assets", "declarations of the teams: one folder per domain")],
    [
        ("components", "Dagster assets, checks, sensors"),
        ("console, cli", "ml-platform …"),
        ("definitions", "the entry point for dg"),
    ],
    [("steps", "the steps of a model, without Dagster")],
    [("resources", "backing services, the home, addresses")],
    [
        ("training", "trainers, tuning"),
        ("evaluation", "metrics, gates"),
        ("registry", "versions, audit"),
        ("serving", "bentos, gateway"),
        ("monitoring", "drift, outcomes"),
    ],
    [("features", "feature views, point-in-time join, online store")],
    [("data", "lake tables, contracts, landing, partitions")],
    [("state", "the state store: transactions, migrations, locks")],
]
COLOURS = [OUTSIDE, "#c7d2fe", MODEL, SERVING, MODEL, FEATURE, DATA, OUTSIDE]


def layers() -> str:
    width, gap, height = 900, 10, 56
    parts = []
    for row, (members, colour) in enumerate(zip(LAYERS, COLOURS, strict=True)):
        each = (width - gap * (len(members) - 1)) // len(members)
        y = 14 + row * (height + 18)
        parts += [
            box(14 + place * (each + gap), y, each, height, name, note, colour)
            for place, (name, note) in enumerate(members)
        ]
    bottom = 14 + len(LAYERS) * (height + 18) - 18
    parts.append(arrow((946, 20), (946, bottom - 4)))
    parts.append(
        f'<text x="966" y="{bottom // 2}" font-size="12.5" fill="{LINE}" transform="rotate(90 966 {bottom // 2})">an import goes down only</text>'
    )
    parts.append(
        label(
            14,
            bottom + 24,
            "bento (the service that apps call) imports the request part of features and the request contract of serving, and nothing else of the engine.",
            "start",
        )
    )
    return picture("Layers: an import goes down only", 990, bottom + 40, parts)


PICTURES = {"data-flow.svg": data_flow, "layers.svg": layers}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (HERE / name).write_text(draw())
