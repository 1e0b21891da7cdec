"""Why this score: the features of one row, each with its view and the time at which it became known."""

import json
from datetime import datetime

import polars as pl
from rich.console import Console
from rich.table import Table

from ml_platform.features.explain import Explained
from ml_platform.features.view import PREDICT_AT
from resources.home import Home


def explained(home: Home, model: str, row: str, as_of: str) -> list[Explained]:
    """Return the features of ``row`` (JSON of the request fields) as served now, or as the logs knew them ``as_of``.

    Raises what the endpoint raises for a row that breaks the contract.
    """
    from ml_platform.components.loading import bound_model
    from ml_platform.data.lake import Lake
    from ml_platform.features.explain import explain_as_of, explain_online
    from ml_platform.features.snapshot import SnapshotStore

    bound = bound_model(model)
    request = bound.contract.validate(b'{"rows": [' + row.encode() + b"]}").frame()
    timed = request.with_columns(bound.declared.prediction_time.expression())
    if not as_of:
        return explain_online(bound.feature_set, timed, SnapshotStore(home.online))
    at = datetime.fromisoformat(as_of)
    timed = timed.with_columns(pl.lit(at).dt.convert_time_zone("UTC").dt.cast_time_unit("us").alias(PREDICT_AT))
    return explain_as_of(bound.feature_set, timed, bound.feature_set.logs(Lake(str(home.lake))))


def show(found: list[Explained], console: Console) -> None:
    """Print one line per feature."""
    table = Table("feature", "value", "unit", "known at", "description")
    for each in found:
        known = f"{each.known_at:%Y-%m-%d %H:%MZ}" if each.known_at else ""
        value = f"{each.value:.4g}" if isinstance(each.value, float) else json.dumps(each.value, default=str)
        table.add_row(each.feature, value, each.unit, known, each.description)
    console.print(table)
