"""Scores the partitions of a table with the version that the endpoint serves, for users who read tables.

The served bento is verified as before a start of its service, and its answers to past rows rest on the facts of their
time. A partition that is scored again is replaced as a whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from ml_platform.data.canonical import value_digest
from ml_platform.data.lake import PARTITION, Lake, TableVersion
from ml_platform.errors import PlatformError, listed
from ml_platform.serving.in_process import ServedModel
from ml_platform.serving.scored_table import DEGRADED, RefusedRow, score_table
from ml_platform.steps.model import BoundModel
from ml_platform.steps.platform_stores import PlatformStores


class ScoredRowsError(PlatformError):
    """Raised when the rows to score lack columns."""


@dataclass(frozen=True)
class ScoredPartition:
    """The scores of one partition; ``table`` is None when no row could be scored, and nothing is stored."""

    partition: str | None
    version: str
    table_name: str | None
    table: TableVersion | None
    degraded: int
    refused: int
    refusals: list[RefusedRow]


def scores_tables(model: str) -> str:
    """Return the beginning of the names of the tables with the scores of ``model``."""
    return f"models/{model}/scores/"


def score_partitions(
    model: BoundModel, partitions: Sequence[str | None], stores: PlatformStores, at: datetime
) -> list[ScoredPartition]:
    """Score each of ``partitions`` of the declared dataset, and store the answers in place of earlier ones.

    None stands for a dataset without partitions; ``at`` is the present. All partitions get the version that serves when
    the first one is read. Raises :class:`ScoredRowsError` for rows without a needed column, the errors of
    :meth:`~ml_platform.serving.in_process.ServedModel.in_home`, and those of the lake.
    """
    served = ServedModel.in_home(model.name, stores.home.root, stores.state, online=stores.online_store.location)
    logs = served.predictor.features.logs(stores.lake)
    earlier = [name for name in stores.lake.catalog.tables() if name.startswith(scores_tables(model.name))]
    found = []
    for partition in partitions:
        scored = score_table(served, _rows_to_score(model, partition, stores.lake), logs, at, model.scored_columns)
        name = _table_of(model, scored.rows.schema) if scored.rows.height else None
        _drop_partition([each for each in earlier if each != name], partition, stores.lake)
        table = None if name is None else stores.lake.write(name, scored.rows, partition)
        degraded = int(scored.rows[DEGRADED].sum()) if scored.rows.height else 0
        found.append(ScoredPartition(partition, served.version, name, table, degraded, scored.refused, scored.refusals))
    return found


def _table_of(model: BoundModel, schema: pl.Schema) -> str:
    """Return the table of scores with the columns ``schema``: answers of another task have other columns."""
    return scores_tables(model.name) + value_digest([[name, str(dtype)] for name, dtype in schema.items()])[:12]


def _drop_partition(tables: Sequence[str], partition: str | None, lake: Lake) -> None:
    """Drop the scores of ``partition`` from ``tables``, which have other columns, so that each row occurs once."""
    for name in tables:
        if partition is None:
            dropped = sorted({each.partition for each in lake.catalog.segments(name, with_files=False)})
        else:
            dropped = [partition]
        lake.drop_partitions(name, dropped)


def _rows_to_score(model: BoundModel, partition: str | None, lake: Lake) -> pl.DataFrame:
    dataset = model.scored.dataset
    source = lake.scan(f"datasets/{dataset}", partitions=None if partition is None else [partition])
    rows = model.scored_rows_function({dataset: source.drop(PARTITION, strict=False)})
    columns = list(dict.fromkeys([*model.contract.dtypes, *model.scored_columns]))
    known = rows.collect_schema().names()
    absent = [name for name in columns if name not in known]
    if absent:
        raise ScoredRowsError(
            f"Rows to score of '{model.name}'",
            expected=f"the columns {listed(absent)}",
            found=f"only {listed(known, 20)}",
            fix="Return them from scores.function, or correct scores.keep in the model's defs.yaml.",
        )
    return rows.select(columns).collect()
