"""Draw `asset-graph.svg`, the picture in the README, from the definitions: `make picture`.

Every asset is a box, and its column is its distance from the landed files. A folder of many assets is one box. Assets
after the champion run back in the lowest rows, from right to left.
"""

import sys
from collections import defaultdict
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

SVG_PATH = Path(__file__).with_name("asset-graph.svg")
MODEL = "departure_risk"
COLLAPSED_FOLDER = "features"
LANDED, ENDPOINT, CHAMPION = "landed files", "endpoint", "champion"
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 150, 46, 22, 16, 18
COLOURS = {"datasets": "#e0f2fe", COLLAPSED_FOLDER: "#dcfce7", "platform": "#f3f4f6", "": "#f3f4f6"}
MODEL_COLOUR = "#ede9fe"


@dataclass
class Box:
    """One box: an asset, a folder of assets, or a part outside of the graph, such as the endpoint."""

    name: str
    folder: str
    note: str = ""
    inputs: set[str] = field(default_factory=set)
    column: int = 0
    row: int = 0

    @property
    def x(self) -> int:
        return MARGIN + self.column * (WIDTH + GAP_X)

    @property
    def y(self) -> int:
        return MARGIN + self.row * (HEIGHT + GAP_Y)


def asset_boxes(graph: BaseAssetGraph[Any]) -> dict[str, Box]:
    """Return the boxes by key: assets with their inputs, the landed files and the endpoint."""
    boxes = {LANDED: Box(LANDED, "", "from outside")}
    drawn = dg.AssetSelection.groups(MODEL).upstream().resolve(graph)
    nodes = [node for node in graph.asset_nodes if node.key in drawn or node.key.path[0] == "platform"]
    for node in sorted(nodes, key=lambda node: node.key):
        key, folder = _box_of(node.key), node.key.path[0]
        box = boxes.setdefault(key, Box(node.key.path[-1] if "/" in key else folder, folder))
        box.inputs |= {_box_of(parent) for parent in node.parent_keys} - {key}
        checks = len(node.check_keys)
        if key != COLLAPSED_FOLDER:
            box.note = " · ".join([*sorted(node.kinds), *([f"{checks} checks"] if checks > 1 else [])])
        if folder == "datasets":
            box.inputs.add(LANDED)
    count = sum(node.key.path[0] == COLLAPSED_FOLDER for node in nodes)
    boxes[COLLAPSED_FOLDER].note = f"{count} feature views"
    rolled_out = next(key for key in boxes if key.endswith("/rollout"))
    boxes[ENDPOINT] = Box(ENDPOINT, "", f"POST /v1/{boxes[rolled_out].folder}/…", {rolled_out})
    boxes[rolled_out.replace("rollout", "predictions")].inputs.add(ENDPOINT)
    return boxes


def assign_positions(boxes: dict[str, Box]) -> None:
    """Set column and row of each box: up to the champion in the upper rows, after it in the lowest rows."""
    champion = next(key for key in boxes if key.endswith(f"/{CHAMPION}"))
    after = _downstream(boxes, champion)
    datasets = {key for key, box in boxes.items() if box.folder == "datasets"}
    for key in boxes.keys() - after:
        boxes[key].column = _longest_path(boxes, key, datasets)
    champion_column = boxes[champion].column
    for key in after:
        boxes[key].column = champion_column + 1 - (_longest_path(boxes, key, datasets) - champion_column)
    used_rows: defaultdict[int, int] = defaultdict(int)
    for key in _by_downstream_count(boxes, boxes.keys() - after):
        boxes[key].row = used_rows[boxes[key].column]
        used_rows[boxes[key].column] += 1
    lowest = max(used_rows.values())
    used_rows.clear()
    for key in _by_downstream_count(boxes, after):
        boxes[key].row = lowest - used_rows[boxes[key].column]
        used_rows[boxes[key].column] += 1


