"""`ml-platform compare`: two versions of a model side by side."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ml_platform.evaluation.version_comparison import Change, MetricComparison, VersionComparison, VersionSummary
from resources.home import Home

if TYPE_CHECKING:
    from ml_platform.evaluation.bootstrap import Difference, Interval

SHOWN_FEATURES, SHOWN_SLICES, SHOWN_NAMES = 10, 8, 12
"""Features of the importance, slices, and names of added or removed features that the terminal shows."""


def comparison(home: Home, model: str, first: int, second: int) -> VersionComparison:
    """Return the comparison of version ``second`` of ``model`` with version ``first``.

    Raises :class:`~ml_platform.components.loading.DeclarationUnknownError` for an unknown model, and
    :class:`~ml_platform.registry.models.ModelError` for an unknown version.
    """
    from ml_platform.components.loading import bound_model
    from ml_platform.components.stores import open_home_stores
    from ml_platform.steps.own_features import bento_finder
    from ml_platform.steps.packaging import model_directory
    from ml_platform.steps.version_comparison import compare_versions

    bound, stores = bound_model(model), open_home_stores(home)
    registry = stores.registry
    return compare_versions(
        bound,
        registry.version(bound.name, first),
        registry.version(bound.name, second),
        registry=registry,
        lake=stores.lake,
        audit=stores.audit,
        directory_of=lambda version: model_directory(version, stores),
        bento_of=lambda version: bento_finder(version, home, stores.state)(),
    )


def show(found: VersionComparison, console: Console) -> None:
    """Print the comparison: both versions, metrics, slices, importance, and what else differs."""
    console.print(
        Text(f"{found.model}: version {found.first.version} and version {found.second.version}", style="bold")
    )
    _print(_sides(found.first, found.second), console)
    if found.rows is None:
        console.print(Text(f"\n{found.not_paired}"), highlight=False)
    else:
        rows = found.rows
        unit = f"{rows.blocks} blocks of the unit '{rows.unit}'"
        console.print(Text(f"\nOn {rows.rows:,} test rows of {rows.partition}, which neither was fitted on ({unit})"))
        titles = f"version {found.first.version}", f"version {found.second.version}"
        _print(metrics_table(found.metrics, *titles), console)
    if found.slices:
        console.print(Text(f"\nSlices where version {found.second.version} is weakest, by {found.slice_metric}"))
        _print(_slices(found), console)
    console.print(Text(f"\nImportance of features (share), {_feature_changes(found)}"), highlight=False)
    _print(_importance(found), console)
    for title, changes in (("Settings", found.settings), ("Data and code", found.data), ("Libraries", found.libraries)):
        if changes:
            console.print(Text(f"\n{title} that differ"))
            _print(_changes(changes, found), console)


def metrics_table(metrics: Sequence[MetricComparison], first: str, second: str) -> Table:
    """Return the table of ``metrics`` with their intervals; ``first`` and ``second`` are the titles of the sides."""
    table = Table(box=None, pad_edge=False)
    for title in ("metric", first, second, "improvement", ""):
        table.add_column(title)
    for each in metrics:
        table.add_row(
            f"{each.metric} {'↑' if each.higher_is_better else '↓'}",
            _ends(each.first),
            _ends(each.second),
            _ends(each.improvement, sign=True),
            _verdict(each),
        )
    return table


def _print(table: Table, console: Console) -> None:
    console.print(Padding(table, (0, 0, 0, 2), expand=False), highlight=False)


def _table(found: VersionComparison, name: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in (name, f"version {found.first.version}", f"version {found.second.version}"):
        table.add_column(title)
    return table


def _sides(first: VersionSummary, second: VersionSummary) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row(Text("version", style="dim"), str(first.version), str(second.version))
    for name, values in side_rows(first, second).items():
        table.add_row(Text(name, style="dim"), *values)
    return table


def side_rows(first: VersionSummary, second: VersionSummary) -> dict[str, list[str]]:
    """Return what both versions were made of, as the texts of two columns by the title of their row."""
    sides = (first, second)
    return {
        "decision": [each.decision or "not judged" for each in sides],
        "trainer": [each.trainer for each in sides],
        "data": [f"{each.first_partition or 'first partition'} to {each.partition}" for each in sides],
        "training set": [f"{each.training_rows:,} rows" for each in sides],
        "features": [str(len(each.features)) for each in sides],
        "made": [f"{datetime.fromisoformat(each.created_at):%Y-%m-%d %H:%M}" for each in sides],
        "fit": [_usage(each) for each in sides],
    }


def _usage(side: VersionSummary) -> str:
    if "wall_seconds" not in side.usage:
        return "not recorded"
    cost = f", cost {side.usage['cost']:.4f}" if "cost" in side.usage else ""
    return f"{side.usage['wall_seconds']:.1f} s{cost} ({side.device})"


def _verdict(each: MetricComparison) -> str:
    if each.improvement is None:
        return ""
    if not each.differs:
        return "open"
    return "better" if each.improvement.value > 0 else "worse"


def _slices(found: VersionComparison) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("slice", "rows", "improvement", ""):
        table.add_column(title)
    for each in found.slices[:SHOWN_SLICES]:
        proven = "proven worse" if each.proven_worse else ""
        improvement = _ends(each.difference, sign=True).replace("\n", "  ")
        table.add_row(f"{each.column} {each.value}", f"{each.rows:,}", improvement, proven)
    return table


def _importance(found: VersionComparison) -> Table:
    table = _table(found, "feature")
    for each in found.importance[:SHOWN_FEATURES]:
        table.add_row(
            each.name, *("not used" if share is None else f"{share:.3f}" for share in (each.first, each.second))
        )
    return table


def _changes(changes: Sequence[Change], found: VersionComparison) -> Table:
    table = _table(found, "")
    for each in changes:
        table.add_row(each.name, *("none" if value is None else str(value) for value in (each.first, each.second)))
    return table


def _feature_changes(found: VersionComparison) -> str:
    parts = [
        f"{len(names)} {word} ({', '.join(names[:SHOWN_NAMES])}{' …' if len(names) > SHOWN_NAMES else ''})"
        for word, names in (("added", found.added_features), ("removed", found.removed_features))
        if names
    ]
    return "; ".join(parts) or "none added or removed"


def _ends(found: "Interval | Difference | None", *, sign: bool = False) -> str:
    if found is None:
        return "none"
    form = "+" if sign else ""
    value, low, high = (each + 0.0 for each in (found.value, found.low, found.high))  # -0.0 becomes 0.0
    return f"{value:{form}.4f}\n{low:{form}.3f} to {high:{form}.3f}"
