"""`ml-platform features show`: the features of one row, with value, unit, view and the time they became known."""

import json
from datetime import UTC, datetime
from itertools import groupby

import polars as pl
from rich.console import Console
from rich.text import Text

from ml_platform.data.names import short_name
from ml_platform.features.explain import FeatureExplanation
from ml_platform.features.view import PREDICT_AT
from resources.home import Home

DESCRIPTION_WIDTH = 50
"""Columns that a description needs beside its value; with fewer it is printed on the next line."""


def feature_values(home: Home, model: str, row: str, as_of: datetime | None) -> list[FeatureExplanation]:
    """Return the features of ``row`` (JSON of the request fields) as served now, or from the change logs ``as_of``.

    A row that violates the contract raises the same error as at the endpoint.
    """
    from ml_platform.components.loading import bound_model
    from ml_platform.features.explain import explain_as_of, explain_online
    from resources.home_lake import open_lake
    from resources.online_store import OnlineStoreResource

    bound = bound_model(model)
    request = bound.contract.validate(b'{"rows": [' + row.encode() + b"]}").frame()
    rule = bound.declared.prediction_time
    now = pl.lit(datetime.now(UTC)).dt.cast_time_unit("us").alias(PREDICT_AT)
    timed = request.with_columns(now if rule is None else rule.expression())
    if as_of is None:
        return explain_online(bound.feature_set, timed, OnlineStoreResource.for_home(home).store())
    at = pl.lit(as_of).dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    return explain_as_of(
        bound.feature_set, timed.with_columns(at.alias(PREDICT_AT)), bound.feature_set.logs(open_lake(home))
    )


def show(found: list[FeatureExplanation], console: Console) -> None:
    """Print the features grouped by view: name, value and description, which wraps to the next line if necessary."""
    names = {each.feature: each.feature.removeprefix(f"{short_name(each.view)}__") for each in found}
    values = {each.feature: _value(each) for each in found}
    name_width = max((len(name) for name in names.values()), default=0)
    value_width = max((len(value) for value in values.values()), default=0)
    for view, features in groupby(found, key=lambda each: each.view):
        together = list(features)
        known = next((each.known_at for each in together if each.known_at), None)
        console.print(Text.assemble((view, "bold"), f"  known {known:%Y-%m-%d %H:%MZ}" if known else ""))
        for each in together:
            line = f"  {names[each.feature]:<{name_width}}  {values[each.feature]:<{value_width}}"
            fits = console.width - len(line) - 2 >= max(DESCRIPTION_WIDTH, len(each.description))
            description = Text("  " if fits else "\n      ").append(each.description, style="dim")
            console.print(Text(line if fits else line.rstrip()) + description, soft_wrap=True)


def _value(each: FeatureExplanation) -> str:
    value = f"{each.value:.4g}" if isinstance(each.value, float) else json.dumps(each.value, default=str)
    return value if each.value is None else f"{value} {each.unit}".rstrip()