def render_svg(boxes: dict[str, Box]) -> str:
    """Return the picture as SVG."""
    width = 2 * MARGIN + (max(box.column for box in boxes.values()) + 1) * (WIDTH + GAP_X) - GAP_X
    height = 2 * MARGIN + (max(box.row for box in boxes.values()) + 1) * (HEIGHT + GAP_Y) - GAP_Y
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="system-ui, sans-serif" text-anchor="middle">',
        "<title>The asset graph</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8Z" fill="#6b7280"/></marker></defs>',
        f'<rect width="{width}" height="{height}" rx="10" fill="#ffffff"/>',
    ]
    lines += [_edge(boxes[key], box, boxes) for box in boxes.values() for key in sorted(box.inputs)]
    lines += [_box(box) for box in boxes.values()]
    return "\n".join([*lines, "</svg>", ""])


def _by_downstream_count(boxes: dict[str, Box], keys: set[str]) -> list[str]:
    """Return ``keys`` by number of downstream boxes, the largest first, then by name."""
    return sorted(keys, key=lambda key: (-len(_downstream(boxes, key)), key))


def _box_of(key: dg.AssetKey) -> str:
    return COLLAPSED_FOLDER if key.path[0] == COLLAPSED_FOLDER else "/".join(key.path)


def _downstream(boxes: dict[str, Box], start: str) -> set[str]:
    reached, ahead = set(), [start]
    while ahead:
        key = ahead.pop()
        nexts = {each for each, box in boxes.items() if key in box.inputs} - reached
        reached |= nexts
        ahead += nexts
    return reached


def _longest_path(boxes: dict[str, Box], key: str, level: set[str]) -> int:
    """Return the length of the longest path to ``key``; all keys of ``level`` share one column."""
    if key in level:
        return 1
    return max((_longest_path(boxes, each, level) + 1 for each in boxes[key].inputs), default=0)


def _edge(start: Box, end: Box, boxes: dict[str, Box]) -> str:
    dashed = ' stroke-dasharray="4 4"' if ENDPOINT in (start.name, end.name) else ""
    if start.column == end.column:
        side = start.x + WIDTH
        if abs(start.row - end.row) == 1:
            down = start.row < end.row
            x = start.x + WIDTH // 2
            points = [(x, start.y + (HEIGHT if down else 0)), (x, end.y + (0 if down else HEIGHT))]
        else:
            middle = [start.y + HEIGHT // 2, end.y + HEIGHT // 2]
            points = [(side, middle[0]), (side + 9, middle[0]), (side + 9, middle[1]), (side, middle[1])]
    else:
        forth = start.column < end.column
        x1, x2 = (start.x + WIDTH, end.x) if forth else (start.x, end.x + WIDTH)
        y1, y2 = start.y + HEIGHT // 2, end.y + HEIGHT // 2
        bend = x1 + (GAP_X // 2 if forth else -GAP_X // 2)
        points = [(x1, y1), (bend, y1), (bend, y2), (x2, y2)]
        if any(box.row == end.row and start.column < box.column < end.column for box in boxes.values()):
            # Boxes of this row are between start and end: use the gap above the row.
            lane, before = end.y - GAP_Y // 2, x2 - GAP_X // 2
            points = [(x1, y1), (bend, y1), (bend, lane), (before, lane), (before, y2), (x2, y2)]
    path = " ".join(f"{'M' if at == 0 else 'L'}{x} {y}" for at, (x, y) in enumerate(points))
    return f'<path d="{path}" fill="none" stroke="#6b7280" stroke-width="1.2" marker-end="url(#tip)"{dashed}/>'


def _box(box: Box) -> str:
    fill = COLOURS.get(box.folder, MODEL_COLOUR)
    dashed = ' stroke-dasharray="4 4"' if not box.folder else ""
    x, y = box.x + WIDTH // 2, box.y
    return (
        f'<rect x="{box.x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="7" fill="{fill}" stroke="#9ca3af"{dashed}/>'
        f'<text x="{x}" y="{y + 20}" font-size="12.5" font-weight="600" fill="#111827">{escape(box.name)}</text>'
        f'<text x="{x}" y="{y + 36}" font-size="10" fill="#4b5563">{escape(box.note)}</text>'
    )


def asset_graph_svg() -> str:
    """Return the picture of the current definitions as SVG."""
    from ml_platform.definitions import defs

    boxes = asset_boxes(defs().resolve_asset_graph())
    assign_positions(boxes)
    return render_svg(boxes)


if __name__ == "__main__":
    SVG_PATH.write_text(asset_graph_svg())
    print(f"{SVG_PATH.name} drawn.", file=sys.stderr)
